#include "server/http_parser.h"

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <cctype>
#include <string>
#include <utility>

#include "base/strings.h"

namespace slipstream {
namespace {

namespace http = boost::beast::http;
using boost::beast::string_view;
using boost::system::error_code;

// A chunk's header line, or all trailers: they carry nothing we use.
constexpr size_t kMaxChunkLineBytes = 4096;

bool is_token_char(char c) {
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return true;
  return std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  }
  return lower;
}

bool all_of(std::string_view text, bool (*is_allowed)(char)) {
  return std::all_of(text.begin(), text.end(), is_allowed);
}

// host [":" port]: a name, an IPv4 address, or an IPv6 address in brackets. No user, no path.
bool is_host(std::string_view text) {
  if (text.empty() || text.size() > 300) return false;
  size_t end = text.find(':');
  if (text.front() == '[') {
    end = text.find(']');
    if (end == std::string_view::npos || end < 3) return false;
    const bool is_address = all_of(text.substr(1, end - 1), [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') ||
             c == ':' || c == '.';
    });
    if (!is_address) return false;
    ++end;
  } else {
    const bool is_name = all_of(text.substr(0, end), [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
             c == '-' || c == '.' || c == '_';
    });
    if (!is_name || end == 0) return false;
  }
  if (end >= text.size()) return true;
  const std::string_view port = text.substr(end + 1);
  return text[end] == ':' && !port.empty() && port.size() <= 5 &&
         all_of(port, [](char c) { return c >= '0' && c <= '9'; });
}

bool is_error(const error_code& error, http::error code) {
  return error == http::make_error_code(code);
}

// What a failure of Beast's means to the client.
ApiError meaning_of(const error_code& error, const HttpParserLimits& limits) {
  if (is_error(error, http::error::body_limit)) {
    return payload_too_large(
        str("the body is larger than ", limits.max_body_bytes, " bytes; send a smaller one"));
  }
  if (is_error(error, http::error::bad_version)) {
    ApiError refused = invalid_request("this server speaks HTTP/1.1 and HTTP/1.0");
    refused.status = 505;
    return refused;
  }
  return invalid_request(str("malformed HTTP: ", error.message()));
}

}  // namespace

// Beast's parser with its callbacks filling the request, behind the strict scan of the head.
struct HttpParser::Impl : http::basic_parser<true> {
  explicit Impl(HttpParserLimits of_request) : limits(of_request) {
    body_limit(static_cast<uint64_t>(limits.max_body_bytes));
    header_limit(UINT32_MAX);  // the scan holds the limits
  }

  size_t feed_head(std::string_view bytes);
  size_t chunk_header_bytes(std::string_view bytes) const;
  size_t feed_chunk(std::string_view bytes);
  size_t feed_body(std::string_view bytes);
  size_t put_bytes(std::string_view bytes);
  bool scan_head(std::string_view bytes);
  bool scan_line(std::string_view line);
  bool check_request_line(std::string_view line);
  bool check_head();
  bool check_framing();
  void fail(ApiError why) {
    state = State::kFailed;
    error = std::move(why);
  }
  bool refuse(std::string message) {
    fail(invalid_request(std::move(message)));
    return false;
  }
  size_t count(std::string_view name) const {
    return static_cast<size_t>(
        std::count_if(request.headers.begin(), request.headers.end(),
                      [name](const auto& header) { return header.first == name; }));
  }

  void on_request_impl(http::verb, string_view method, string_view target, int of_request,
                       error_code&) override {
    request.method.assign(method.data(), method.size());
    const std::string_view whole(target.data(), target.size());
    const size_t question = whole.find('?');
    request.path = whole.substr(0, question);
    if (question != std::string_view::npos) request.query = whole.substr(question + 1);
    version = of_request;
  }
  void on_response_impl(int, string_view, int, error_code&) override {}
  void on_field_impl(http::field, string_view name, string_view value, error_code&) override {
    if (head_done) return;  // a trailer
    request.headers.emplace_back(lower_case({name.data(), name.size()}),
                                 std::string(value.data(), value.size()));
  }
  void on_header_impl(error_code&) override { head_done = true; }
  void on_body_init_impl(const boost::optional<uint64_t>&, error_code&) override {}
  size_t on_body_impl(string_view body, error_code&) override { return keep(body); }
  void on_chunk_header_impl(uint64_t size, string_view, error_code&) override {
    any_chunk = true;
    chunk_left = size;
  }
  size_t on_chunk_body_impl(uint64_t, string_view body, error_code&) override { return keep(body); }
  void on_finish_impl(error_code&) override {}
  size_t keep(string_view body) {
    if (!discard) request.body.append(body.data(), body.size());
    return body.size();
  }

  const HttpParserLimits limits;
  State state = State::kHead;
  ApiError error;
  HttpRequest request;
  int version = 11;
  size_t scanned = 0;     // bytes of the head that were scanned
  size_t line_begin = 0;  // of the line being scanned
  int32_t num_lines = 0;
  bool head_done = false;
  bool chunked_body = false;
  bool any_chunk = false;   // a chunk was read: its CR LF comes before the next header
  uint64_t chunk_left = 0;  // bytes of the present chunk that have not arrived
  bool discard = false;
};

// Whether the head is complete. Ends a hostile head at its first wrong byte.
bool HttpParser::Impl::scan_head(std::string_view bytes) {
  for (; scanned < bytes.size(); ++scanned) {
    const char c = bytes[scanned];
    if (c == '\n') {
      if (scanned == line_begin || bytes[scanned - 1] != '\r') {
        return refuse("malformed HTTP: a line of the head ends without CR LF");
      }
      const std::string_view line = bytes.substr(line_begin, scanned - 1 - line_begin);
      line_begin = scanned + 1;
      if (line.empty() && num_lines > 0) {
        ++scanned;
        return true;
      }
      if (!scan_line(line)) return false;
    } else if (scanned > line_begin && bytes[scanned - 1] == '\r') {
      return refuse("malformed HTTP: a CR inside a line of the head");
    } else if ((static_cast<unsigned char>(c) < ' ' && c != '\r' && c != '\t') || c == '\x7f') {
      return refuse("malformed HTTP: a control character in the head");
    } else if (scanned == 0 && !is_token_char(c)) {
      return refuse("malformed HTTP: a request begins with its method");
    }
    const auto line_bytes = static_cast<int64_t>(scanned - line_begin);
    if (num_lines == 0 && line_bytes > limits.max_url_bytes + 64) {
      ApiError too_long = invalid_request(
          str("the URL is longer than ", limits.max_url_bytes, " bytes; send a shorter one"));
      too_long.status = 414;
      fail(std::move(too_long));
      return false;
    }
    if (static_cast<int64_t>(scanned) > limits.max_header_bytes + limits.max_url_bytes) {
      fail(invalid_request(""));
      error.status = 431;
      error.message =
          str("the headers are larger than ", limits.max_header_bytes, " bytes; send smaller ones");
      return false;
    }
  }
  return false;
}

bool HttpParser::Impl::scan_line(std::string_view line) {
  ++num_lines;
  if (num_lines == 1) return check_request_line(line);
  if (num_lines - 1 > limits.max_header_lines) {
    fail(invalid_request(""));
    error.status = 431;
    error.message = str("more than ", limits.max_header_lines, " header lines; send fewer");
    return false;
  }
  if (line.front() == ' ' || line.front() == '\t') {
    return refuse("malformed HTTP: a header is folded over two lines");
  }
  const size_t colon = line.find(':');
  if (colon == 0 || colon == std::string_view::npos ||
      !all_of(line.substr(0, colon), is_token_char)) {
    return refuse("malformed HTTP: a header line without a valid name and a colon");
  }
  return true;
}

// method SP target SP version, single spaces, all visible ASCII.
bool HttpParser::Impl::check_request_line(std::string_view line) {
  const bool is_visible = all_of(line, [](char c) { return c >= ' ' && c <= '~'; });
  if (!is_visible || std::count(line.begin(), line.end(), ' ') != 2) {
    return refuse("malformed HTTP: the first line is not `METHOD /path HTTP/1.1`");
  }
  const size_t begin = line.find(' ') + 1;
  const std::string_view target = line.substr(begin, line.rfind(' ') - begin);
  if (target.empty() || (target.front() != '/' && target != "*")) {
    return refuse("the request's target begins with /; this server is no proxy");
  }
  if (target.find('#') != std::string_view::npos) {
    return refuse("malformed HTTP: a # in the request's target");
  }
  return true;
}

// One length, given one way.
bool HttpParser::Impl::check_framing() {
  const size_t num_lengths = count("content-length");
  const size_t num_encodings = count("transfer-encoding");
  if (num_lengths > 1) return refuse("malformed HTTP: Content-Length is given twice");
  if (num_lengths > 0 && num_encodings > 0) {
    return refuse("malformed HTTP: both Content-Length and Transfer-Encoding are given");
  }
  if (num_lengths == 1) {
    const std::string_view length = request.header("content-length");
    if (length.empty() || !all_of(length, [](char c) { return c >= '0' && c <= '9'; })) {
      return refuse("malformed HTTP: Content-Length is not a number");
    }
  }
  if (num_encodings > 0) {
    const std::string encoding = lower_case(request.header("transfer-encoding"));
    if (num_encodings > 1 || encoding != "chunked" || version < 11) {
      return refuse("malformed HTTP: the only Transfer-Encoding is one `chunked`, in HTTP/1.1");
    }
  }
  return true;
}

bool HttpParser::Impl::check_head() {
  if (!check_framing()) return false;
  const size_t num_hosts = count("host");
  if (num_hosts > 1 || (num_hosts == 0 && version >= 11)) {
    return refuse("the Host header must be given exactly once");
  }
  if (num_hosts == 1 && !is_host(request.header("host"))) {
    return refuse("the Host header is not a host name or address with an optional port");
  }
  const std::string expect = lower_case(request.header("expect"));
  if (!expect.empty() && expect != "100-continue") {
    fail(invalid_request("the only expectation this server meets is 100-continue"));
    error.status = 417;
    return false;
  }
  return true;
}

size_t HttpParser::Impl::put_bytes(std::string_view bytes) {
  error_code ec;
  const size_t used = put({bytes.data(), bytes.size()}, ec);
  if (ec && !is_error(ec, http::error::need_more)) fail(meaning_of(ec, limits));
  return used;
}

size_t HttpParser::Impl::feed_head(std::string_view bytes) {
  if (!scan_head(bytes)) return 0;
  const std::string_view head = bytes.substr(0, scanned);
  // The first call takes the request line and the fields; it never stops between them, because
  // the head is complete.
  put_bytes(head);
  const bool too_large = state == State::kFailed && error.status == 413;
  if (state == State::kFailed && !too_large) return 0;
  const ApiError body_error = error;
  state = State::kHead;
  if (!check_head()) return 0;
  if (too_large) {
    fail(body_error);
    return 0;
  }
  chunked_body = chunked();
  state = is_done() ? State::kDone : State::kBody;
  return head.size();
}

// The bytes of the chunk header that `bytes` begins with, or of the last chunk with its trailers;
// 0 when it is not complete. It includes the end of the chunk before, as Beast reads it.
size_t HttpParser::Impl::chunk_header_bytes(std::string_view bytes) const {
  const size_t begin = any_chunk ? 2 : 0;
  const size_t line_end = bytes.find('\n', begin);
  if (line_end == std::string_view::npos) return 0;
  const size_t digit = bytes.find_first_not_of('0', begin);
  const bool is_last =
      digit > begin && std::isxdigit(static_cast<unsigned char>(bytes[digit])) == 0;
  if (!is_last) return line_end + 1;
  const size_t trailers_end = bytes.find("\r\n\r\n", line_end - 1);
  return trailers_end == std::string_view::npos ? 0 : trailers_end + 4;
}

// What Beast answers to half a chunk header depends on where it is cut, so it is shown none: it
// gets whole headers and the data between them, one at a time, however they arrive.
size_t HttpParser::Impl::feed_chunk(std::string_view bytes) {
  if (chunk_left > 0) {
    const size_t used = put_bytes(bytes.substr(0, chunk_left));
    chunk_left -= used;
    return used;
  }
  const size_t header_bytes = chunk_header_bytes(bytes);
  if (header_bytes > kMaxChunkLineBytes ||
      (header_bytes == 0 && bytes.size() > kMaxChunkLineBytes)) {
    refuse("malformed HTTP: a chunk's header or the trailers are too long");
    return 0;
  }
  const size_t used = put_bytes(bytes.substr(0, header_bytes));
  if (used != header_bytes && state != State::kFailed) {
    refuse("malformed HTTP: a chunk's header does not end where its line does");
  }
  return used;
}

size_t HttpParser::Impl::feed_body(std::string_view bytes) {
  eager(true);
  size_t taken = 0;
  while (state == State::kBody && taken < bytes.size()) {
    const std::string_view left = bytes.substr(taken);
    const size_t used = chunked_body ? feed_chunk(left) : put_bytes(left);
    taken += used;
    if (state == State::kBody && is_done()) state = State::kDone;
    if (used == 0) break;
  }
  return taken;
}

HttpParser::HttpParser(HttpParserLimits limits) : impl_(std::make_unique<Impl>(limits)) {}
HttpParser::~HttpParser() = default;
HttpParser::HttpParser(HttpParser&& other) noexcept = default;
HttpParser& HttpParser::operator=(HttpParser&& other) noexcept = default;

size_t HttpParser::feed(std::string_view bytes) {
  if (bytes.empty()) return 0;
  switch (impl_->state) {
    case State::kHead:
      return impl_->feed_head(bytes);
    case State::kBody:
      return impl_->feed_body(bytes);
    case State::kDone:
    case State::kFailed:
      return 0;
  }
  return 0;
}

void HttpParser::discard_body() {
  impl_->discard = true;
  impl_->request.body = {};
}

HttpParser::State HttpParser::state() const { return impl_->state; }
const ApiError& HttpParser::error() const { return impl_->error; }
HttpRequest& HttpParser::request() { return impl_->request; }
bool HttpParser::keep_alive() const { return impl_->keep_alive(); }
bool HttpParser::is_http_1_0() const { return impl_->version < 11; }
bool HttpParser::expects_continue() const { return !impl_->request.header("expect").empty(); }

int64_t HttpParser::body_bytes_left() const {
  if (impl_->is_done()) return 0;
  if (impl_->chunked_body) return -1;
  const auto left = impl_->content_length_remaining();
  return left ? static_cast<int64_t>(*left) : 0;
}

}  // namespace slipstream

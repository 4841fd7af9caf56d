#include "bench/http_call.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <charconv>
#include <chrono>
#include <optional>
#include <string_view>

#include "base/strings.h"

namespace slipstream {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr uint64_t kMaxReplyBytes = 64u << 20;

// One request and its reply on a connection of its own, in a loop of its own.
class Call {
 public:
  Call(const HttpTarget& target, const std::string& path, const std::string& body)
      : request_(body.empty() ? http::verb::get : http::verb::post, path, 11) {
    request_.set(http::field::host, target.authority());
    request_.set(http::field::connection, "close");
    if (!target.api_key.empty()) {
      request_.set(http::field::authorization, "Bearer " + target.api_key);
    }
    if (body.empty()) return;
    request_.set(http::field::content_type, "application/json");
    request_.body() = body;
    request_.prepare_payload();
  }

  // The error, if there was one.
  error_code run(const tcp::endpoint& endpoint, int64_t timeout_ms) {
    parser_.body_limit(kMaxReplyBytes);
    stream_.expires_after(std::chrono::milliseconds(timeout_ms));
    stream_.async_connect(endpoint, [this](error_code ec) {
      if (!fail(ec)) write();
    });
    io_.run();
    return error_;
  }
  HttpReply reply() {
    return {static_cast<int>(parser_.get().result_int()), std::move(parser_.get().body())};
  }

 private:
  bool fail(error_code ec) {
    if (ec && ec != http::error::end_of_stream) error_ = ec;
    return static_cast<bool>(ec);
  }
  void write() {
    http::async_write(stream_, request_, [this](error_code ec, size_t) {
      if (!fail(ec)) read();
    });
  }
  void read() {
    http::async_read(stream_, buffer_, parser_, [this](error_code ec, size_t) {
      fail(ec);
      if (!ec && !parser_.is_done()) error_ = asio::error::eof;
    });
  }

  asio::io_context io_{1};
  beast::tcp_stream stream_{io_};
  http::request<http::string_body> request_;
  http::response_parser<http::string_body> parser_;
  beast::flat_buffer buffer_;
  error_code error_;
};

}  // namespace

std::string HttpTarget::authority() const {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return str(is_ipv6 ? "[" + host + "]" : host, ":", port);
}

Result<HttpTarget> parse_target(const std::string& url) {
  const Status error = bad_usage(
      str("--url ", quote(url), ": give http://HOST:PORT, such as http://127.0.0.1:8000"));
  constexpr std::string_view kScheme = "http://";
  if (starts_with(url, "https://")) {
    return bad_usage(str("--url ", quote(url),
                         ": only http is spoken; put a proxy that ends TLS in front of it"));
  }
  if (!starts_with(url, kScheme)) return error;
  HttpTarget target;
  target.url = url;
  std::string rest = url.substr(kScheme.size());
  if (const size_t slash = rest.find('/'); slash != std::string::npos) {
    target.base_path = rest.substr(slash);
    rest.resize(slash);
  }
  while (ends_with(target.base_path, "/")) target.base_path.pop_back();
  if (ends_with(target.base_path, "/v1")) target.base_path.resize(target.base_path.size() - 3);
  size_t colon = rest.find(':');
  if (starts_with(rest, "[")) {
    const size_t end = rest.find(']');
    if (end == std::string::npos) return error;
    target.host = rest.substr(1, end - 1);
    colon = end + 1 < rest.size() ? end + 1 : std::string::npos;
    if (colon != std::string::npos && rest[colon] != ':') return error;
  } else {
    target.host = rest.substr(0, colon);
  }
  if (colon != std::string::npos) {
    const char* end = rest.data() + rest.size();
    const auto [stop, ec] = std::from_chars(rest.data() + colon + 1, end, target.port);
    if (ec != std::errc() || stop != end) return error;
  }
  const bool is_host = target.host.find_first_of(" \t@?#\\\r\n") == std::string::npos;
  if (target.host.empty() || !is_host || target.port < 1 || target.port > 65535) return error;
  if (target.base_path.find_first_of(" \t?#\r\n") != std::string::npos) return error;
  return target;
}

Status resolve_target(HttpTarget& target) {
  asio::io_context io{1};
  tcp::resolver resolver(io);
  error_code ec;
  const auto found = resolver.resolve(target.host, std::to_string(target.port), ec);
  if (ec || found.empty()) {
    return failed(str("--url ", quote(target.url), ": no such host ", quote(target.host)));
  }
  std::optional<tcp::endpoint> chosen;
  for (const auto& entry : found) {
    if (!chosen || (entry.endpoint().address().is_v4() && !chosen->address().is_v4())) {
      chosen = entry.endpoint();
    }
  }
  target.address = chosen->address().to_string();
  return {};
}

Result<HttpReply> http_call(const HttpTarget& target, const std::string& path,
                            const std::string& body, int64_t timeout_ms) {
  error_code ec;
  const asio::ip::address address = asio::ip::make_address(target.address, ec);
  if (ec) return failed(str("no address of ", target.host, " is known"));
  Call call(target, target.path_of(path), body);
  ec = call.run({address, static_cast<uint16_t>(target.port)}, timeout_ms);
  if (!ec) return call.reply();
  const bool timed_out = ec == beast::error::timeout;
  return failed(str("no answer from ", target.url, " (", path, "): ",
                    timed_out ? str("nothing came within ", timeout_ms, " ms") : ec.message(),
                    "; is the server running there?"));
}

}  // namespace slipstream

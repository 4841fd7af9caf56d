#include "bench/response_reader.h"

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <utility>

namespace slipstream {
namespace {

namespace http = boost::beast::http;
using boost::beast::string_view;
using boost::system::error_code;

constexpr size_t kMaxLineBytes = 1u << 20;
constexpr size_t kMaxRefusalBytes = 2000;

}  // namespace

struct ResponseReader::Impl : http::basic_parser<false> {
  explicit Impl(std::function<void(std::string_view)> of_lines) : on_line(std::move(of_lines)) {
    eager(true);
    body_limit(boost::none);
  }

  void on_request_impl(http::verb, string_view, string_view, int, error_code&) override {}
  void on_response_impl(int code, string_view, int, error_code&) override { status = code; }
  void on_field_impl(http::field, string_view, string_view, error_code&) override {}
  void on_header_impl(error_code&) override {}
  void on_body_init_impl(const boost::optional<uint64_t>&, error_code&) override {}
  size_t on_body_impl(string_view bytes, error_code& ec) override { return take(bytes, ec); }
  void on_chunk_header_impl(uint64_t, string_view, error_code&) override {}
  size_t on_chunk_body_impl(uint64_t, string_view bytes, error_code& ec) override {
    return take(bytes, ec);
  }
  void on_finish_impl(error_code&) override { end_line(); }

  size_t take(string_view bytes, error_code& ec) {
    std::string_view rest(bytes.data(), bytes.size());
    if (status != 200) {
      refusal.append(rest.substr(0, kMaxRefusalBytes - std::min(kMaxRefusalBytes, refusal.size())));
      return bytes.size();
    }
    for (size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
      if (line.empty()) {
        emit(rest.substr(0, end));
      } else {
        line.append(rest.substr(0, end));
        end_line();
      }
      rest.remove_prefix(end + 1);
    }
    line.append(rest);
    if (line.size() > kMaxLineBytes) ec = http::error::buffer_overflow;
    return bytes.size();
  }
  void end_line() {
    if (line.empty()) return;
    emit(line);
    line.clear();
  }
  void emit(std::string_view text) const {
    if (!text.empty() && text.back() == '\r') text.remove_suffix(1);
    if (!text.empty()) on_line(text);
  }

  // Offers bytes until the parser wants more than there are; the count of those it took.
  size_t offer(std::string_view bytes) {
    size_t taken = 0;
    while (taken < bytes.size() && !is_done()) {
      error_code ec;
      const size_t count =
          put(boost::asio::const_buffer(bytes.data() + taken, bytes.size() - taken), ec);
      taken += count;
      if (ec == http::error::need_more) break;
      failed = failed || static_cast<bool>(ec);
      if (ec || count == 0) break;
    }
    return taken;
  }

  std::function<void(std::string_view)> on_line;
  int status = 0;
  bool failed = false;
  std::string refusal;
  std::string line;  // not ended yet
  std::string kept;  // bytes the parser wants to see again, with more behind them
};

ResponseReader::ResponseReader(std::function<void(std::string_view line)> on_line)
    : impl_(std::make_unique<Impl>(std::move(on_line))) {}
ResponseReader::~ResponseReader() = default;
ResponseReader::ResponseReader(ResponseReader&&) noexcept = default;
ResponseReader& ResponseReader::operator=(ResponseReader&&) noexcept = default;

bool ResponseReader::feed(std::string_view bytes) {
  Impl& impl = *impl_;
  if (impl.kept.empty()) {
    const size_t taken = impl.offer(bytes);
    impl.kept.assign(bytes.substr(taken));
  } else {
    impl.kept.append(bytes);
    impl.kept.erase(0, impl.offer(impl.kept));
  }
  return !impl.failed && impl.kept.size() <= kMaxLineBytes;
}

bool ResponseReader::feed_end() {
  if (impl_->is_done()) return true;
  if (!impl_->got_some() || impl_->failed) return false;
  error_code ec;
  impl_->put_eof(ec);
  return !ec;
}

bool ResponseReader::complete() const { return impl_->is_done(); }
int ResponseReader::status() const { return impl_->status; }
const std::string& ResponseReader::refusal() const { return impl_->refusal; }

}  // namespace slipstream

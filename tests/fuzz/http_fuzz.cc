// Any bytes as HTTP requests: refused with one line, or a request that keeps what the parser
// promises; and the same, in however many pieces the bytes arrive.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "server/http_parser.h"
#include "server/router.h"

namespace {

using namespace slipstream;

constexpr size_t kMaxInputBytes = 4096;  // below the limits that count bytes not understood yet

HttpParserLimits small_limits() {
  HttpParserLimits limits;
  limits.max_body_bytes = 512;
  limits.max_header_bytes = 1024;
  limits.max_url_bytes = 256;
  limits.max_header_lines = 16;
  return limits;
}

struct Outcome {
  std::vector<HttpRequest> requests;
  bool failed = false;
};

// As a connection reads: one parser per request, what is not taken is offered again.
Outcome read_all(std::string_view input, size_t piece) {
  Outcome outcome;
  HttpParser parser(small_limits());
  std::string waiting;
  while (!input.empty()) {
    waiting += input.substr(0, piece);
    input.remove_prefix(std::min(piece, input.size()));
    for (size_t used = 1; used > 0 && !waiting.empty();) {
      used = parser.feed(waiting);
      waiting.erase(0, used);
      if (parser.state() == HttpParser::State::kFailed) {
        SLIPSTREAM_CHECK(parser.error().status >= 400, "a refusal has a status");
        SLIPSTREAM_CHECK(parser.error().message.find('\n') == std::string::npos, "and one line");
        outcome.failed = true;
        return outcome;
      }
      if (parser.state() == HttpParser::State::kDone) {
        outcome.requests.push_back(std::move(parser.request()));
        parser = HttpParser(small_limits());
        used = 1;
      }
    }
  }
  return outcome;
}

void check_request(const HttpRequest& request, const Router& router) {
  SLIPSTREAM_CHECK(request.path == "*" || request.path.front() == '/', request.path);
  SLIPSTREAM_CHECK(request.body.size() <= 512, "a body within its limit");
  int num_hosts = 0;
  for (const auto& [name, value] : request.headers) {
    num_hosts += name == "host";
    SLIPSTREAM_CHECK(!name.empty(), "a header has a name");
    for (const char c : name + value) {
      SLIPSTREAM_CHECK(static_cast<unsigned char>(c) >= ' ' || c == '\t', "no control characters");
    }
  }
  SLIPSTREAM_CHECK(num_hosts <= 1, "one host");
  const Router::Match match = router.match(request.method, request.path);
  SLIPSTREAM_CHECK(match.route == nullptr || match.route->path.front() == '/', "a route of ours");
  static_cast<void>(request.query_value("a"));
}

Router make_router() {
  Router router;
  router.add({"GET", "/a", {}});
  router.add({"POST", "/a", {}});
  router.add({"GET", "/b/{id}", {}});
  return router;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > kMaxInputBytes) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Outcome whole = read_all(input, kMaxInputBytes);
  const Outcome pieces = read_all(input, 1 + data[0] % 64);
  SLIPSTREAM_CHECK(whole.failed == pieces.failed, "pieces change nothing");
  SLIPSTREAM_CHECK(whole.requests.size() == pieces.requests.size(), "pieces change nothing");
  const Router router = make_router();
  for (size_t idx = 0; idx < whole.requests.size(); ++idx) {
    check_request(whole.requests[idx], router);
    SLIPSTREAM_CHECK(whole.requests[idx].body == pieces.requests[idx].body, "nor a body");
    SLIPSTREAM_CHECK(whole.requests[idx].headers == pieces.requests[idx].headers, "nor a head");
  }
  return 0;
}

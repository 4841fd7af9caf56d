#include "server/sse.h"

namespace slipstream {

HttpResponse sse_head() {
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers.emplace_back("cache-control", "no-cache");
  // Reverse proxies that buffer would hold tokens back.
  head.headers.emplace_back("x-accel-buffering", "no");
  return head;
}

}  // namespace slipstream

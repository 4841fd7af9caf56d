// The frames of a server-sent event stream, and its headers.
#pragma once

#include <string>
#include <string_view>

#include "server/http.h"

namespace slipstream {

inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";
// A comment: clients drop it, proxies see that the connection lives.
inline constexpr std::string_view kSsePing = ": ping\n\n";
// Put `data: ` before and this behind one line of JSON.
inline constexpr std::string_view kSseData = "data: ";
inline constexpr std::string_view kSseEnd = "\n\n";

// Status 200 and the stream's headers, no body.
HttpResponse sse_head();

}  // namespace slipstream

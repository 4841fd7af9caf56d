// Moments as people and programs write them: ISO dates and Unix seconds to milliseconds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace slipstream {

// Milliseconds since 1970 of "2026-03-01", "2026-03-01T12:30", "2026-03-01 12:30:05.25Z",
// "2026-03-01T12:30:05+02:00" or of seconds since 1970 ("1772323200"). UTC where no zone is given.
Result<int64_t> parse_unix_ms(std::string_view text);

enum class TimeDigits : uint8_t { kSeconds, kMilliseconds };

// Now, in UTC: "2026-03-01T12:30:05Z", or "2026-03-01T12:30:05.250Z" with milliseconds.
std::string utc_now(TimeDigits digits);

}  // namespace slipstream

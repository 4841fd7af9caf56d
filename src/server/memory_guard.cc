#include "server/memory_guard.h"

#include <algorithm>

#include "base/log.h"

namespace slipstream {
namespace {

// What must be left of a container's memory: 1/32, and no more than what requests that run already
// may come to need.
constexpr int64_t kLeftShare = 32;
constexpr int64_t kMaxLeftBytes = int64_t{256} << 20;

}  // namespace

bool MemoryGuard::is_near_limit() const {
  const std::optional<MemoryLimit> limit = read_limit_();
  return limit && limit->left_bytes() < std::min(limit->limit_bytes / kLeftShare, kMaxLeftBytes);
}

bool MemoryGuard::update() {
  const bool is_reserve_whole = reserve_.refill();
  const bool is_low = !is_reserve_whole || is_near_limit();
  if (is_low != is_low_) {
    is_low_ = is_low;
    if (is_low) {
      log_warn(
          "serve",
          is_reserve_whole ? "the container's memory limit is near" : "the system refused memory",
          ": new requests get 429 until there is more");
    } else {
      log_warn("serve", "memory is back: new requests are taken again");
    }
  }
  return is_low_;
}

}  // namespace slipstream

// MemoryGuard: says when a server should take no more work because memory is nearly gone.
//
// Two ways to run out: an allocation fails (then the process lives on its reserve), or a
// container's limit comes near, beyond which the kernel kills the process without a word.
#pragma once

#include <functional>
#include <optional>

#include "base/machine.h"
#include "base/memory_reserve.h"

namespace slipstream {

class MemoryGuard {
 public:
  using ReadLimit = std::function<std::optional<MemoryLimit>()>;
  explicit MemoryGuard(ReadLimit read_limit = [] { return memory_limit(); })
      : read_limit_(std::move(read_limit)) {}

  // Looks again; to be called a few times a second. Whether memory is low; a change is logged.
  bool update();

 private:
  bool is_near_limit() const;

  const ReadLimit read_limit_;
  MemoryReserve reserve_;
  bool is_low_ = false;
};

}  // namespace slipstream

// The fuel of one render: steps of work and bytes produced. Everything that loops over or
// produces template data charges here first, so a hostile template ends early instead of late.
#pragma once

#include <cstdint>

#include "text/jinja/error.h"

namespace slipstream::jinja {

struct RenderLimits {
  uint64_t max_steps = 20'000'000;             // nodes evaluated and elements visited
  uint64_t max_produced_bytes = 256ull << 20;  // of all strings and lists ever made
  uint64_t max_output_bytes = 64ull << 20;     // of rendered text
  int max_depth = 800;                         // nested statements, expressions and macro calls
};

class Budget {
 public:
  explicit Budget(const RenderLimits& limits)
      : steps_left_(limits.max_steps), bytes_left_(limits.max_produced_bytes) {}

  void steps(uint64_t count = 1) {
    if (count > steps_left_) raise(ErrorKind::kLimitError, "the template takes too many steps");
    steps_left_ -= count;
  }
  // Work over bytes costs steps as well: scanning is not free.
  void scan(uint64_t bytes) { steps(bytes / 16 + 1); }
  void produce(uint64_t bytes) {
    if (bytes > bytes_left_) raise(ErrorKind::kLimitError, "the template produces too much data");
    bytes_left_ -= bytes;
    steps(bytes / 64);
  }

 private:
  uint64_t steps_left_;
  uint64_t bytes_left_;
};

}  // namespace slipstream::jinja

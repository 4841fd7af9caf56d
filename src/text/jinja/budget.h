// The fuel of one render: steps of work and bytes produced. Everything that loops over or
// produces template data charges here first, so a hostile template ends early instead of late.
#pragma once

#include <algorithm>
#include <cstdint>

#include "text/jinja/error.h"

namespace slipstream::jinja {

struct RenderLimits {
  // What a render may cost however small its variables are; larger ones add to it, see grant().
  uint64_t max_steps = 5'000'000;             // nodes evaluated and elements visited
  uint64_t max_produced_bytes = 64ull << 20;  // of all strings and lists ever made
  uint64_t max_output_bytes = 64ull << 20;    // of rendered text
  int max_depth = 800;                        // nested statements, expressions and macro calls
};

class Budget {
 public:
  explicit Budget(const RenderLimits& limits)
      : steps_left_(limits.max_steps), bytes_left_(limits.max_produced_bytes) {}

  // Long conversations may take longer: `bytes` of variables pay for work in proportion.
  void grant(uint64_t bytes) {
    steps_left_ = saturating_add(steps_left_, bytes);
    bytes_left_ = saturating_add(bytes_left_, bytes * 16);
  }
  void steps(uint64_t count = 1) {
    if (count > steps_left_) raise(ErrorKind::kLimitError, "the template takes too many steps");
    steps_left_ -= count;
  }
  // A function, filter or macro call: its arguments are collected and its result is allocated.
  void call() { steps(4); }
  // Work over bytes costs steps as well: scanning is not free.
  void scan(uint64_t bytes) { steps(bytes / 16 + 1); }
  void produce(uint64_t bytes) {
    if (bytes > bytes_left_) raise(ErrorKind::kLimitError, "the template produces too much data");
    bytes_left_ -= bytes;
    steps(bytes / 64);
  }

 private:
  static uint64_t saturating_add(uint64_t a, uint64_t b) { return a + std::min(b, ~a); }

  uint64_t steps_left_;
  uint64_t bytes_left_;
};

}  // namespace slipstream::jinja

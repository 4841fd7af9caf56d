// HostPhase: a stretch of the engine thread's work in a step, added to a sum and, where somebody
// traces, to a lane as a range of the same name.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "base/trace.h"

namespace slipstream {

class HostPhase {
 public:
  // `sum_ns` must outlive it; `lane` may be null.
  HostPhase(int64_t& sum_ns, TraceLane* lane, const char* name)
      : range_(lane, name), sum_ns_(sum_ns), began_ns_(steady_now_ns()) {}
  HostPhase(const HostPhase&) = delete;
  HostPhase& operator=(const HostPhase&) = delete;
  ~HostPhase() { sum_ns_ += steady_now_ns() - began_ns_; }

  // What was spent otherwise meanwhile.
  void leave_out(int64_t ns) { began_ns_ += ns; }
  void arg(const char* name, int64_t value) { range_.arg(name, value); }

 private:
  TraceRange range_;
  int64_t& sum_ns_;
  int64_t began_ns_;
};

}  // namespace slipstream

// What the engine's thread did in the steps of a measurement, as part of a record.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "slipstream/engine.h"

namespace slipstream {

class HostTime {
 public:
  // The steps between two looks at an engine.
  void add(const EngineStats& before, const EngineStats& after);
  void add(const HostTime& other);
  // Mean microseconds a step by phase of StepHostNs; null when there was no step.
  Json us_per_step() const;

 private:
  StepHostNs ns_;
  int64_t num_steps_ = 0;
};

}  // namespace slipstream

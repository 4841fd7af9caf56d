#include "bench/host_time.h"

namespace slipstream {
namespace {

struct Phase {
  const char* name;
  int64_t StepHostNs::* ns;
};
constexpr Phase kPhases[] = {{"schedule", &StepHostNs::schedule}, {"batch", &StepHostNs::batch},
                             {"forward", &StepHostNs::forward},   {"draw", &StepHostNs::draw},
                             {"collect", &StepHostNs::collect},   {"emit", &StepHostNs::emit},
                             {"sink", &StepHostNs::sink}};

}  // namespace

void HostTime::add(const EngineStats& before, const EngineStats& after) {
  num_steps_ += after.num_steps - before.num_steps;
  for (const Phase& phase : kPhases) {
    ns_.*phase.ns += after.step_host_ns.*phase.ns - before.step_host_ns.*phase.ns;
  }
}

void HostTime::add(const HostTime& other) {
  num_steps_ += other.num_steps_;
  for (const Phase& phase : kPhases) ns_.*phase.ns += other.ns_.*phase.ns;
}

Json HostTime::us_per_step() const {
  if (num_steps_ == 0) return nullptr;
  Json us = Json::object();
  for (const Phase& phase : kPhases) {
    us[phase.name] = static_cast<double>(ns_.*phase.ns) / 1e3 / static_cast<double>(num_steps_);
  }
  return us;
}

}  // namespace slipstream

// GpuMeter: the names of this machine's GPUs and the power they take, by NVIDIA's management
// library (NVML), which is loaded at run time and comes with the driver. Used by one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"

namespace slipstream {

class GpuMeter {
 public:
  // The error says what is missing: the library, the driver or a GPU.
  static Result<std::unique_ptr<GpuMeter>> open();
  virtual ~GpuMeter() = default;

  virtual const std::string& name() const = 0;    // of the first GPU, "NVIDIA H200"
  virtual const std::string& driver() const = 0;  // "580.159.04"
  virtual const std::string& cuda() const = 0;    // the newest that the driver knows, "13.0"
  // What the first `num_devices` GPUs take together now, in watts; none where one does not tell.
  virtual std::optional<double> power_w(int64_t num_devices) = 0;
};

// The mean of what a meter shows while something runs.
class PowerMean {
 public:
  // A null meter has no mean.
  PowerMean(GpuMeter* meter, int64_t num_devices) : meter_(meter), num_devices_(num_devices) {}

  void sample();  // ten times a second, however often it is called
  std::optional<double> mean() const;

 private:
  GpuMeter* meter_;
  int64_t num_devices_;
  int64_t next_ns_ = 0;
  double sum_w_ = 0.0;
  int64_t num_samples_ = 0;
};

}  // namespace slipstream

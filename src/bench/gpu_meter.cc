#include "bench/gpu_meter.h"

#include <dlfcn.h>

#include <array>
#include <utility>

#include "base/clock.h"
#include "base/library_function.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr unsigned kTextBytes = 96;  // NVML_DEVICE_NAME_V2_BUFFER_SIZE
constexpr double kWPerMw = 1e-3;
constexpr int64_t kSampleGapNs = 100'000'000;

// As nvml.h declares them; 0 is success.
using Device = void*;
struct Nvml {
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*driver_version)(char*, unsigned) = nullptr;
  int (*cuda_version)(int*) = nullptr;  // 1000 * major + 10 * minor
  int (*device_by_index)(unsigned, Device*) = nullptr;
  int (*device_name)(Device, char*, unsigned) = nullptr;
  int (*power_mw)(Device, unsigned*) = nullptr;
};

class NvmlMeter : public GpuMeter {
 public:
  explicit NvmlMeter(void* library) : library_(library) {}
  NvmlMeter(const NvmlMeter&) = delete;
  NvmlMeter& operator=(const NvmlMeter&) = delete;
  ~NvmlMeter() override {
    if (is_up_) nvml_.shutdown();
    ::dlclose(library_);
  }

  Status start();
  const std::string& name() const override { return name_; }
  const std::string& driver() const override { return driver_; }
  const std::string& cuda() const override { return cuda_; }
  std::optional<double> power_w(int64_t num_devices) override;

 private:
  void* library_;
  Nvml nvml_;
  bool is_up_ = false;
  std::string name_, driver_, cuda_;
};

Status NvmlMeter::start() {
  const bool complete =
      find_function(library_, "nvmlInit_v2", nvml_.init) &&
      find_function(library_, "nvmlShutdown", nvml_.shutdown) &&
      find_function(library_, "nvmlSystemGetDriverVersion", nvml_.driver_version) &&
      find_function(library_, "nvmlSystemGetCudaDriverVersion_v2", nvml_.cuda_version) &&
      find_function(library_, "nvmlDeviceGetHandleByIndex_v2", nvml_.device_by_index) &&
      find_function(library_, "nvmlDeviceGetName", nvml_.device_name) &&
      find_function(library_, "nvmlDeviceGetPowerUsage", nvml_.power_mw);
  if (!complete) return does_not_fit("NVML is too old: update the driver");
  is_up_ = nvml_.init() == 0;
  if (!is_up_) return does_not_fit("NVML finds no NVIDIA driver that runs");
  Device device = nullptr;
  std::array<char, kTextBytes> text{};
  if (nvml_.device_by_index(0, &device) != 0 ||
      nvml_.device_name(device, text.data(), kTextBytes) != 0) {
    return does_not_fit("NVML finds no GPU");
  }
  name_ = text.data();
  if (nvml_.driver_version(text.data(), kTextBytes) == 0) driver_ = text.data();
  int version = 0;
  if (nvml_.cuda_version(&version) == 0) cuda_ = str(version / 1000, ".", version % 1000 / 10);
  return {};
}

std::optional<double> NvmlMeter::power_w(int64_t num_devices) {
  double sum_w = 0.0;
  for (int64_t idx = 0; idx < num_devices; ++idx) {
    Device device = nullptr;
    unsigned power_mw = 0;
    if (nvml_.device_by_index(static_cast<unsigned>(idx), &device) != 0 ||
        nvml_.power_mw(device, &power_mw) != 0) {
      return std::nullopt;
    }
    sum_w += power_mw * kWPerMw;
  }
  return sum_w;
}

}  // namespace

Result<std::unique_ptr<GpuMeter>> GpuMeter::open() {
  void* library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return does_not_fit("NVML (libnvidia-ml.so.1) is not there");
  auto meter = std::make_unique<NvmlMeter>(library);
  SLIPSTREAM_RETURN_IF_ERROR(meter->start());
  return std::unique_ptr<GpuMeter>(std::move(meter));
}

void PowerMean::sample() {
  const int64_t now_ns = steady_now_ns();
  if (meter_ == nullptr || now_ns < next_ns_) return;
  next_ns_ = now_ns + kSampleGapNs;
  if (const std::optional<double> power_w = meter_->power_w(num_devices_)) {
    sum_w_ += *power_w;
    ++num_samples_;
  }
}

std::optional<double> PowerMean::mean() const {
  if (num_samples_ == 0) return std::nullopt;
  return sum_w_ / static_cast<double>(num_samples_);
}

}  // namespace slipstream

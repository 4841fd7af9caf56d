#include "bench/serial_roof.h"

namespace slipstream {

double serial_roof_tok_s(const ModelInfo& model, const Workload& work, const RoofRates& rates) {
  const auto rate_of = [&](const std::string& format) {
    const auto found = rates.gemm_tflops.find(format);
    return found != rates.gemm_tflops.end() ? found->second * 1e12 : 0.0;
  };
  const double layers_rate = rate_of(model.flops.layers_format);
  const double head_rate = rate_of(model.flops.head_format);
  if (layers_rate <= 0.0 || head_rate <= 0.0 || rates.read_gb_s <= 0.0) return 0.0;
  const auto input = static_cast<double>(work.input_len);
  const auto output = static_cast<double>(work.output_len);
  const double products_s =
      (input + output) * static_cast<double>(model.flops.per_token) / layers_rate +
      output * static_cast<double>(model.flops.per_logits) / head_rate +
      input * input / 2.0 * static_cast<double>(model.flops.per_position) / head_rate;
  const double bytes_a_step =
      static_cast<double>(model.bytes_per_token) / static_cast<double>(work.batch) +
      (input + output / 2.0) * static_cast<double>(model.kv_bytes_per_token);
  return output / (products_s + output * bytes_a_step / rates.read_gb_s * 1e-9);
}

}  // namespace slipstream

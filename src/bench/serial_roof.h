// The serial roof of a workload: how fast many requests could be answered if every product ran at
// the rate of large ones and every byte was read at the rate of memory, one after the other.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "slipstream/engine.h"

namespace slipstream {

struct Workload {
  int64_t input_len = 0;
  int64_t output_len = 0;
  int64_t batch = 1;  // requests that are answered at once
};

struct RoofRates {
  double read_gb_s = 0.0;
  std::map<std::string, double> gemm_tflops;  // by ModelFlops' formats
};

// Output tokens per second. A request costs the products of its input_len + output_len tokens and
// of output_len rows of logits, attention's of its prompt, its share of the weights that each of
// its output_len steps reads, and the reading of its own K and V in each; attention is computed at
// the rate of the head's format, which is what its operands have on a GPU. 0: a rate is missing.
double serial_roof_tok_s(const ModelInfo& model, const Workload& work, const RoofRates& rates);

}  // namespace slipstream

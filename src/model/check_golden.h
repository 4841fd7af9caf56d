// Compares a model with the golden values beside it (tests/golden/models, tools/make_golden.py).
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "ops/ops.h"

namespace slipstream {

struct GoldenReport {
  std::string name;  // the folder's
  std::string family;
  std::string provenance;      // who computed the values, and who agreed
  int64_t num_logits = 0;      // compared
  double max_abs_error = 0.0;  // infinite when a logit is not finite
  double tolerance = 0.0;      // of the ops that were used
  int64_t num_greedy = 0;
  // Tokens before the first that differs: on a device of 16-bit activations, by more than these
  // explain.
  int64_t num_greedy_equal = 0;

  bool greedy_equal() const { return num_greedy_equal == num_greedy; }
  bool passed() const { return max_abs_error <= tolerance && greedy_equal(); }
};

// `folder` holds one model and its golden.json. The KV cache is float32, bf16 on a device.
Result<GoldenReport> check_golden(const std::string& folder, const Ops& ops);

// The folders below `root` that hold a golden.json, by name. An error when there is none.
Result<std::vector<std::string>> golden_folders(const std::string& root);

}  // namespace slipstream

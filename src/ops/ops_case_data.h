// What the files that make op cases share: seeded data, and views of it.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "ops/ops_cases.h"

namespace slipstream {

// Within +-scale, and the same as bf16: a table that keeps such reads what the reference reads.
std::vector<float> random_floats(int64_t count, uint64_t seed, float scale);

inline TensorView view2(std::vector<float>& values, int64_t rows, int64_t cols) {
  return TensorView::contiguous(values.data(), DType::kF32, {rows, cols});
}
inline TensorView view3(std::vector<float>& values, int64_t rows, int64_t heads, int64_t dim) {
  return TensorView::contiguous(values.data(), DType::kF32, {rows, heads, dim});
}

inline int64_t float_bytes(int64_t count) { return count * int64_t{sizeof(float)}; }

// Of ops_cases_attention.cc.
void add_attention_cases(std::vector<OpCase>& cases);

}  // namespace slipstream

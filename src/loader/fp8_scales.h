// The scales of FP8 checkpoints: where they lie beside an E4M3 weight, and what they may be.
//
//   X.weight_scale      one for all [] or [1]; one a row [rows] or [rows, 1]; or one for every
//   block X.weight_scale_inv  the same shapes; DeepSeek's name, by which stored values are
//   multiplied too
// Blocks are 128 x 128, cut off at the edges: [ceil(rows / 128), ceil(cols / 128)].
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quant/format.h"

namespace slipstream {

constexpr int64_t kFp8BlockSize = 128;

// The names under which the scales of a weight may be stored.
std::array<std::string, 2> fp8_scale_names(const std::string& weight_name);

// The grid, without data, that scales of this shape form on a rows x cols weight.
std::optional<ScaleGrid> fp8_scale_grid(const std::vector<int64_t>& shape, int64_t rows,
                                        int64_t cols);
// The shapes that fp8_scale_grid() takes, for messages.
std::string fp8_scale_shapes(int64_t rows, int64_t cols);

// What is wrong with the first scale that is not finite, not above zero, or so large that a product
// overflows; empty when all are good.
std::string fp8_scale_problem(const SourceMatrix& matrix);

}  // namespace slipstream

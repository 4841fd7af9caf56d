#include "loader/fp8_scales.h"

#include <limits>

#include "base/checked_math.h"
#include "base/strings.h"
#include "core/e4m3.h"

namespace slipstream {

std::array<std::string, 2> fp8_scale_names(const std::string& weight_name) {
  return {weight_name + "_scale", weight_name + "_scale_inv"};
}

std::optional<ScaleGrid> fp8_scale_grid(const std::vector<int64_t>& shape, int64_t rows,
                                        int64_t cols) {
  const auto grid = [](int64_t rows_per_scale, int64_t cols_per_scale) {
    return ScaleGrid{.rows_per_scale = rows_per_scale, .cols_per_scale = cols_per_scale};
  };
  using Shape = std::vector<int64_t>;
  if (shape.empty() || shape == Shape{1} || shape == Shape{1, 1}) {
    // Of a matrix of several blocks too: one scale is one scale.
    return grid(rows, cols);
  }
  if (shape == Shape{rows} || shape == Shape{rows, 1}) return grid(1, cols);
  if (shape == Shape{div_up(rows, kFp8BlockSize), div_up(cols, kFp8BlockSize)}) {
    return grid(kFp8BlockSize, kFp8BlockSize);
  }
  return std::nullopt;
}

std::string fp8_scale_shapes(int64_t rows, int64_t cols) {
  return str("[1], [", rows, "], [", rows, ", 1] or, for blocks of 128 x 128, [",
             div_up(rows, kFp8BlockSize), ", ", div_up(cols, kFp8BlockSize), "]");
}

std::string fp8_scale_problem(const SourceMatrix& matrix) {
  constexpr float kMost = std::numeric_limits<float>::max() / kE4m3Max;
  const ScaleGrid& grid = matrix.scales;
  int64_t idx = 0;
  for (int64_t row = 0; row < matrix.rows; row += grid.rows_per_scale) {
    for (int64_t col = 0; col < matrix.cols; col += grid.cols_per_scale) {
      const float scale = scale_at(matrix, row, col);
      // Written so that NaN fails.
      if (!(scale > 0.0f && scale <= kMost)) {
        return str("element ", idx, " is ", scale, ", expected a number above 0 and at most ",
                   kMost);
      }
      ++idx;
    }
  }
  return "";
}

}  // namespace slipstream

// bf16, E4M3 with a scale a row, or INT4 rows (quant/int4_rows.h), of what files store. Floats
// travel as they are and become it on the device; E4M3 with a scale for the tensor or a row is that
// already, and lies there as in the file. Block formats are dequantised by the host, E4M3 with a
// scale for every 128 x 128 among them: the products know scales of rows only, so its rows are
// rounded to E4M3 once more.
#include "ops/cuda/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <optional>
#include <vector>

#include "base/strings.h"
#include "core/e4m3.h"
#include "core/half.h"
#include "ops/cuda/convert.h"
#include "ops/cuda/device_state.h"

namespace slipstream::cuda {
namespace {

// Matrices packed one after the other lie one after the other, so that those that share an input
// (q, k, v; gate, up) are one matrix to the GEMM.
constexpr size_t kChunkBytes = size_t{2} << 30;

constexpr size_t kScaleChunkBytes = 4u << 20;
// As many scales as a chunk of INT4 values needs: both are left for the next at the same matrix.
constexpr size_t kGroupScaleChunkBytes =
    kChunkBytes / int4_value_bytes(kInt4Group) * sizeof(uint16_t);

// What one thread copies at a time on the way to pinned memory.
constexpr int64_t kPieceBytes = 256 << 10;

std::byte* take(std::shared_ptr<Buffer>& chunk, size_t& used, size_t bytes, size_t chunk_bytes) {
  if (chunk == nullptr || used + bytes > chunk->bytes()) {
    chunk = std::make_shared<Buffer>(std::max(bytes, chunk_bytes), device_memory());
    used = 0;
  }
  std::byte* const data = chunk->as<std::byte>() + used;
  used += align(bytes);
  return data;
}

// bf16 rows, rounded to nearest; and E4M3 rows with the scale that each row's largest value needs.
void round_row(const std::vector<float>& values, uint16_t* out) {
  for (size_t i = 0; i < values.size(); ++i) out[i] = f32_to_bf16(values[i]);
}
float quantize_row(const std::vector<float>& values, uint8_t* out) {
  float largest = 0.0f;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  const float scale = largest > 0.0f ? largest / 448.0f : 1.0f;
  for (size_t i = 0; i < values.size(); ++i) out[i] = f32_to_e4m3(values[i] / scale);
  return scale;
}

// Where a matrix will lie, its values not there yet. Throws std::bad_alloc.
Weight reserve(OpContext& ctx, QuantType type, int64_t rows, int64_t cols, WeightRole role) {
  Weight weight;
  weight.type = type;
  weight.layout = WeightLayout::kRows;
  weight.rows = rows;
  weight.cols = cols;
  weight.dtype = role == WeightRole::kLinear ? ctx.weight_dtype : DType::kBF16;
  weight.payload_bytes = rows * dtype_row_bytes(weight.dtype, cols);
  weight.payload = take(ctx.weight_chunk, ctx.weight_chunk_used,
                        static_cast<size_t>(weight.payload_bytes), kChunkBytes);
  weight.owner = ctx.weight_chunk;
  if (weight.dtype == DType::kF8E4M3) {
    DeviceState& state = state_of(ctx);
    weight.row_scales = reinterpret_cast<const float*>(
        take(state.scale_chunk, state.scale_chunk_used, static_cast<size_t>(rows) * sizeof(float),
             kScaleChunkBytes));
    weight.scales_owner = state.scale_chunk;
  } else if (weight.dtype == DType::kI4) {
    DeviceState& state = state_of(ctx);
    const auto bytes = static_cast<size_t>(rows * int4_num_scales(cols)) * sizeof(uint16_t);
    weight.group_scales = reinterpret_cast<const uint16_t*>(
        take(state.scale_chunk, state.scale_chunk_used, bytes, kGroupScaleChunkBytes));
    weight.scales_owner = state.scale_chunk;
  }
  return weight;
}

WeightRows rows_from(const Weight& weight, int64_t first_row) {
  const int64_t row_bytes = weight.payload_bytes / weight.rows;
  WeightRows rows{const_cast<std::byte*>(weight.payload) + first_row * row_bytes};
  if (weight.row_scales != nullptr) {
    rows.row_scales = const_cast<float*>(weight.row_scales) + first_row;
  }
  if (weight.group_scales != nullptr) {
    rows.group_scales =
        const_cast<uint16_t*>(weight.group_scales) + first_row * int4_num_scales(weight.cols);
  }
  return rows;
}

Status check_shape(const OpContext& ctx, int64_t rows, int64_t cols, WeightRole role) {
  if (cols % 16 != 0) {
    return does_not_fit(
        str("the GPU's kernels need rows of a multiple of 16 values; this matrix has ", cols));
  }
  if (role == WeightRole::kLinear && ctx.weight_dtype == DType::kF8E4M3 && rows % 16 != 0) {
    return does_not_fit(
        str("FP8 matrices need a multiple of 16 rows on the GPU; this one has ", rows));
  }
  if (role == WeightRole::kLinear && ctx.weight_dtype == DType::kI4 && !fits_int4(cols)) {
    return does_not_fit(str("INT4 matrices need a multiple of ", kInt4Group,
                            " columns; this one has ", cols, ": use quantization auto or fp8"));
  }
  return {};
}

std::optional<FloatType> float_type(QuantType type) {
  switch (type) {
    case QuantType::kF32:
      return FloatType::kF32;
    case QuantType::kF16:
      return FloatType::kF16;
    case QuantType::kBF16:
      return FloatType::kBF16;
    default:
      return std::nullopt;
  }
}

// Through pinned memory in turns: while one half is under way, all threads fill the other.
// deliver(half, first_row, num_rows) queues what brings a half's rows to their place.
template <typename Deliver>
Status upload(OpContext& ctx, const SourceMatrix& source, const Deliver& deliver) {
  DeviceState& state = state_of(ctx);
  SLIPSTREAM_RETURN_IF_ERROR(state.upload.open());
  const int64_t row_bytes = source.row_bytes();
  const int64_t rows_at_once = kUploadBytes / row_bytes;
  if (rows_at_once == 0) return does_not_fit(str("a row of ", row_bytes, " bytes is too long"));
  for (int64_t first = 0; first < source.rows; first += rows_at_once) {
    const int64_t num_rows = std::min(rows_at_once, source.rows - first);
    const int64_t bytes = num_rows * row_bytes;
    UploadHalf& half = state.upload.next();
    check(cudaEventSynchronize(half.done), "upload");
    const std::byte* const from = source.data + first * row_bytes;
    ctx.pool->run((bytes + kPieceBytes - 1) / kPieceBytes, [&](int64_t piece, int) {
      const int64_t begin = piece * kPieceBytes;
      std::memcpy(half.host.as<std::byte>() + begin, from + begin,
                  static_cast<size_t>(std::min(kPieceBytes, bytes - begin)));
    });
    deliver(half, first, num_rows);
    check(cudaEventRecord(half.done, state.stream), "upload");
  }
  return {};
}

Status upload_floats(OpContext& ctx, const SourceMatrix& source, FloatType type,
                     const Weight& weight) {
  const cudaStream_t stream = state_of(ctx).stream;
  return upload(ctx, source, [&](UploadHalf& half, int64_t first, int64_t num_rows) {
    const auto bytes = static_cast<size_t>(num_rows * source.row_bytes());
    check(cudaMemcpyAsync(half.device.data(), half.host.as<void>(), bytes, cudaMemcpyHostToDevice,
                          stream),
          "upload");
    check(convert_rows({half.device.data(), type, num_rows, source.cols}, rows_from(weight, first),
                       stream),
          "upload");
  });
}

// E4M3 whose rows have one scale each.
bool has_row_scales(const SourceMatrix& source) {
  return source.type == QuantType::kE4M3 &&
         (source.scales.data == nullptr || source.scales.cols_per_scale >= source.cols);
}

Status upload_stored_e4m3(OpContext& ctx, const SourceMatrix& source, const Weight& weight) {
  std::vector<float> scales(static_cast<size_t>(source.rows));
  for (int64_t row = 0; row < source.rows; ++row) {
    scales[static_cast<size_t>(row)] = scale_at(source, row, 0);
  }
  device_memory().copy_in(rows_from(weight, 0).row_scales, scales.data(),
                          scales.size() * sizeof(float));
  const cudaStream_t stream = state_of(ctx).stream;
  return upload(ctx, source, [&](UploadHalf& half, int64_t first, int64_t num_rows) {
    check(cudaMemcpyAsync(rows_from(weight, first).values, half.host.as<void>(),
                          static_cast<size_t>(num_rows * source.row_bytes()),
                          cudaMemcpyHostToDevice, stream),
          "upload");
  });
}

void upload_blocks(OpContext& ctx, const SourceMatrix& source, const Weight& weight) {
  const auto cols = static_cast<size_t>(source.cols);
  const int64_t row_bytes = weight.payload_bytes / weight.rows;
  std::vector<std::byte> packed(static_cast<size_t>(weight.payload_bytes));
  std::vector<float> scales(static_cast<size_t>(source.rows));
  std::vector<uint16_t> group_scales(static_cast<size_t>(weight.num_group_scales()));
  ctx.pool->run(source.rows, [&](int64_t row, int) {
    std::vector<float> values(cols);
    dequantize_row(source, row, values.data());
    std::byte* const out = packed.data() + row * row_bytes;
    if (weight.dtype == DType::kI4) {
      quantize_int4_row(values.data(), source.cols, reinterpret_cast<uint8_t*>(out),
                        group_scales.data() + row * int4_num_scales(source.cols));
    } else if (weight.dtype == DType::kF8E4M3) {
      scales[static_cast<size_t>(row)] = quantize_row(values, reinterpret_cast<uint8_t*>(out));
    } else {
      round_row(values, reinterpret_cast<uint16_t*>(out));
    }
  });
  const WeightRows out = rows_from(weight, 0);
  device_memory().copy_in(out.values, packed.data(), packed.size());
  if (out.row_scales != nullptr) {
    device_memory().copy_in(out.row_scales, scales.data(), scales.size() * sizeof(float));
  }
  if (out.group_scales != nullptr) {
    device_memory().copy_in(out.group_scales, group_scales.data(),
                            group_scales.size() * sizeof(uint16_t));
  }
}

Status does_not_fit_in_memory(int64_t bytes) {
  return does_not_fit(str("the weights need ", bytes, " more bytes and the GPU has ",
                          device_memory().free_bytes(), " left"));
}

}  // namespace

Result<Weight> pack(OpContext& ctx, const SourceMatrix& source, WeightRole role) try {
  SLIPSTREAM_RETURN_IF_ERROR(check_shape(ctx, source.rows, source.cols, role));
  Weight weight = reserve(ctx, source.type, source.rows, source.cols, role);
  if (const auto type = float_type(source.type)) {
    SLIPSTREAM_RETURN_IF_ERROR(upload_floats(ctx, source, *type, weight));
  } else if (weight.dtype == DType::kF8E4M3 && has_row_scales(source)) {
    SLIPSTREAM_RETURN_IF_ERROR(upload_stored_e4m3(ctx, source, weight));
  } else {
    upload_blocks(ctx, source, weight);
  }
  return weight;
} catch (const std::bad_alloc&) {
  return does_not_fit_in_memory(source.rows * source.cols);
}

Result<Weight> pack_random(OpContext& ctx, const RandomMatrix& matrix, WeightRole role) try {
  SLIPSTREAM_RETURN_IF_ERROR(check_shape(ctx, matrix.rows, matrix.cols, role));
  Weight weight = reserve(ctx, QuantType::kBF16, matrix.rows, matrix.cols, role);
  check(random_rows({.seed = matrix.seed,
                     .num_rows = matrix.rows,
                     .num_cols = matrix.cols,
                     .limit = matrix.limit(),
                     .first_col = matrix.first_col},
                    rows_from(weight, 0), state_of(ctx).stream),
        "random weights");
  return weight;
} catch (const std::bad_alloc&) {
  return does_not_fit_in_memory(matrix.rows * matrix.cols);
}

}  // namespace slipstream::cuda

#include "ops/gemm_roof.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <set>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "base/strings.h"
#include "core/half.h"

namespace slipstream {
namespace {

constexpr const char* kNoMemory = "there is no memory left to measure products in";
constexpr int kMostPasses = 5;
constexpr double kPassUs = 50e3;
constexpr double kEnoughUs = 2e6;  // the reference loops take seconds a pass

struct GemmSize {
  int64_t num_tokens = 0;
  int64_t rows = 0;
  int64_t cols = 0;
};
constexpr GemmSize kHostSize = {512, 4096, 4096};
constexpr GemmSize kDeviceSize = {8192, 8192, 8192};

// What `count` calls take, until their results are there.
template <typename Call>
double calls_us(const Ops& ops, OpContext& ctx, int64_t count, const Call& call) {
  if (ops.mark != nullptr) {
    ops.mark(ctx, 0);
    for (int64_t i = 0; i < count; ++i) call();
    ops.mark(ctx, 1);
    return ops.between_us(ctx, 0, 1);
  }
  const int64_t begin_ns = steady_now_ns();
  for (int64_t i = 0; i < count; ++i) call();
  return static_cast<double>(steady_now_ns() - begin_ns) * 1e-3;
}

// Random numbers of [-1, 1), in the backend's memory and type.
Buffer random_rows(const Ops& ops, int64_t count) {
  SplitMix64 random(2);
  const size_t bytes = static_cast<size_t>(count) * dtype_bytes(ops.activation_dtype);
  Buffer host(bytes);
  for (int64_t i = 0; i < count; ++i) {
    const float value = random.symmetric();
    if (ops.activation_dtype == DType::kBF16) {
      host.as<uint16_t>()[i] = f32_to_bf16(value);
    } else {
      host.as<float>()[i] = value;
    }
  }
  if (on_host(ops)) return host;
  Buffer device(bytes, *ops.memory);
  ops.memory->copy_in(device.data(), host.data(), bytes);
  return device;
}

GemmRate rate_of(std::vector<double> tflops) {
  std::sort(tflops.begin(), tflops.end());
  return {.median_tflops = tflops[tflops.size() / 2], .best_tflops = tflops.back()};
}

// Whole blocks of random numbers of [-1, 1); empty where the format is read-only.
std::vector<std::byte> random_blocks(const QuantFormat& format, int64_t num_values) {
  if (format.quantize_block == nullptr) return {};
  SplitMix64 random(1);
  std::vector<float> values(static_cast<size_t>(format.block_elements));
  const int64_t num_blocks = num_values / format.block_elements;
  std::vector<std::byte> blocks(static_cast<size_t>(num_blocks * format.block_bytes));
  for (int64_t block = 0; block < num_blocks; ++block) {
    for (float& value : values) value = random.symmetric();
    format.quantize_block(values.data(), blocks.data() + block * format.block_bytes);
  }
  return blocks;
}

// What a GPU packs for a format that gemm_format() names.
DType weight_dtype_of(std::string_view format) {
  for (const DType dtype : {DType::kF8E4M3, DType::kI4}) {
    if (format == dtype_name(dtype)) return dtype;
  }
  return DType::kBF16;
}

}  // namespace

std::string gemm_format(const Weight& weight) {
  return weight.layout == WeightLayout::kRows ? dtype_name(weight.dtype)
                                              : quant_format(weight.type).name;
}

Result<GemmRate> measure_gemm(const Ops& ops, ThreadPool& pool, const SourceMatrix& source,
                              DType weight_dtype, int64_t num_tokens) try {
  OpContext ctx;
  ctx.pool = &pool;
  ctx.weight_dtype = weight_dtype;
  SLIPSTREAM_RETURN_IF_ERROR(ops.open(ctx, {.max_tokens = num_tokens,
                                            .max_logit_rows = num_tokens,
                                            .max_cols = source.cols,
                                            .max_heads = 1,
                                            .max_head_dim = 64,
                                            .max_context = 16}));
  SLIPSTREAM_ASSIGN_OR_RETURN(const Weight weight, ops.pack(ctx, source, WeightRole::kLinear));
  const Buffer x = random_rows(ops, num_tokens * source.cols);
  const TensorView x_view =
      TensorView::contiguous(x.data(), ops.activation_dtype, {num_tokens, source.cols});
  const DType input = ops.linear_input(weight);
  Activations activations = x_view;
  Buffer stored;
  Buffer scales;
  if (input != ops.activation_dtype) {
    stored =
        Buffer(static_cast<size_t>(num_tokens * source.cols) * dtype_bytes(input), *ops.memory);
    scales = Buffer(static_cast<size_t>(num_tokens) * sizeof(float), *ops.memory);
    activations = {TensorView::contiguous(stored.data(), input, {num_tokens, source.cols}),
                   scales.as<float>()};
    ops.to_activations(ctx, x_view, activations);
  }
  const Buffer y(static_cast<size_t>(num_tokens * source.rows) * dtype_bytes(ops.activation_dtype),
                 *ops.memory);
  const LinearPart part{
      &weight, nullptr,
      TensorView::contiguous(y.data(), ops.activation_dtype, {num_tokens, source.rows})};
  const auto multiply = [&] { ops.linear(ctx, activations, {&part, 1}); };

  (void)calls_us(ops, ctx, 1, multiply);  // the first call prepares
  const double call_us = std::max(calls_us(ops, ctx, 1, multiply), 1.0);
  const auto calls = static_cast<int64_t>(std::ceil(kPassUs / call_us));
  const double flops = 2.0 * static_cast<double>(num_tokens) * static_cast<double>(source.rows) *
                       static_cast<double>(source.cols);
  std::vector<double> tflops;
  double spent_us = 0.0;
  for (int pass = 0; pass < kMostPasses && (pass == 0 || spent_us < kEnoughUs); ++pass) {
    const double us = calls_us(ops, ctx, calls, multiply);
    tflops.push_back(flops * static_cast<double>(calls) / us * 1e-6);
    spent_us += us;
  }
  return rate_of(std::move(tflops));
} catch (const std::bad_alloc&) {
  return does_not_fit(kNoMemory);
}

Result<GemmRate> measure_gemm(const Ops& ops, ThreadPool& pool, const std::string& format) try {
  const bool host = on_host(ops);
  const QuantFormat* const source_format =
      host ? find_quant_format(format) : &quant_format(QuantType::kBF16);
  if (source_format == nullptr) return bad_usage(str("no products in ", format, " on the CPU"));
  const GemmSize size = host ? kHostSize : kDeviceSize;
  const std::vector<std::byte> blocks = random_blocks(*source_format, size.rows * size.cols);
  if (blocks.empty()) return bad_usage(str(format, " is read-only here"));
  return measure_gemm(ops, pool, {blocks.data(), source_format->type, size.rows, size.cols},
                      weight_dtype_of(format), size.num_tokens);
} catch (const std::bad_alloc&) {
  return does_not_fit(kNoMemory);
}

std::map<std::string, double> measure_gemm_rates(const Ops& ops, ThreadPool& pool,
                                                 std::span<const std::string> formats) {
  std::map<std::string, double> tflops;
  for (const std::string& format : std::set(formats.begin(), formats.end())) {
    if (format.empty()) continue;
    const Result<GemmRate> rate = measure_gemm(ops, pool, format);
    if (rate.ok()) tflops[format] = rate.value().median_tflops;
  }
  return tflops;
}

}  // namespace slipstream

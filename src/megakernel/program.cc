#include "megakernel/program.h"

#include <algorithm>
#include <bit>

#include "base/checked_math.h"
#include "base/strings.h"

namespace slipstream {
namespace {

// A CTA whose share of a product is empty would not wait for the others.
constexpr int64_t kLeastUnits = kDecodeCtas;
// Rows of x that a CTA keeps.
constexpr int64_t kMostRows = 64;
constexpr int64_t kMostVocab = (1 << 23) - 1;

ProductPhase product_phase(int64_t rows, int64_t cols, StreamFormat format) {
  ProductPhase phase;
  phase.num_units = static_cast<int32_t>(div_up<int64_t>(rows, kUnitRows));
  phase.num_cols = static_cast<int32_t>(cols);
  phase.num_slices = static_cast<int32_t>(div_up<int64_t>(cols, kSliceCols));
  phase.num_rounds = static_cast<int32_t>(div_up<int64_t>(phase.num_slices, kConsumerWarps));
  phase.round_slices = div_up(phase.num_slices, phase.num_rounds);
  phase.format = format;
  for (int cta = 0; cta < kDecodeCtas; ++cta) {
    phase.max_tiles = std::max(phase.max_tiles, tile_share(phase.num_units, cta).num_tiles());
  }
  return phase;
}

Status unsupported(const std::string& what) { return bad_usage(what); }

// What the kernel takes for granted.
Status check_spec(const DecoderSpec& spec) {
  const LayerSpec& first = spec.layers.front();
  const AttentionSpec& attention = first.attention;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& other = layer.attention;
    if (other.num_heads != attention.num_heads || other.num_kv_heads != attention.num_kv_heads ||
        other.head_dim != attention.head_dim || other.qk_norm != attention.qk_norm ||
        layer.mlp.intermediate_size != first.mlp.intermediate_size) {
      return unsupported("its layers differ in shape");
    }
    if (other.window > 0) return unsupported("it attends to a sliding window");
  }
  if (spec.rope.rotary_dim != attention.head_dim) {
    return unsupported("it rotates a part of each head");
  }
  if (spec.rope.interleaved) return unsupported("it rotates neighbouring values");
  if (std::ssize(spec.layers) > kMaxLayers) {
    return unsupported(str("it has more than ", kMaxLayers, " layers"));
  }
  const int64_t least = kLeastUnits * kUnitRows;
  const int64_t most = kMostRows * kDecodeCtas;
  if (spec.hidden_size < least || spec.hidden_size > most || spec.hidden_size % kUnitRows != 0) {
    return unsupported(str("its hidden_size is ", spec.hidden_size, ", not a multiple of ",
                           kUnitRows, " from ", least, " to ", most));
  }
  const int64_t intermediate = first.mlp.intermediate_size;
  if (intermediate < least / 2 || intermediate % kUnitRows != 0) {
    return unsupported(str("its intermediate_size is ", intermediate));
  }
  if (spec.vocab_size < least || spec.vocab_size > kMostVocab) {
    return unsupported(str("its vocab_size is ", spec.vocab_size));
  }
  const int64_t width = int64_t{attention.num_heads} * attention.head_dim;
  if (div_up<int64_t>(width, kDecodeCtas) > 32 || attention.num_kv_heads > kDecodeCtas) {
    return unsupported(str("its attention is ", width, " wide, more than ", 32 * kDecodeCtas));
  }
  if (width + int64_t{2} * attention.num_kv_heads * attention.head_dim < least) {
    return unsupported("it has too few heads");
  }
  return {};
}

// Inputs that enter products as integers or f16.
Status check_scaled(const DecodeProgram& program) {
  const StreamFormat layers = program.key.layers;
  if (!is_scaled(layers)) return {};
  const bool is_i4 = layers == StreamFormat::kI4;
  constexpr int kRoundCols = kConsumerWarps * kSliceCols;
  const auto& products = program.products;
  if (std::max(products[kQkv].num_rounds, products[kOut].num_rounds) > kMostScaledRounds) {
    return unsupported(str("its inputs are wider than the ", kMostScaledRounds * kRoundCols,
                           " that ", is_i4 ? "INT4" : "FP8", " weights are multiplied with"));
  }
  if (!is_i4) return {};
  if (products[kDown].num_rounds > kMostI4DownRounds) {
    return unsupported(str("its intermediate_size is more than the ",
                           kMostI4DownRounds * kRoundCols,
                           " that INT4 weights are multiplied with"));
  }
  for (const ProductPhase& phase : products) {
    if (phase.num_cols % kSliceCols != 0) {
      return unsupported(
          str("an INT4 matrix has ", phase.num_cols, " columns, not a multiple of ", kSliceCols));
    }
  }
  return {};
}

}  // namespace

Result<DecodeProgram> make_program(const DecoderSpec& spec, StreamFormat layers,
                                   StreamFormat lm_head) {
  SLIPSTREAM_RETURN_IF_ERROR(check_spec(spec));
  const AttentionSpec& attention = spec.layers.front().attention;
  const int64_t intermediate = spec.layers.front().mlp.intermediate_size;
  DecodeProgram program;
  program.num_layers = static_cast<int>(spec.layers.size());
  program.hidden_size = static_cast<int>(spec.hidden_size);
  program.vocab_size = static_cast<int>(spec.vocab_size);
  program.num_heads = attention.num_heads;
  program.num_kv_heads = attention.num_kv_heads;
  program.head_dim = attention.head_dim;
  program.key = {attention.head_dim, program.heads_per_kv_head(), layers, lm_head};
  const int64_t width = program.attention_width();
  program.products[kQkv] = product_phase(program.qkv_rows(), spec.hidden_size, layers);
  program.products[kOut] = product_phase(spec.hidden_size, width, layers);
  program.products[kGateUp] = product_phase(2 * intermediate, spec.hidden_size, layers);
  program.products[kDown] = product_phase(spec.hidden_size, intermediate, layers);
  program.products[kHead] = product_phase(spec.vocab_size, spec.hidden_size, lm_head);
  const bool row_scales = layers == StreamFormat::kF8E4M3;
  program.products[kQkv].has_table = row_scales || attention.qkv_bias;
  program.products[kOut].has_table = row_scales || attention.out_bias;
  program.products[kGateUp].has_table = row_scales || spec.layers.front().mlp.bias;
  program.products[kDown].has_table = row_scales || spec.layers.front().mlp.bias;
  SLIPSTREAM_RETURN_IF_ERROR(check_scaled(program));
  if (lm_head != StreamFormat::kBF16) return unsupported("its LM head is not in bf16");
  for (const ProductPhase& phase : program.products) {
    if (phase.has_table != 0 && phase.max_tiles > kMaxTableTiles) {
      return unsupported(str("a multiprocessor has ", phase.max_tiles, " tiles of a product, of ",
                             kMaxTableTiles, " it can keep the scales of"));
    }
  }
  const auto parts = static_cast<unsigned>(kDecodeCtas / attention.num_kv_heads);
  program.log2_parts = std::bit_width(std::min(parts, 64u)) - 1;
  program.attention_per_cta = static_cast<int>(div_up<int64_t>(width, kDecodeCtas));
  for (const ProductPhase& phase : program.products) {
    program.most_slices = std::max(program.most_slices, phase.num_slices);
  }
  for (int cta = 0; cta < kDecodeCtas; ++cta) {
    const int64_t bytes = product_offset(program.products.data(), cta, program.num_layers, kHead) +
                          product_bytes(program.products[kHead], cta);
    program.stream_stride = std::max(program.stream_stride, bytes);
  }
  return program;
}

}  // namespace slipstream

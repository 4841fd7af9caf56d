// DecodeProgram: how the persistent kernel computes a model, made of its DecoderSpec: which kernel,
// what every CTA has of each product, how attention is split, what memory that takes. Pure data.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "base/status.h"
#include "megakernel/abi.h"
#include "megakernel/decode_kernel.h"
#include "model/spec.h"

namespace slipstream {

struct DecodeProgram {
  KernelKey key;
  std::array<ProductPhase, kNumProducts> products;
  int num_layers = 0;
  int hidden_size = 0;
  int vocab_size = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int log2_parts = 0;
  int attention_per_cta = 0;
  int most_slices = 0;  // of an input of a product
  int64_t stream_stride = 0;

  int attention_width() const { return num_heads * head_dim; }
  int heads_per_kv_head() const { return num_heads / num_kv_heads; }
  int qkv_rows() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
  bool has_tables() const {
    return std::any_of(products.begin(), products.end(),
                       [](const ProductPhase& phase) { return phase.has_table != 0; });
  }
  // What it takes of the device's memory: streams, and a little for words and tables.
  int64_t device_bytes() const { return streams_bytes() + (int64_t{64} << 20); }
  int64_t streams_bytes() const { return stream_stride * kDecodeCtas; }
};

// Why the kernel cannot compute the model is the error's text.
Result<DecodeProgram> make_program(const DecoderSpec& spec, StreamFormat layers,
                                   StreamFormat lm_head);

}  // namespace slipstream

// DecoderSpec: the architecture as data. The eager forward, graphs and the megakernel read it; a
// family fills it in and gives the names under which a checkpoint stores each matrix.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace slipstream {

enum class Activation : uint8_t { kSilu };

struct AttentionSpec {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float scale = 0.0f;  // 1 / sqrt(head_dim)
  int window = 0;      // 0: full
  bool qkv_bias = false;
  bool out_bias = false;
  bool qk_norm = false;  // RMS norm per head before RoPE
};

struct MlpSpec {
  int64_t intermediate_size = 0;
  Activation activation = Activation::kSilu;
  bool bias = false;
};

struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
};

struct DecoderSpec {
  int64_t hidden_size = 0;
  int64_t vocab_size = 0;
  float norm_eps = 1e-5f;
  bool tied_embeddings = false;
  RopeConfig rope;
  std::vector<LayerSpec> layers;
};

// Names under which a checkpoint stores one layer's tensors; "%d" stands for the layer index.
// Empty: the family has no such tensor.
struct WeightNames {
  std::string embed, final_norm, lm_head;
  std::string attn_norm, q, k, v, o, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm;
  std::string mlp_norm, gate, up, down, gate_bias, up_bias, down_bias;
};

// inv_freq[rotary_dim / 2] with scaling applied; `attention_factor` multiplies cos and sin.
struct RopeFrequencies {
  std::vector<float> inv_freq;
  float attention_factor = 1.0f;
};
RopeFrequencies rope_frequencies(const RopeConfig& rope);

}  // namespace slipstream

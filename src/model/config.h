// ModelConfig: what a checkpoint says about its architecture, in Hugging Face's names.
// Immutable after a family has read it. DecoderSpec (spec.h) is derived from it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace slipstream {

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn };

struct RopeConfig {
  double theta = 10000.0;
  int rotary_dim = 0;        // head_dim unless partial
  bool interleaved = false;  // pairs (2i, 2i+1): GGUF llama
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  double attention_factor = 1.0;  // yarn
  bool truncate = true;           // yarn: the ramp ends at whole dimensions
  int64_t original_max_position_embeddings = 0;
  std::vector<float> freq_factors;  // GGUF rope_freqs.weight: inv_freq is divided by these
};

struct ModelConfig {
  std::string family;  // "llama", "qwen2", "qwen3"
  std::string name;    // general.name, or empty
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t vocab_size = 0;  // rows of the embedding; logits have this width
  int num_hidden_layers = 0;
  int num_attention_heads = 0;
  int num_key_value_heads = 0;
  int head_dim = 0;
  float rms_norm_eps = 1e-5f;
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // q, k, v have biases
  bool attention_out_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;
  int sliding_window = 0;            // 0: full attention
  std::vector<bool> sliding_layers;  // per layer; empty: every layer, when sliding_window > 0
  RopeConfig rope;
  std::vector<int32_t> eos_token_ids;  // from config/generation_config; the tokenizer adds its own
};

}  // namespace slipstream

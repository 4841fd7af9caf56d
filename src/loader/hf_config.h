// config.json and generation_config.json of a Hugging Face folder.
//
// Owns the parsed files and range-checked access to them: a value is checked, and named in the
// error, before anyone sizes anything by it. Does not know model families: they ask for the keys
// they need.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace slipstream {

struct IntRange {
  int64_t min = 0;
  int64_t max = std::numeric_limits<int64_t>::max();
};

struct NumberRange {
  double min = -std::numeric_limits<double>::max();
  double max = std::numeric_limits<double>::max();
};

// What generation_config.json recommends; absent where it says nothing.
struct GenerationDefaults {
  std::optional<bool> do_sample;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::vector<int32_t> eos_token_ids;  // of generation_config.json, else of config.json
};

// The sizes that decide every other size, checked against limits and each other.
struct HfDims {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t vocab_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // num_attention_heads when absent
  int64_t head_dim = 0;             // hidden_size / num_attention_heads when absent
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 0.0;
};

class HfConfig {
 public:
  // Reads `folder`/config.json and, if there is one, `folder`/generation_config.json.
  static Result<HfConfig> open(const std::string& folder);
  // The same from texts; an empty `generation_text` stands for no file. `name` is config.json's
  // path in messages.
  static Result<HfConfig> from_text(std::string_view config_text, std::string_view generation_text,
                                    const std::string& name);

  // The object that holds the language model's keys: "text_config" where a multimodal wrapper
  // nests it, else the whole of config.json. A key missing there is looked up in the whole.
  const Json& model() const { return model_; }
  const Json& root() const { return root_; }
  const std::string& path() const { return path_; }

  // "llama": of text_config where nested. Empty when absent.
  const std::string& model_type() const { return model_type_; }
  const std::string& architecture() const { return architecture_; }  // architectures[0] or empty

  // A member, also by a dotted path into nested objects ("rope_parameters.rope_theta"); null when
  // absent or JSON null.
  const Json* find(std::string_view key) const;
  bool contains(std::string_view key) const { return find(key) != nullptr; }

  // Typed getters. A wrong type or a value out of range is an error naming file and key. Without a
  // fallback the key must be there.
  Result<int64_t> get_int(std::string_view key, IntRange range) const;
  Result<int64_t> get_int(std::string_view key, IntRange range, int64_t fallback) const;
  Result<double> get_number(std::string_view key, NumberRange range) const;
  Result<double> get_number(std::string_view key, NumberRange range, double fallback) const;
  Result<bool> get_bool(std::string_view key, bool fallback) const;
  Result<std::string> get_string(std::string_view key, const std::string& fallback) const;

  // The common sizes. Every field is within limits that no model comes near; heads divide.
  Result<HfDims> dims() const;

  const GenerationDefaults& generation_defaults() const { return generation_; }

 private:
  Status error(std::string_view key, const std::string& problem) const;
  Status read_generation_defaults(std::string_view generation_text);

  std::string path_;
  Json root_;
  Json model_;
  std::string model_type_;
  std::string architecture_;
  GenerationDefaults generation_;
};

}  // namespace slipstream

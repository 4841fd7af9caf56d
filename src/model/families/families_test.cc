// What each family reads from config.json, and what it refuses.
#include "model/families/families.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/json.h"
#include "loader/checkpoint.h"

namespace slipstream {
namespace {

Json base_config(const std::string& model_type) {
  return Json{{"model_type", model_type}, {"hidden_size", 64},
              {"intermediate_size", 128}, {"num_hidden_layers", 4},
              {"num_attention_heads", 8}, {"num_key_value_heads", 2},
              {"vocab_size", 1000},       {"max_position_embeddings", 2048},
              {"rms_norm_eps", 1e-6}};
}

Result<ModelDescription> describe(const Json& config) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const HfConfig hf,
                              HfConfig::from_text(dump_json(config), "", "config.json"));
  return describe_config(hf);
}

ModelConfig read(const Json& config) {
  auto model = describe(config);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return model.ok() ? model->config : ModelConfig();
}

Json with(Json config, const std::string& key, const Json& value) {
  config[key] = value;
  return config;
}

TEST(Families, EveryFamilyOfTheListIsFoundByItsName) {
  for (const ModelFamily& family : model_families()) {
    EXPECT_EQ(read(base_config(family.hf_model_type)).family, family.name);
  }
}

TEST(Families, AnUnknownFamilyNamesTheKnownOnes) {
  const auto model = describe(base_config("gpt_neox"));
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.status().code(), StatusCode::kInvalidModel);
  for (const char* word : {"config.json", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"}) {
    EXPECT_NE(model.status().message().find(word), std::string::npos) << word;
  }
}

TEST(Families, AbsentKeysHaveTheDefaultsOfTransformers) {
  Json config = base_config("llama");
  config.erase("num_key_value_heads");
  const ModelConfig model = read(config);
  EXPECT_EQ(model.num_key_value_heads, 8);
  EXPECT_EQ(model.head_dim, 8);
  EXPECT_EQ(model.rope.theta, 10000.0);
  EXPECT_EQ(model.rope.rotary_dim, 8);
  EXPECT_EQ(model.rope.scaling, RopeScaling::kNone);
  EXPECT_FALSE(model.rope.interleaved);
  EXPECT_FALSE(model.tie_word_embeddings);
  EXPECT_FALSE(model.attention_bias);
  EXPECT_EQ(model.sliding_window, 0);
}

TEST(Families, BothDialectsOfRopeAreTheSameModel) {
  const Json scaling = {{"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 512}};
  Json four = base_config("llama");
  four["rope_theta"] = 500000.0;
  four["rope_scaling"] = scaling;
  four["rope_scaling"]["rope_type"] = "llama3";
  Json five = base_config("llama");
  five["rope_parameters"] = scaling;
  five["rope_parameters"]["rope_type"] = "llama3";
  five["rope_parameters"]["rope_theta"] = 500000.0;
  for (const Json& config : {four, five}) {
    const RopeConfig rope = read(config).rope;
    EXPECT_EQ(rope.theta, 500000.0);
    EXPECT_EQ(rope.scaling, RopeScaling::kLlama3);
    EXPECT_EQ(rope.factor, 8.0);
    EXPECT_EQ(rope.original_max_position_embeddings, 512);
  }
}

TEST(Families, TheOldestDialectNamesTheKindType) {
  const Json scaling = {{"type", "linear"}, {"factor", 2.0}};
  const RopeConfig rope = read(with(base_config("llama"), "rope_scaling", scaling)).rope;
  EXPECT_EQ(rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(rope.factor, 2.0);
}

TEST(Families, YarnExtendsTheContextAndHasATemperature) {
  Json scaling = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 2048}};
  ModelConfig model = read(with(base_config("qwen2"), "rope_scaling", scaling));
  EXPECT_EQ(model.max_position_embeddings, 8192);
  EXPECT_NEAR(model.rope.attention_factor, 1.1386294, 1e-6);
  scaling["attention_factor"] = 0.9;
  model = read(with(base_config("qwen2"), "rope_scaling", scaling));
  EXPECT_EQ(model.rope.attention_factor, 0.9);
  scaling.erase("attention_factor");
  scaling["mscale"] = 1.0;
  scaling["mscale_all_dim"] = 1.0;
  EXPECT_EQ(read(with(base_config("qwen2"), "rope_scaling", scaling)).rope.attention_factor, 1.0);
}

TEST(Families, LlamaHasOneKeyForAllBiasesOfAttention) {
  Json config = base_config("llama");
  config["attention_bias"] = true;
  config["mlp_bias"] = true;
  const auto model = describe(config);
  ASSERT_TRUE(model.ok());
  EXPECT_TRUE(model->spec.layers[0].attention.qkv_bias);
  EXPECT_TRUE(model->spec.layers[0].attention.out_bias);
  EXPECT_TRUE(model->spec.layers[0].mlp.bias);
}

TEST(Families, Qwen2HasBiasesOnQKVAndNotOnO) {
  const ModelConfig model = read(base_config("qwen2"));
  EXPECT_TRUE(model.attention_bias);
  EXPECT_FALSE(model.attention_out_bias);
  EXPECT_FALSE(model.qk_norm);
}

TEST(Families, Qwen3NormsHeadsAndHasAHeadDimOfItsOwn) {
  const ModelConfig absent = read(base_config("qwen3"));
  EXPECT_TRUE(absent.qk_norm);
  EXPECT_EQ(absent.head_dim, 128);
  EXPECT_EQ(absent.rope.rotary_dim, 128);
  EXPECT_EQ(read(with(base_config("qwen3"), "head_dim", 32)).head_dim, 32);
}

TEST(Families, MistralsWindowIsItsDefaultUnlessNull) {
  EXPECT_EQ(read(base_config("mistral")).sliding_window, 4096);
  EXPECT_EQ(read(with(base_config("mistral"), "sliding_window", nullptr)).sliding_window, 0);
  EXPECT_EQ(read(with(base_config("mistral"), "sliding_window", 77)).sliding_window, 77);
}

std::vector<int> windows(const Json& config) {
  const auto model = describe(config);
  EXPECT_TRUE(model.ok()) << model.status().message();
  std::vector<int> result;
  if (!model.ok()) return result;
  for (const LayerSpec& layer : model->spec.layers) result.push_back(layer.attention.window);
  return result;
}

TEST(Families, QwensWindowNeedsItsSwitchAndCountsLayers) {
  Json config = base_config("qwen2");
  config["sliding_window"] = 32;
  config["max_window_layers"] = 3;
  EXPECT_EQ(windows(config), (std::vector<int>{0, 0, 0, 0}));
  config["use_sliding_window"] = true;
  EXPECT_EQ(windows(config), (std::vector<int>{0, 0, 0, 32}));
  config["layer_types"] = {"full_attention", "sliding_attention", "full_attention",
                           "full_attention"};
  EXPECT_EQ(windows(config), (std::vector<int>{0, 32, 0, 0}));
}

TEST(Families, AWrappersTextConfigIsTheModel) {
  const Json wrapper = {{"model_type", "some_vision_model"}, {"text_config", base_config("llama")}};
  EXPECT_EQ(read(wrapper).hidden_size, 64);
}

TEST(Families, EndTokensAreOneOrMany) {
  EXPECT_EQ(read(with(base_config("llama"), "eos_token_id", 2)).eos_token_ids,
            (std::vector<int32_t>{2}));
  EXPECT_EQ(read(with(base_config("llama"), "eos_token_id", {2, 5})).eos_token_ids,
            (std::vector<int32_t>{2, 5}));
}

TEST(Families, ImpossibleAndUnsupportedValuesNameTheirKey) {
  struct Case {
    const char* key;
    Json value;
    const char* named;  // what the message must contain
  };
  const std::vector<Case> cases = {
      {"hidden_size", 0, "hidden_size"},
      {"hidden_size", -64, "hidden_size"},
      {"hidden_size", 1e308, "hidden_size"},
      {"hidden_size", "64", "hidden_size"},
      {"hidden_size", nullptr, "hidden_size"},
      {"intermediate_size", 0, "intermediate_size"},
      {"vocab_size", int64_t{1} << 31, "vocab_size"},
      {"num_hidden_layers", 1'000'000'000, "num_hidden_layers"},
      {"num_attention_heads", 7, "num_attention_heads"},
      {"num_key_value_heads", 0, "num_key_value_heads"},
      {"num_key_value_heads", 3, "num_key_value_heads"},
      {"head_dim", 7, "head_dim"},
      {"head_dim", 2048, "head_dim"},
      {"rms_norm_eps", -1.0, "rms_norm_eps"},
      {"max_position_embeddings", 0, "max_position_embeddings"},
      {"rope_theta", -1.0, "rope_theta"},
      {"rope_theta", 1.0, "rope_theta"},
      {"rope_theta", "nan", "rope_theta"},
      {"rope_scaling", 8, "rope_scaling"},
      {"rope_scaling", {{"rope_type", "longrope"}}, "longrope"},
      {"rope_scaling", {{"rope_type", "linear"}, {"factor", 0.0}}, "rope_scaling.factor"},
      {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}, "low_freq_factor"},
      {"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}}}}, "rope_parameters"},
      {"partial_rotary_factor", 0.5, "partial_rotary_factor"},
      {"hidden_act", "gelu", "hidden_act"},
      {"tie_word_embeddings", "yes", "tie_word_embeddings"},
      {"quantization_config", {{"quant_method", "gptq"}}, "gptq"},
      {"model_type", "", "model_type"},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(std::string(test.key) + " = " + dump_json(test.value));
    const auto model = describe(with(base_config("llama"), test.key, test.value));
    ASSERT_FALSE(model.ok());
    EXPECT_EQ(model.status().code(), StatusCode::kInvalidModel);
    EXPECT_NE(model.status().message().find(test.named), std::string::npos)
        << model.status().message();
    EXPECT_NE(model.status().message().find("config.json"), std::string::npos);
  }
}

TEST(Families, QwensLayerTypesMustFitTheLayers) {
  Json config = base_config("qwen3");
  config["use_sliding_window"] = true;
  config["layer_types"] = {"full_attention"};
  EXPECT_FALSE(describe(config).ok());
  config["layer_types"] = {"full_attention", "full_attention", "full_attention", "linear"};
  EXPECT_FALSE(describe(config).ok());
}

}  // namespace
}  // namespace slipstream

// HfConfig: both dialects and nesting are read, and values that no model has are refused by name
// before anything is sized by them. M numbers are the rows of the catalogue of bad model files.
#include "loader/hf_config.h"

#include <gtest/gtest.h>

#include <map>

#include "base/strings.h"
#include "loader/model_files_for_test.h"

namespace slipstream {
namespace {

using Fields = std::map<std::string, std::string>;

Fields good_fields() {
  return {{"model_type", "\"llama\""},
          {"architectures", "[\"LlamaForCausalLM\"]"},
          {"hidden_size", "64"},
          {"intermediate_size", "172"},
          {"vocab_size", "512"},
          {"num_hidden_layers", "5"},
          {"num_attention_heads", "8"},
          {"num_key_value_heads", "4"},
          {"max_position_embeddings", "512"},
          {"rms_norm_eps", "1e-05"},
          {"eos_token_id", "2"}};
}

std::string text_of(const Fields& fields) {
  std::string text = "{";
  for (const auto& [key, value] : fields) {
    text += str(text.size() > 1 ? "," : "", "\"", key, "\":", value);
  }
  return text + "}";
}

Result<HfConfig> parse(std::string_view config, std::string_view generation = "") {
  return HfConfig::from_text(config, generation, "m/config.json");
}

TEST(HfConfig, ReadsSizesAndDefaultsThatFollowFromOthers) {
  Fields fields = good_fields();
  fields.erase("num_key_value_heads");
  const auto config = parse(text_of(fields));
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->model_type(), "llama");
  EXPECT_EQ(config->architecture(), "LlamaForCausalLM");
  const auto dims = config->dims();
  ASSERT_TRUE(dims.ok()) << dims.status().message();
  EXPECT_EQ(dims->num_key_value_heads, 8);
  EXPECT_EQ(dims->head_dim, 8);
  EXPECT_EQ(dims->rms_norm_eps, 1e-5);
}

TEST(HfConfig, HeadDimMayBeUnrelatedToHiddenSize) {
  Fields fields = good_fields();
  fields["head_dim"] = "128";
  fields["hidden_size"] = "100";  // 8 heads do not divide it, and need not
  const auto config = parse(text_of(fields));
  ASSERT_TRUE(config.ok());
  const auto dims = config->dims();
  ASSERT_TRUE(dims.ok()) << dims.status().message();
  EXPECT_EQ(dims->head_dim, 128);
}

TEST(HfConfig, TextConfigHoldsTheModelAndTheRootFillsIn) {
  Fields fields = good_fields();
  fields.erase("eos_token_id");
  const std::string text =
      "{\"model_type\":\"wrapper\",\"eos_token_id\":[1,106],\"text_config\":" + text_of(fields) +
      "}";
  const auto config = parse(text);
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->model_type(), "llama");
  EXPECT_EQ(config->dims()->hidden_size, 64);
  EXPECT_EQ(config->generation_defaults().eos_token_ids, (std::vector<int32_t>{1, 106}));
}

TEST(HfConfig, DottedKeysReachNestedObjects) {
  const auto config = parse(R"({"rope_parameters":{"rope_theta":500000.0,"rope_type":"llama3"}})");
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->get_number("rope_parameters.rope_theta", {1.0, 1e12}).value(), 500000.0);
  EXPECT_EQ(config->get_string("rope_parameters.rope_type", "").value(), "llama3");
  EXPECT_FALSE(config->contains("rope_parameters.rope_theta.deeper"));
  EXPECT_FALSE(config->contains("rope_scaling.factor"));
}

TEST(HfConfig, NullMeansAbsent) {
  const auto config = parse(R"({"sliding_window":null})");
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->get_int("sliding_window", {1, 10}, 7).value(), 7);
  EXPECT_FALSE(config->get_int("sliding_window", {1, 10}).ok());
}

TEST(HfConfig, GenerationConfigWinsOverConfigForEos) {
  const auto config = parse(text_of(good_fields()),
                            R"({"eos_token_id":[128001,128008],"temperature":0.6,"top_p":0.9,
                                "top_k":50,"do_sample":true,"repetition_penalty":1.1})");
  ASSERT_TRUE(config.ok()) << config.status().message();
  const GenerationDefaults& defaults = config->generation_defaults();
  EXPECT_EQ(defaults.eos_token_ids, (std::vector<int32_t>{128001, 128008}));
  EXPECT_EQ(defaults.temperature, 0.6);
  EXPECT_EQ(defaults.top_p, 0.9);
  EXPECT_EQ(defaults.top_k, 50);
  EXPECT_EQ(defaults.do_sample, true);
  EXPECT_EQ(defaults.repetition_penalty, 1.1);
  EXPECT_EQ(defaults.min_p, std::nullopt);
}

TEST(HfConfig, WithoutGenerationConfigOnlyEosIsKnown) {
  const auto config = parse(text_of(good_fields()));
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->generation_defaults().eos_token_ids, (std::vector<int32_t>{2}));
  EXPECT_EQ(config->generation_defaults().temperature, std::nullopt);
}

TEST(HfConfig, M12_GenerationValuesOutOfRangeNameTheirFile) {
  for (const char* text :
       {R"({"temperature":-1})", R"({"temperature":1e308})", R"({"top_p":2})", R"({"top_k":1.5})",
        R"({"top_k":-2})", R"({"repetition_penalty":0})", R"({"do_sample":1})",
        R"({"eos_token_id":-1})", R"({"eos_token_id":4294967296})", R"({"eos_token_id":["2"]})",
        R"({"eos_token_id":"2"})", "[]", "{"}) {
    const auto config = parse(text_of(good_fields()), text);
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_EQ(config.status().code(), StatusCode::kInvalidModel);
    EXPECT_NE(config.status().message().find("generation_config.json"), std::string::npos)
        << config.status().message();
  }
}

TEST(HfConfig, M12_SizesOutOfRangeNameTheField) {
  struct Case {
    const char* field;
    const char* value;
  };
  for (const auto& [field, value] : std::vector<Case>{{"hidden_size", "0"},
                                                      {"hidden_size", "-64"},
                                                      {"hidden_size", "1e308"},
                                                      {"hidden_size", "64.0"},
                                                      {"hidden_size", "\"64\""},
                                                      {"hidden_size", "18446744073709551615"},
                                                      {"hidden_size", "99999999999999999999"},
                                                      {"hidden_size", "null"},
                                                      {"hidden_size", "[64]"},
                                                      {"hidden_size", "true"},
                                                      {"intermediate_size", "0"},
                                                      {"intermediate_size", "9223372036854775807"},
                                                      {"vocab_size", "2147483648"},
                                                      {"vocab_size", "0"},
                                                      {"num_hidden_layers", "1000000000"},
                                                      {"num_hidden_layers", "0"},
                                                      {"num_attention_heads", "0"},
                                                      {"num_attention_heads", "7"},
                                                      {"num_key_value_heads", "0"},
                                                      {"num_key_value_heads", "3"},
                                                      {"num_key_value_heads", "16"},
                                                      {"head_dim", "0"},
                                                      {"head_dim", "-8"},
                                                      {"head_dim", "1000000"},
                                                      {"max_position_embeddings", "0"},
                                                      {"max_position_embeddings", "1e9"},
                                                      {"rms_norm_eps", "0"},
                                                      {"rms_norm_eps", "-1e-5"},
                                                      {"rms_norm_eps", "1e308"},
                                                      {"rms_norm_eps", "\"NaN\""}}) {
    Fields fields = good_fields();
    fields[field] = value;
    const auto config = parse(text_of(fields));
    ASSERT_TRUE(config.ok()) << config.status().message();
    const auto dims = config->dims();
    ASSERT_FALSE(dims.ok()) << field << " = " << value;
    EXPECT_EQ(dims.status().code(), StatusCode::kInvalidModel);
    // Seven heads against four KV heads is reported at either name.
    const bool either = std::string(value) == "7";
    EXPECT_NE(dims.status().message().find(either ? "num_attention_heads" : field),
              std::string::npos)
        << dims.status().message();
    EXPECT_TRUE(starts_with(dims.status().message(), "m/config.json: ")) << dims.status().message();
  }
}

TEST(HfConfig, M12_MissingSizesNameTheField) {
  for (const char* field : {"hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers",
                            "num_attention_heads", "max_position_embeddings", "rms_norm_eps"}) {
    Fields fields = good_fields();
    fields.erase(field);
    const auto config = parse(text_of(fields));
    ASSERT_TRUE(config.ok());
    EXPECT_NE(config->dims().status().message().find(str("key '", field, "': is required")),
              std::string::npos)
        << config->dims().status().message();
  }
}

TEST(HfConfig, M12_NumbersOutOfRangeOrNotFiniteNameTheKey) {
  for (const char* value : {"0", "-1", "1e308", "\"NaN\"", "true", "[]"}) {
    const auto config = parse(str("{\"rope_theta\":", value, "}"));
    ASSERT_TRUE(config.ok());
    const auto theta = config->get_number("rope_theta", {1.0, 1e12}, 10000.0);
    ASSERT_FALSE(theta.ok()) << value;
    EXPECT_NE(theta.status().message().find("'rope_theta'"), std::string::npos);
  }
  // The bare words are not JSON.
  for (const char* word : {"NaN", "Infinity", "-Infinity", "1e999"}) {
    const auto config = parse(str("{\"rope_theta\":", word, "}"));
    ASSERT_FALSE(config.ok()) << word;
    EXPECT_EQ(config.status().code(), StatusCode::kInvalidModel);
  }
}

TEST(HfConfig, M12_DocumentsOfAnotherFormAreRefused) {
  std::string deep = "{\"a\":";
  for (int i = 0; i < 10'000; ++i) deep += "[";
  std::string wide = "{\"a0\":0";
  for (int i = 1; i < 20'000; ++i) wide += str(",\"a", i, "\":0");
  wide += "}";
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("null"),
        std::string("{} x"), std::string("{\"a\":1,\"a\":2}"), std::string("{\"text_config\":[]}"),
        std::string("{\"model_type\":1}"), std::string("{\"architectures\":{}}"),
        std::string("{\"architectures\":[]}"), std::string("{\"architectures\":[1]}"),
        std::string("{\"a\":\"\xff\"}"), deep, wide}) {
    const auto config = parse(text);
    ASSERT_FALSE(config.ok()) << text.substr(0, 40);
    EXPECT_EQ(config.status().code(), StatusCode::kInvalidModel);
    EXPECT_NE(config.status().message().find("m/config.json"), std::string::npos);
  }
}

TEST(HfConfig, M20_AnOverlongFileIsRefused) {
  const TempFolder folder;
  folder.write("config.json", "{}" + std::string(5u << 20, ' '));
  const auto config = HfConfig::open(folder.path());
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), StatusCode::kInvalidModel);
}

}  // namespace
}  // namespace slipstream

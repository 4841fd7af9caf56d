// Binding a checkpoint's tensors: everything missing or mis-shaped is named at once.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/json.h"
#include "base/mmap_file.h"
#include "loader/checkpoint.h"
#include "loader/model_files_for_test.h"
#include "model/decoder.h"
#include "model/families/families.h"
#include "model/test_ops.h"

namespace slipstream {
namespace {

const std::string kGolden = SLIPSTREAM_SOURCE_DIR "/tests/golden/models/llama";

// The golden model's weights under a changed configuration.
class BrokenWeights : public testing::Test {
 protected:
  Status load_with(const std::string& key, const Json& value) {
    const auto text = read_text_file(kGolden + "/config.json", 1 << 20);
    EXPECT_TRUE(text.ok());
    auto config = parse_json(text.value(), "config.json");
    EXPECT_TRUE(config.ok());
    config.value()[key] = value;
    folder_.write("config.json", dump_json(config.value()));
    std::filesystem::copy_file(kGolden + "/model.safetensors", folder_ / "model.safetensors",
                               std::filesystem::copy_options::overwrite_existing);
    const auto checkpoint = Checkpoint::open(folder_.path());
    if (!checkpoint.ok()) return checkpoint.status();
    const auto model = describe_model(*checkpoint.value());
    if (!model.ok()) return model.status();
    ThreadPool pool(1);
    OpContext ctx{.pool = &pool, .scratch = {}};
    int64_t last_done = 0;
    int64_t last_total = 0;
    const auto weights =
        load_weights(*checkpoint.value(), model->spec, model->names,
                     {*available_ops().front(), ctx}, [&](int64_t done, int64_t total) {
                       EXPECT_GT(done, last_done);
                       last_done = done;
                       last_total = total;
                     });
    if (weights.ok()) {
      EXPECT_EQ(last_done, last_total);
    }
    return weights.status();
  }

  TempFolder folder_;
};

TEST_F(BrokenWeights, TheUnchangedModelLoadsAndReportsProgressToTheEnd) {
  const Status status = load_with("hidden_act", "silu");
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST_F(BrokenWeights, EveryMissingTensorIsNamed) {
  const Status status = load_with("mlp_bias", true);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kInvalidModel);
  for (const char* name :
       {"model.layers.0.mlp.gate_proj.bias", "model.layers.1.mlp.up_proj.bias"}) {
    EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
  }
}

TEST_F(BrokenWeights, EveryMisShapedMatrixIsNamedWithBothShapes) {
  const Status status = load_with("intermediate_size", 72);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kInvalidModel);
  for (const char* word : {"layers.0.mlp.gate_proj", "layers.1.mlp.down_proj", "72", "64"}) {
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  }
}

TEST_F(BrokenWeights, AVocabularyThatIsNotTheEmbeddingsIsRefused) {
  const Status status = load_with("vocab_size", 97);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("embed_tokens"), std::string::npos) << status.message();
}

TEST_F(BrokenWeights, ExtraTensorsAreHarmless) {
  const Status status = load_with("num_hidden_layers", 1);
  EXPECT_TRUE(status.ok()) << status.message();
}

}  // namespace
}  // namespace slipstream

// Checkpoint: one directory of tensors whatever the files, on built and on real models, and clear
// lines for paths that are no model. M numbers are the rows of the catalogue of bad model files.
#include "loader/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "base/strings.h"
#include "core/half.h"
#include "loader/model_files_for_test.h"

namespace slipstream {
namespace {

namespace fs = std::filesystem;

template <typename T>
void expect_invalid(const Result<T>& result, const std::string& needle) {
  ASSERT_FALSE(result.ok()) << "accepted, expected: " << needle;
  EXPECT_EQ(result.status().code(), StatusCode::kInvalidModel) << result.status().message();
  EXPECT_NE(result.status().message().find(needle), std::string::npos) << result.status().message();
  EXPECT_EQ(result.status().message().find('\n'), std::string::npos);
}

std::string floats(std::initializer_list<float> values) {
  std::string bytes;
  for (const float value : values) bytes += raw(value);
  return bytes;
}

GgufBuilder small_gguf() {
  GgufBuilder builder;
  builder.text_key("general.architecture", "llama");
  builder.tensor("norm", {2}, 0, floats({1.0f, -2.0f}));
  builder.tensor("half_norm", {2}, 1, raw(f32_to_f16(0.5f)) + raw(f32_to_f16(3.0f)));
  builder.tensor("matrix", {32, 2}, 8, std::string(68, '\1'));
  builder.tensor("strange", {256}, 23, std::string(136, '\1'));
  return builder;
}

class CheckpointTest : public testing::Test {
 protected:
  std::unique_ptr<Checkpoint> open(const std::string& path) const {
    auto checkpoint = Checkpoint::open(path);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    return checkpoint.ok() ? std::move(checkpoint).value() : nullptr;
  }
  std::unique_ptr<Checkpoint> open_small() const {
    return open(folder_.write("m.gguf", small_gguf().text()));
  }
  TempFolder folder_;
};

TEST_F(CheckpointTest, GgufTensorsAreFoundByTheirNames) {
  const auto checkpoint = open_small();
  ASSERT_NE(checkpoint, nullptr);
  EXPECT_EQ(checkpoint->kind(), Checkpoint::kGguf);
  ASSERT_NE(checkpoint->gguf(), nullptr);
  EXPECT_EQ(checkpoint->hf(), nullptr);
  EXPECT_TRUE(checkpoint->contains("norm"));
  EXPECT_FALSE(checkpoint->contains("Norm"));
  EXPECT_EQ(checkpoint->tensors().size(), 4u);
  EXPECT_EQ(checkpoint->find("strange")->type_name, "IQ4_XS");
  EXPECT_EQ(checkpoint->file_bytes(), fs::file_size(folder_ / "m.gguf"));

  const auto matrix = checkpoint->matrix("matrix", 2, 32);
  ASSERT_TRUE(matrix.ok()) << matrix.status().message();
  EXPECT_EQ(matrix->type, QuantType::kQ8_0);
  EXPECT_EQ(matrix->data[67], std::byte{1});
  checkpoint->drop("matrix");
  EXPECT_EQ(matrix->data[67], std::byte{1});
  EXPECT_EQ(checkpoint->vector("norm", 2).value(), (std::vector<float>{1.0f, -2.0f}));
  EXPECT_EQ(checkpoint->vector("half_norm", 2).value(), (std::vector<float>{0.5f, 3.0f}));
}

TEST_F(CheckpointTest, M11_MissingTensorsAreListedTogether) {
  const auto checkpoint = open_small();
  const std::vector<std::string> names = {"norm", "gone.a", "matrix", "gone.b"};
  const Status status = checkpoint->require(names);
  EXPECT_EQ(status.code(), StatusCode::kInvalidModel);
  EXPECT_NE(status.message().find("2 of 4 needed tensors are missing: 'gone.a', 'gone.b'"),
            std::string::npos)
      << status.message();
  EXPECT_TRUE(checkpoint->require(std::vector<std::string>{"norm"}).ok());
  const std::vector<std::string> many(20, "gone");
  EXPECT_NE(checkpoint->require(many).message().find("and 12 more"), std::string::npos);
}

TEST_F(CheckpointTest, M11_ExtraTensorsAreFound) {
  const auto checkpoint = open_small();
  EXPECT_EQ(checkpoint->unused({"norm", "half_norm", "matrix"}),
            (std::vector<std::string>{"strange"}));
}

TEST_F(CheckpointTest, M11_MisshapedTensorsPrintBothShapes) {
  const auto checkpoint = open_small();
  expect_invalid(checkpoint->matrix("matrix", 32, 2),
                 "m.gguf: tensor 'matrix': shape [2, 32], expected [32, 2]");
  expect_invalid(checkpoint->vector("norm", 3), "shape [2], expected [3]");
  expect_invalid(checkpoint->matrix("norm", 1, 2), "shape [2], expected [1, 2]");
  expect_invalid(checkpoint->vector("gone", 3), "'gone' is missing");
}

TEST_F(CheckpointTest, TypesThatCannotServeAreNamed) {
  const auto checkpoint = open_small();
  expect_invalid(checkpoint->vector("strange", 256), "IQ4_XS, which this program does not read");
  GgufBuilder builder;
  builder.tensor("norm", {32}, 8, std::string(34, '\1'));
  const auto quantised = open(folder_.write("q.gguf", builder.text()));
  expect_invalid(quantised->vector("norm", 32), "expected F32, F16 or BF16");
}

TEST_F(CheckpointTest, M13_NotANumberAndInfinityInVectorsAreRefused) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    GgufBuilder builder;
    builder.tensor("norm", {3}, 0, floats({1.0f, bad, 1.0f}));
    builder.tensor("half", {2}, 30, raw(f32_to_bf16(1.0f)) + raw(f32_to_bf16(bad)));
    const auto checkpoint = open(folder_.write("bad.gguf", builder.text()));
    expect_invalid(checkpoint->vector("norm", 3), "tensor 'norm': element 1 is");
    expect_invalid(checkpoint->vector("half", 2), "tensor 'half': element 1 is");
  }
}

TEST_F(CheckpointTest, M13_NotANumberInAMatrixIsFoundWithItsRow) {
  std::string blocks(68, '\1');
  blocks.replace(34, 2, raw(uint16_t{0x7E00}));  // the scale of row 1
  GgufBuilder builder;
  builder.tensor("matrix", {32, 2}, 8, blocks);
  const auto checkpoint = open(folder_.write("bad.gguf", builder.text()));
  const auto matrix = checkpoint->matrix("matrix", 2, 32);
  ASSERT_TRUE(matrix.ok());
  const Status status = checkpoint->check_finite("matrix", matrix.value());
  EXPECT_EQ(status.code(), StatusCode::kInvalidModel);
  EXPECT_NE(status.message().find("bad.gguf: tensor 'matrix': row 1 holds NaN"), std::string::npos);
  const auto good = open_small();
  EXPECT_TRUE(good->check_finite("matrix", good->matrix("matrix", 2, 32).value()).ok());
}

TEST_F(CheckpointTest, M10_AFileTruncatedWhileMappedIsAnErrorNotASignal) {
  const auto checkpoint = open_small();
  ASSERT_TRUE(checkpoint->vector("norm", 2).ok());
  ASSERT_EQ(::truncate((folder_ / "m.gguf").c_str(), 100), 0);
  for (const Status& status :
       {checkpoint->matrix("matrix", 2, 32).status(), checkpoint->vector("norm", 2).status()}) {
    EXPECT_EQ(status.code(), StatusCode::kFailed);
    EXPECT_NE(status.message().find("was changed while it was being loaded"), std::string::npos);
  }
}

TEST_F(CheckpointTest, M10_AFileReplacedByRenameKeepsTheOldBytes) {
  const auto checkpoint = open_small();
  folder_.write("other", "short");
  fs::rename(folder_ / "other", folder_ / "m.gguf");
  EXPECT_EQ(checkpoint->vector("norm", 2).value(), (std::vector<float>{1.0f, -2.0f}));
}

TEST_F(CheckpointTest, ContentDecidesNotTheName) {
  EXPECT_NE(open(folder_.write("model.bin", small_gguf().text())), nullptr);
  expect_invalid(Checkpoint::open(folder_.write("page.gguf", "<!DOCTYPE html><html>")), "HTML");
  expect_invalid(Checkpoint::open(folder_.write("lfs.gguf", "version https://git-lfs.github.com/")),
                 "Git LFS pointer");
  expect_invalid(Checkpoint::open(folder_.write("pytorch.gguf", "PK\x03\x04 and more")), "pickled");
  expect_invalid(Checkpoint::open(folder_.write("old.gguf", "lmgg1234")), "older format");
  expect_invalid(Checkpoint::open(folder_.write("text.gguf", "hello")), "neither a GGUF file");
  expect_invalid(Checkpoint::open(folder_.write("empty.gguf", "")), "empty");
  expect_invalid(Checkpoint::open(folder_.write("short.gguf", "GG")), "neither a GGUF file");
  expect_invalid(Checkpoint::open(folder_.write("cut.gguf", "GGUF")), "truncated");
  expect_invalid(Checkpoint::open(folder_.write("w.safetensors", safetensors_text("{}", 0))),
                 "safetensors file alone");
  expect_invalid(Checkpoint::open(folder_.write("config.json", "{}")), "name the model's folder");
}

TEST_F(CheckpointTest, PathsThatAreNoModelAreOneLine) {
  const auto missing = Checkpoint::open((folder_ / "none").string());
  EXPECT_EQ(missing.status().code(), StatusCode::kBadUsage);
  EXPECT_NE(missing.status().message().find("no such file"), std::string::npos);
  expect_invalid(Checkpoint::open(folder_.path()), "a folder without config.json");
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(Checkpoint::open((folder_ / "pipe").string()).status().code(), StatusCode::kBadUsage);
  folder_.write("m.gguf", small_gguf().text());
  expect_invalid(Checkpoint::open(folder_.path()), "m.gguf");
  folder_.write("config.json", "{}");
  expect_invalid(Checkpoint::open(folder_.path()), "holds neither");
}

TEST_F(CheckpointTest, QuantisedFoldersSayWhyTensorsAreMissing) {
  folder_.write("config.json", R"({"quantization_config":{"quant_method":"awq"}})");
  folder_.write(
      "model.safetensors",
      safetensors_text(str("{", safetensors_entry("q.qweight", "I32", "[1]", 0, 4), "}"), 4));
  const auto checkpoint = open(folder_.path());
  ASSERT_NE(checkpoint, nullptr);
  expect_invalid(checkpoint->matrix("q.weight", 1, 1), "quantised by 'awq'");
}

// ---- real files ---------------------------------------------------------------------------------

const std::string kModels = std::string(SLIPSTREAM_SOURCE_DIR) + "/../shared/models";

std::vector<float> matrix_values(const Checkpoint& checkpoint, const std::string& name,
                                 int64_t rows, int64_t cols) {
  const auto matrix = checkpoint.matrix(name, rows, cols);
  EXPECT_TRUE(matrix.ok()) << matrix.status().message();
  std::vector<float> values(static_cast<size_t>(rows * cols));
  if (!matrix.ok()) return values;
  for (int64_t row = 0; row < rows; ++row) {
    dequantize_row(matrix.value(), row, values.data() + row * cols);
  }
  return values;
}

// Row r of a GGUF q or k matrix, in Hugging Face's order: there the two halves of a head are
// rotated against each other, in GGUF neighbouring rows.
int64_t gguf_row(int64_t row, int64_t head_dim) {
  const int64_t within = row % head_dim;
  return row / head_dim * head_dim + within % (head_dim / 2) * 2 + within / (head_dim / 2);
}

struct RealModel {
  const char* name;
  int64_t hidden, intermediate, vocab, layers, kv_dim, head_dim;
};
constexpr RealModel kRealModels[] = {{"stories260K", 64, 172, 512, 5, 32, 8},
                                     {"babyllama105", 128, 352, 105, 5, 64, 16}};

void expect_same_matrix(const Checkpoint& hf, const std::string& hf_name, const Checkpoint& gguf,
                        const std::string& gguf_name, int64_t rows, int64_t cols,
                        int64_t permuted_head_dim) {
  const auto expected = matrix_values(hf, hf_name, rows, cols);
  const auto found = matrix_values(gguf, gguf_name, rows, cols);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t other = permuted_head_dim > 0 ? gguf_row(row, permuted_head_dim) : row;
    for (int64_t col = 0; col < cols; ++col) {
      ASSERT_EQ(expected[static_cast<size_t>(row * cols + col)],
                found[static_cast<size_t>(other * cols + col)])
          << hf_name << " row " << row << " column " << col;
    }
  }
}

TEST(RealFiles, HuggingFaceAndGgufHoldTheSameWeights) {
  if (!fs::exists(kModels)) GTEST_SKIP() << kModels << " is not there";
  for (const RealModel& model : kRealModels) {
    const std::string base = str(kModels, "/", model.name);
    const auto hf = Checkpoint::open(base + "/hf");
    const auto gguf = Checkpoint::open(str(base, "/", model.name, ".gguf"));
    ASSERT_TRUE(hf.ok()) << hf.status().message();
    ASSERT_TRUE(gguf.ok()) << gguf.status().message();
    const Checkpoint& a = *hf.value();
    const Checkpoint& b = *gguf.value();
    const auto dims = a.hf()->dims();
    ASSERT_TRUE(dims.ok()) << dims.status().message();
    EXPECT_EQ(dims->hidden_size, model.hidden);
    EXPECT_EQ(b.gguf()->get_int("llama.embedding_length", 0).value(), model.hidden);

    expect_same_matrix(a, "model.embed_tokens.weight", b, "token_embd.weight", model.vocab,
                       model.hidden, 0);
    EXPECT_EQ(a.vector("model.norm.weight", model.hidden).value(),
              b.vector("output_norm.weight", model.hidden).value());
    for (int64_t layer = 0; layer < model.layers; ++layer) {
      const std::string from = str("model.layers.", layer, ".");
      const std::string to = str("blk.", layer, ".");
      expect_same_matrix(a, from + "self_attn.q_proj.weight", b, to + "attn_q.weight", model.hidden,
                         model.hidden, model.head_dim);
      expect_same_matrix(a, from + "self_attn.k_proj.weight", b, to + "attn_k.weight", model.kv_dim,
                         model.hidden, model.head_dim);
      expect_same_matrix(a, from + "self_attn.v_proj.weight", b, to + "attn_v.weight", model.kv_dim,
                         model.hidden, 0);
      expect_same_matrix(a, from + "mlp.down_proj.weight", b, to + "ffn_down.weight", model.hidden,
                         model.intermediate, 0);
      EXPECT_EQ(a.vector(from + "input_layernorm.weight", model.hidden).value(),
                b.vector(to + "attn_norm.weight", model.hidden).value());
    }
  }
}

TEST(RealFiles, QuantisedGgufStaysNearItsOriginal) {
  if (!fs::exists(kModels)) GTEST_SKIP() << kModels << " is not there";
  struct Case {
    const char* suffix;
    double max_relative_rms;
  };
  for (const RealModel& model : kRealModels) {
    const std::string base = str(kModels, "/", model.name, "/", model.name);
    const auto original = Checkpoint::open(base + ".gguf");
    ASSERT_TRUE(original.ok());
    for (const auto& [suffix, limit] : {Case{"-Q8_0.gguf", 0.01}, Case{"-Q4_0.gguf", 0.13}}) {
      const auto quantised = Checkpoint::open(base + suffix);
      ASSERT_TRUE(quantised.ok()) << quantised.status().message();
      const auto a = matrix_values(*original.value(), "blk.0.ffn_gate.weight", model.intermediate,
                                   model.hidden);
      const auto b = matrix_values(*quantised.value(), "blk.0.ffn_gate.weight", model.intermediate,
                                   model.hidden);
      double error = 0.0;
      double power = 0.0;
      for (size_t i = 0; i < a.size(); ++i) {
        error += (a[i] - b[i]) * (a[i] - b[i]);
        power += a[i] * a[i];
      }
      EXPECT_LT(std::sqrt(error / power), limit) << model.name << suffix;
      EXPECT_GT(error, 0.0) << "the file is not quantised";
    }
  }
}

TEST(RealFiles, M8_CutsOfARealFileAreRefused) {
  if (!fs::exists(kModels)) GTEST_SKIP() << kModels << " is not there";
  const std::string whole = read_file(kModels + "/stories260K/stories260K-Q4_0.gguf");
  const TempFolder folder;
  for (size_t size = 0; size < whole.size(); size += 9973) {
    const auto cut = Checkpoint::open(folder.write("cut.gguf", whole.substr(0, size)));
    ASSERT_FALSE(cut.ok()) << size;
    EXPECT_EQ(cut.status().code(), StatusCode::kInvalidModel) << cut.status().message();
  }
}

}  // namespace
}  // namespace slipstream

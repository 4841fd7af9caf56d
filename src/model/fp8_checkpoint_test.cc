// FP8 checkpoints as models: with E4M3 weights and scales, in each of the layouts, logits are bit
// for bit those of the float32 checkpoint that holds the same values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/checked_math.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mmap_file.h"
#include "core/e4m3.h"
#include "core/half.h"
#include "loader/checkpoint.h"
#include "loader/model_files_for_test.h"
#include "model/chunk_runner.h"
#include "model/test_ops.h"

namespace slipstream {
namespace {

const std::string kGolden = SLIPSTREAM_SOURCE_DIR "/tests/golden/models/";
const std::string kShared = SLIPSTREAM_SOURCE_DIR "/../shared/models/";

// How a checkpoint stores its projections.
struct Layout {
  const char* name;
  const char* scales;       // after "weight"
  const char* scale_dtype;  // F32, F16 or BF16
  int64_t rows_per_scale;   // 0: all
  int64_t cols_per_scale;
  const char* shape;  // of scales: "[]", "[rows]", "[rows,1]" or "grid"
  const char* config;
};

constexpr Layout kLayouts[] = {
    {"tensor", "_scale", "F32", 0, 0, "[]", R"({"quant_method":"modelopt","quant_algo":"FP8"})"},
    {"channel", "_scale", "BF16", 1, 0, "[rows,1]",
     R"({"quant_method":"compressed-tensors","format":"float-quantized","config_groups":{"group_0":
         {"weights":{"num_bits":8,"type":"float","strategy":"channel"}}}})"},
    {"row", "_scale", "F16", 1, 0, "[rows]", R"({"quant_method":"fbgemm_fp8"})"},
    {"block", "_scale_inv", "F32", 128, 128, "grid",
     R"({"quant_method":"fp8","fmt":"e4m3","weight_block_size":[128,128]})"},
};

// A float as `dtype` holds it, and its bytes.
std::pair<float, std::string> stored_as(const std::string& dtype, float value) {
  if (dtype == "F16") return {f16_to_f32(f32_to_f16(value)), raw(f32_to_f16(value))};
  if (dtype == "BF16") return {bf16_to_f32(f32_to_bf16(value)), raw(f32_to_bf16(value))};
  return {value, raw(value)};
}

struct Fp8Matrix {
  std::string codes;
  std::string scales;
  std::string shape;
  std::vector<float> values;  // what they stand for
};

Fp8Matrix quantise(const std::vector<float>& in, int64_t rows, int64_t cols, const Layout& layout) {
  Fp8Matrix out;
  out.codes.resize(in.size());
  out.values.resize(in.size());
  const int64_t height = layout.rows_per_scale > 0 ? layout.rows_per_scale : rows;
  const int64_t width = layout.cols_per_scale > 0 ? layout.cols_per_scale : cols;
  for (int64_t row = 0; row < rows; row += height) {
    for (int64_t col = 0; col < cols; col += width) {
      const auto each = [&](const auto& apply) {
        for (int64_t r = row; r < std::min(row + height, rows); ++r) {
          for (int64_t c = col; c < std::min(col + width, cols); ++c) {
            apply(static_cast<size_t>(r * cols + c));
          }
        }
      };
      float largest = 0.0f;
      each([&](size_t i) { largest = std::max(largest, std::fabs(in[i])); });
      const auto stored = stored_as(layout.scale_dtype, std::max(largest, 1e-3f) / 448.0f);
      const float scale = stored.first;
      out.scales += stored.second;
      each([&](size_t i) {
        const uint8_t code = f32_to_e4m3(in[i] / scale);
        out.codes[i] = static_cast<char>(code);
        out.values[i] = e4m3_to_f32(code) * scale;
      });
    }
  }
  out.shape = layout.shape;
  if (out.shape == "[rows]") out.shape = str("[", rows, "]");
  if (out.shape == "[rows,1]") out.shape = str("[", rows, ",1]");
  if (out.shape == "grid")
    out.shape = str("[", div_up(rows, height), ",", div_up(cols, width), "]");
  return out;
}

std::string bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

// Two copies of the model in `from`: with its projections in FP8, and with the values of those.
// Projections whose name holds `kept` stay as they are.
void write_copies(const std::string& from, const Layout& layout, const std::string& kept,
                  const TempFolder& fp8_folder, const TempFolder& f32_folder) {
  const auto checkpoint = Checkpoint::open(from);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  SafetensorsBuilder fp8;
  SafetensorsBuilder f32;
  for (const TensorInfo& info : checkpoint.value()->tensors()) {
    if (info.shape.size() == 1) {
      const auto vector = checkpoint.value()->vector(info.name, info.shape[0]);
      ASSERT_TRUE(vector.ok()) << vector.status().message();
      for (SafetensorsBuilder* file : {&fp8, &f32}) {
        file->tensor(info.name, "F32", str("[", info.shape[0], "]"), bytes_of(vector.value()));
      }
      continue;
    }
    const int64_t rows = info.shape[0];
    const int64_t cols = info.shape[1];
    const auto matrix = checkpoint.value()->matrix(info.name, rows, cols);
    ASSERT_TRUE(matrix.ok()) << matrix.status().message();
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (int64_t row = 0; row < rows; ++row) {
      dequantize_row(matrix.value(), row, values.data() + row * cols);
    }
    const std::string shape = str("[", rows, ",", cols, "]");
    const bool is_kept = !kept.empty() && info.name.find(kept) != std::string::npos;
    if (!ends_with(info.name, "_proj.weight") || is_kept) {
      for (SafetensorsBuilder* file : {&fp8, &f32}) {
        file->tensor(info.name, "F32", shape, bytes_of(values));
      }
      continue;
    }
    const Fp8Matrix quantised = quantise(values, rows, cols, layout);
    fp8.tensor(info.name, "F8_E4M3", shape, quantised.codes);
    fp8.tensor(info.name + layout.scales, layout.scale_dtype, quantised.shape, quantised.scales);
    // What is not needed: scales of activations, and of K.
    const std::string layer = info.name.substr(0, info.name.rfind('.'));
    fp8.tensor(layer + ".input_scale", "F32", "[1]", raw(0.5f));
    if (ends_with(layer, "k_proj")) fp8.tensor(layer + ".k_scale", "F32", "[]", raw(1.0f));
    f32.tensor(info.name, "F32", shape, bytes_of(quantised.values));
  }
  const auto text = read_text_file(from + "/config.json", 1 << 20);
  ASSERT_TRUE(text.ok());
  Json config = parse_json(text.value(), "config.json").value();
  f32_folder.write("config.json", dump_json(config));
  f32_folder.write("model.safetensors", f32.text());
  config["quantization_config"] = parse_json(layout.config, layout.name).value();
  fp8_folder.write("config.json", dump_json(config));
  fp8_folder.write("model.safetensors", fp8.text());
}

std::unique_ptr<ChunkRunner> open(const std::string& path, const Ops& ops) {
  auto runner = ChunkRunner::open(path, ops, {.max_tokens = 64, .max_context = 128});
  EXPECT_TRUE(runner.ok()) << runner.status().message();
  return runner.ok() ? std::move(runner).value() : nullptr;
}

void expect_same_rows(TensorView a, TensorView b) {
  ASSERT_EQ(a.dim(0), b.dim(0));
  for (int64_t row = 0; row < a.dim(0); ++row) {
    ASSERT_EQ(
        std::memcmp(a.f32_row(row), b.f32_row(row), static_cast<size_t>(a.dim(1)) * sizeof(float)),
        0)
        << "row " << row;
  }
}

// A prompt, then greedy tokens one by one: the kernels of many tokens and of few.
void expect_same_logits(const std::string& fp8_path, const std::string& f32_path, const Ops& ops) {
  const auto fp8 = open(fp8_path, ops);
  const auto f32 = open(f32_path, ops);
  ASSERT_TRUE(fp8 != nullptr && f32 != nullptr);
  EXPECT_EQ(fp8->weights().num_parameters, f32->weights().num_parameters);
  EXPECT_LT(fp8->weights().bytes_per_token, f32->weights().bytes_per_token);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 40; ++i) ids.push_back(1 + i * 7 % 90);
  expect_same_rows(fp8->run(0, ids), f32->run(0, ids));
  int32_t next = ids.back();
  for (int step = 0; step < 24; ++step) {
    const TensorView logits = fp8->run(0, {next});
    expect_same_rows(logits, f32->run(0, {next}));
    next = argmax_row(logits, 0);
  }
}

void expect_every_layout(const std::string& model) {
  for (const Layout& layout : kLayouts) {
    TempFolder fp8;
    TempFolder f32;
    write_copies(model, layout, "", fp8, f32);
    for (const Ops* ops : available_ops()) {
      SCOPED_TRACE(str(model, " ", layout.name, " ", ops->name));
      expect_same_logits(fp8.path(), f32.path(), *ops);
    }
  }
}

TEST(Fp8Checkpoints, HaveTheLogitsOfTheirDequantisedValues) {
  for (const char* model : {"llama", "qwen2", "qwen3"}) expect_every_layout(kGolden + model);
}

TEST(Fp8Checkpoints, OfTrainedModelsHaveTheLogitsOfTheirDequantisedValues) {
  if (!std::filesystem::exists(kShared)) GTEST_SKIP() << kShared << " is not there";
  // The second has matrices of several blocks, the last of them cut off.
  for (const char* model : {"stories260K/hf", "babyllama105/hf"}) {
    expect_every_layout(kShared + model);
  }
}

TEST(Fp8Checkpoints, ScalesAreNotUnusedTensors) {
  TempFolder fp8;
  TempFolder f32;
  write_copies(kGolden + "llama", kLayouts[0], "", fp8, f32);
  set_log(LogLevel::kInfo, LogFormat::kText);
  testing::internal::CaptureStderr();
  EXPECT_NE(open(fp8.path(), *available_ops().front()), nullptr);
  const std::string log = testing::internal::GetCapturedStderr();
  set_log(LogLevel::kWarn, LogFormat::kText);
  EXPECT_EQ(log.find("unused_tensors"), std::string::npos) << log;
  EXPECT_NE(log.find("ignored_scales="), std::string::npos) << log;
}

// What a GPU is told of each matrix where it is to keep what the files store.
std::map<std::string, WeightRole> roles_of(const std::string& path, bool keep_stored_dtypes) {
  static std::vector<WeightRole> roles;
  roles.clear();
  Ops recording = *cpu_ops(CpuIsa::kRef);
  recording.pack = [](OpContext& ctx, const SourceMatrix& source, WeightRole role) {
    roles.push_back(role);
    return cpu_ops(CpuIsa::kRef)->pack(ctx, source, role);
  };
  const auto checkpoint = Checkpoint::open(path);
  EXPECT_TRUE(checkpoint.ok());
  const auto model = describe_model(*checkpoint.value());
  EXPECT_TRUE(model.ok()) << model.status().message();
  ThreadPool pool(1);
  OpContext ctx;
  ctx.pool = &pool;
  ctx.keep_stored_dtypes = keep_stored_dtypes;
  const auto weights =
      load_weights(*checkpoint.value(), model->spec, model->names, {recording, ctx}, nullptr);
  EXPECT_TRUE(weights.ok()) << weights.status().message();
  // Embedding first, then layer by layer.
  const char* names[] = {"embed", "q", "k", "v", "o", "gate", "up", "down"};
  std::map<std::string, WeightRole> by_name;
  for (size_t i = 0; i < std::size(names); ++i) by_name[names[i]] = roles.at(i);
  return by_name;
}

TEST(Fp8Checkpoints, AMatrixThatIsNotFp8KeepsItsNeighboursUnquantised) {
  TempFolder fp8;
  TempFolder f32;
  write_copies(kGolden + "llama", kLayouts[3], "k_proj", fp8, f32);
  expect_same_logits(fp8.path(), f32.path(), *available_ops().back());
  auto roles = roles_of(fp8.path(), true);
  for (const char* name : {"q", "k", "v"}) {
    EXPECT_EQ(roles[name], WeightRole::kUnquantizedLinear) << name;
  }
  for (const char* name : {"o", "gate", "up", "down"}) {
    EXPECT_EQ(roles[name], WeightRole::kLinear) << name;
  }
  EXPECT_EQ(roles["embed"], WeightRole::kVocabulary);
  roles = roles_of(fp8.path(), false);
  EXPECT_EQ(roles["k"], WeightRole::kLinear);
}

}  // namespace
}  // namespace slipstream

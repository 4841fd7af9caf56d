#include "engine/engine_options.h"

#include <gtest/gtest.h>

#include <functional>

#include "base/strings.h"
#include "engine/engine_options.h"
#include "engine/engine_test_util.h"
#include "loader/model_files_for_test.h"

namespace slipstream {
namespace {

void expect_open_fails(const EngineOptions& options, StatusCode code, const std::string& word) {
  const auto engine = Engine::open(options, nullptr);
  ASSERT_FALSE(engine.ok()) << word;
  EXPECT_EQ(engine.status().code(), code) << engine.status().message();
  EXPECT_NE(engine.status().message().find(word), std::string::npos) << engine.status().message();
  EXPECT_EQ(engine.status().message().find('\n'), std::string::npos);
}

TEST(EngineOptionsTest, BadOptionsAreNamed) {
  const auto fails = [](const std::function<void(EngineOptions&)>& change, StatusCode code,
                        const std::string& word) {
    EngineOptions options = tiny_options();
    change(options);
    expect_open_fails(options, code, word);
  };
  constexpr StatusCode kBad = StatusCode::kBadUsage;
  fails([](auto& o) { o.model = ""; }, kBad, "model");
  fails([](auto& o) { o.device = "tpu"; }, kBad, "device");
  fails([](auto& o) { o.device = "cuda"; }, StatusCode::kDoesNotFit, "cuda");
  fails([](auto& o) { o.device = "cuda:7"; }, StatusCode::kDoesNotFit, "cuda:7");
  fails([](auto& o) { o.cpu_isa = "sse9"; }, kBad, "cpu_isa");
  fails([](auto& o) { o.num_threads = -1; }, kBad, "num_threads");
  fails([](auto& o) { o.num_threads = 100'000; }, kBad, "num_threads");
  fails([](auto& o) { o.load_format = "gguf"; }, kBad, "load_format");
  fails([](auto& o) { o.executor = "fast"; }, kBad, "executor");
  for (const char* of_gpu : {"graph", "megakernel"}) {
    fails([of_gpu](auto& o) { o.executor = of_gpu; }, kBad,
          str("executor ", of_gpu, " needs a GPU"));
    fails([of_gpu](auto& o) { o.executor = of_gpu; }, kBad, "--executor auto");
  }
  fails([](auto& o) { o.fake_step_us = 5; }, kBad, "fake_step_us");
  fails(
      [](auto& o) {
        o.executor = "fake";
        o.fake_step_us = -1;
      },
      kBad, "fake_step_us");
  fails([](auto& o) { o.kv_cache_dtype = "int1"; }, kBad, "kv_cache_dtype");
  fails([](auto& o) { o.quantization = "int3"; }, kBad, "quantization");
  fails([](auto& o) { o.quantization = "int4"; }, kBad, "on the CPU weights stay as the files");
  fails([](auto& o) { o.max_num_seqs = 0; }, kBad, "max_num_seqs");
  fails([](auto& o) { o.max_num_batched_tokens = 0; }, kBad, "max_num_batched_tokens");
  fails([](auto& o) { o.max_num_batched_tokens = -5; }, kBad, "max_num_batched_tokens");
  fails([](auto& o) { o.kv_cache_bytes = -1; }, kBad, "kv_cache_bytes");
  fails([](auto& o) { o.block_size = 7; }, kBad, "block_size");
  fails([](auto& o) { o.max_model_len = -1; }, kBad, "max_model_len");
  fails([](auto& o) { o.max_model_len = 129; }, kBad, "129");
  fails([](auto& o) { o.max_model_len = 129; }, kBad, "128");
  fails([](auto& o) { o.kv_cache_bytes = kBlockBytes - 1; }, StatusCode::kDoesNotFit,
        str(kBlockBytes));
  fails(
      [](auto& o) {
        o.kv_cache_bytes = 3 * kBlockBytes;
        o.max_model_len = 100;
      },
      StatusCode::kDoesNotFit, str(7 * kBlockBytes));
}

TEST(EngineOptionsTest, ContextShrinksToTheKVMemory) {
  EngineOptions options = tiny_options();
  options.kv_cache_bytes = 3 * kBlockBytes;
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  EXPECT_EQ(engine->model().max_model_len, 48);
  EXPECT_EQ(engine->model().kv_bytes_per_token, kBlockBytes / 16);
  EXPECT_EQ(engine->stats().kv_blocks_total, 3);
}

TEST(EngineOptionsTest, DummyWeightsNeedOnlyTheConfig) {
  EngineOptions options = tiny_options();
  options.load_format = "dummy";
  options.model = tiny_model() + "/config.json";
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->model().weights_format, "dummy");
  Request request;
  request.prompt_token_ids = {1, 2, 3};
  request.sampling.ignore_eos = true;
  request.sampling.max_tokens = 5;
  EXPECT_EQ(token_ids(recorder.wait(engine->submit(request).value())).size(), 5u);
}

TEST(EngineOptionsTest, QuantizationsOfAGpuAreNotTheCpus) {
  const DeviceMemory device_memory = host_memory();
  Ops gpu;
  gpu.memory = &device_memory;
  const Ops& cpu = *cpu_ops(CpuIsa::kRef);
  EXPECT_EQ(find_weight_dtype("auto", gpu).value(), DType::kBF16);
  EXPECT_EQ(find_weight_dtype("fp8", gpu).value(), DType::kF8E4M3);
  EXPECT_EQ(find_weight_dtype("int4", gpu).value(), DType::kI4);
  EXPECT_NE(find_weight_dtype("int3", gpu).status().message().find("auto, fp8 or int4"),
            std::string::npos);
  EXPECT_TRUE(find_weight_dtype("auto", cpu).ok());
  for (const char* of_a_gpu : {"fp8", "int4"}) EXPECT_FALSE(find_weight_dtype(of_a_gpu, cpu).ok());
}

// The GPU's table is not needed: what counts is that its memory is not the host's.
TEST(EngineOptionsTest, AutoKeepsAnFp8CheckpointsMatricesOnAGpu) {
  TempFolder folder;
  const auto open = [&folder](const std::string& dtype) {
    folder.write("config.json", "{}");
    SafetensorsBuilder builder;
    builder.tensor("X.weight", dtype, dtype == "F16" ? "[1,1]" : "[1,2]", "\1\2");
    folder.write("model.safetensors", builder.text());
    return std::move(Checkpoint::open(folder.path())).value();
  };
  const DeviceMemory device_memory = host_memory();
  Ops gpu;
  gpu.memory = &device_memory;
  const auto resolved_with = [](const Ops& ops, const std::string& quantization,
                                const Checkpoint& checkpoint) {
    ResolvedOptions resolved;
    resolved.ops = &ops;
    EngineOptions options;
    options.quantization = quantization;
    follow_checkpoint(options, checkpoint, resolved);
    return resolved;
  };
  const auto fp8 = open("F8_E4M3");
  EXPECT_EQ(resolved_with(gpu, "auto", *fp8).weight_dtype, DType::kF8E4M3);
  EXPECT_TRUE(resolved_with(gpu, "auto", *fp8).keep_stored_dtypes);
  // `fp8` means every matrix, and the CPU packs what it gets.
  EXPECT_FALSE(resolved_with(gpu, "fp8", *fp8).keep_stored_dtypes);
  EXPECT_FALSE(resolved_with(gpu, "int4", *fp8).keep_stored_dtypes);
  EXPECT_FALSE(resolved_with(*cpu_ops(CpuIsa::kRef), "auto", *fp8).keep_stored_dtypes);
  EXPECT_EQ(resolved_with(gpu, "auto", *open("F16")).weight_dtype, DType::kBF16);
}

}  // namespace
}  // namespace slipstream

#include "bench/prefill.h"

#include <algorithm>
#include <bit>
#include <map>
#include <optional>

#include "base/random.h"
#include "base/strings.h"
#include "bench/decode.h"
#include "bench/distribution.h"
#include "bench/roof.h"
#include "engine/model_runner.h"
#include "loader/checkpoint.h"

namespace slipstream {
namespace {

// How fast products of the format of most weights are, on this machine.
struct PrefillRoof {
  std::string format;
  double gemm_tflops = 0.0;
};

// Of the layers' matrices and of causal attention over `num_tokens` tokens, and of the LM head for
// the last one alone.
double prefill_flops(const ModelFlops& flops, int64_t num_tokens) {
  const auto tokens = static_cast<double>(num_tokens);
  const double pairs = tokens * (tokens + 1.0) / 2.0;
  return tokens * static_cast<double>(flops.per_token) +
         pairs * static_cast<double>(flops.per_position) + static_cast<double>(flops.per_logits);
}

// The largest matrix of the format that most bytes of the layers are stored in.
const TensorInfo* dominant_matrix(const std::vector<TensorInfo>& tensors) {
  std::map<std::string, uint64_t> bytes_of_format;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.format != nullptr && tensor.shape.size() == 2) {
      bytes_of_format[tensor.type_name] += tensor.bytes;
    }
  }
  const TensorInfo* best = nullptr;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.format == nullptr || tensor.shape.size() != 2) continue;
    const auto rank = [&](const TensorInfo& t) {
      return std::pair(bytes_of_format[t.type_name], t.bytes);
    };
    if (best == nullptr || rank(tensor) > rank(*best)) best = &tensor;
  }
  return best;
}

// Random bfloat16 numbers of [-1, 1): what dummy weights are.
std::vector<uint16_t> random_bf16(size_t count) {
  SplitMix64 random(1);
  std::vector<uint16_t> values(count);
  for (uint16_t& value : values) {
    value = static_cast<uint16_t>(std::bit_cast<uint32_t>(random.symmetric()) >> 16);
  }
  return values;
}

// A GPU multiplies what it has made of the files, not their formats.
Result<PrefillRoof> device_roof(const EngineOptions& engine_options, const ModelInfo& model) {
  const std::string& format = model.flops.layers_format;
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto rates, measure_products(engine_options, model));
  const auto found = rates.find(format);
  if (found == rates.end()) return failed(str("the rate of ", format, " is not measured"));
  return PrefillRoof{format, found->second};
}

Result<PrefillRoof> dummy_roof(const RoofOptions& options) {
  static_assert(kDummyWeights == QuantType::kBF16);
  const GemmOptions gemm;
  const std::vector<uint16_t> row = random_bf16(static_cast<size_t>(gemm.cols));
  const SourceMatrix matrix{reinterpret_cast<const std::byte*>(row.data()), kDummyWeights, 1,
                            gemm.cols};
  SLIPSTREAM_ASSIGN_OR_RETURN(const double tflops, measure_gemm_tflops(options, matrix, gemm));
  return PrefillRoof{quant_format(kDummyWeights).name, tflops};
}

Result<PrefillRoof> measure_roof(const EngineOptions& engine_options, const ModelInfo& model) {
  if (!model.gpu.empty()) return device_roof(engine_options, model);
  const RoofOptions options{engine_options.cpu_isa, model.num_threads};
  if (engine_options.load_format == "dummy") return dummy_roof(options);
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(engine_options.model));
  const std::vector<TensorInfo> tensors = checkpoint->tensors();
  const TensorInfo* dominant = dominant_matrix(tensors);
  if (dominant == nullptr) return failed("the model has no matrix to measure the GEMM rate with");
  SLIPSTREAM_ASSIGN_OR_RETURN(
      const SourceMatrix matrix,
      checkpoint->matrix(dominant->name, dominant->shape[0], dominant->shape[1]));
  SLIPSTREAM_ASSIGN_OR_RETURN(const double tflops,
                              measure_gemm_tflops(options, matrix, GemmOptions()));
  return PrefillRoof{dominant->type_name, tflops};
}

Result<std::vector<double>> run_repeat(EngineClient& client, const PrefillBenchOptions& options,
                                       int repeat_idx) {
  std::vector<double> ttft_ms;
  for (int prompt_idx = 0; prompt_idx < options.num_prompts; ++prompt_idx) {
    Request request;
    const auto stream = static_cast<uint64_t>(repeat_idx) * 1'000'003u + prompt_idx;
    request.prompt_token_ids =
        random_token_ids(options.input_len, client.model().vocab_size, options.seed + stream);
    request.sampling.temperature = 0.0f;
    request.sampling.max_tokens = 1;
    request.sampling.ignore_eos = true;
    SLIPSTREAM_ASSIGN_OR_RETURN(const Generation generation, client.generate(request));
    ttft_ms.push_back(generation.ttft_ms());
  }
  return ttft_ms;
}

void add_measured(const std::vector<double>& ttft_ms, const ModelInfo& model,
                  const PrefillRoof& roof, int64_t num_tokens, Json& record) {
  const double seconds = median(ttft_ms) / 1e3;
  const double tflops = prefill_flops(model.flops, num_tokens) / seconds / 1e12;
  record["tokens"] = num_tokens;
  record["tok_s"] = static_cast<double>(num_tokens) / seconds;
  record["ttft_ms"] = seconds * 1e3;
  record["tflops"] = tflops;
  record["gemm_format"] = roof.format;
  record["gemm_tflops"] = roof.gemm_tflops;
  record["gemm_fraction"] = tflops / roof.gemm_tflops;
}

}  // namespace

Result<Json> bench_prefill(EngineClient& client, const EngineOptions& engine_options,
                           const PrefillBenchOptions& options, RecordWriter& records) {
  const ModelInfo& model = client.model();
  RecordHead head;
  head.kind = "prefill";
  head.config = Json{{"input_len", options.input_len},
                     {"output_len", 1},
                     {"num_prompts", options.num_prompts},
                     {"seed", options.seed},
                     {"max_num_batched_tokens", engine_options.max_num_batched_tokens},
                     {"num_threads", model.num_threads}};
  head.repeats = options.repeats;
  head.cores_used = model.num_threads;
  head.model = &model;
  head.bytes_per_token = static_cast<double>(model.bytes_per_token);

  SLIPSTREAM_RETURN_IF_ERROR(run_repeat(client, options, options.repeats).status());  // warms up
  SLIPSTREAM_ASSIGN_OR_RETURN(const PrefillRoof roof, measure_roof(engine_options, model));
  Json summary = begin_record(head);
  std::vector<double> all;
  for (int repeat_idx = 0; repeat_idx < options.repeats; ++repeat_idx) {
    Json record = begin_record(head);
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<double> ttft_ms,
                                run_repeat(client, options, repeat_idx));
    record["repeat"] = repeat_idx;
    add_measured(ttft_ms, model, roof, options.input_len, record);
    SLIPSTREAM_RETURN_IF_ERROR(records.write(record));
    all.insert(all.end(), ttft_ms.begin(), ttft_ms.end());
  }
  summary["summary"] = true;
  add_measured(all, model, roof, options.input_len, summary);
  SLIPSTREAM_RETURN_IF_ERROR(records.write(summary));
  return summary;
}

}  // namespace slipstream

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
#include "model/families/families.h"

namespace slipstream {
namespace {

// What the model's own files say: the work of one prefill, and a matrix to measure GEMMs with.
struct PrefillWork {
  double flops = 0.0;
  std::string format;
  double gemm_tflops = 0.0;
};

// Multiplications and additions of the layers' matrices and of attention over `num_tokens`
// tokens, and of the LM head for the last one alone.
double prefill_flops(const DecoderSpec& spec, int64_t num_tokens) {
  const auto tokens = static_cast<double>(num_tokens);
  const auto hidden = static_cast<double>(spec.hidden_size);
  double flops = 2.0 * hidden * static_cast<double>(spec.vocab_size);
  for (const LayerSpec& layer : spec.layers) {
    const double q_dim = double(layer.attention.num_heads) * layer.attention.head_dim;
    const double kv_dim = double(layer.attention.num_kv_heads) * layer.attention.head_dim;
    const auto intermediate = static_cast<double>(layer.mlp.intermediate_size);
    const double weights = hidden * (2.0 * q_dim + 2.0 * kv_dim) + 3.0 * hidden * intermediate;
    const double pairs = tokens * (tokens + 1.0) / 2.0;  // causal
    flops += 2.0 * tokens * weights + 4.0 * pairs * q_dim;
  }
  return flops;
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

Result<PrefillWork> read_dummy_work(const EngineOptions& engine_options, int num_threads,
                                    int64_t num_tokens) {
  static_assert(kDummyWeights == QuantType::kBF16);
  SLIPSTREAM_ASSIGN_OR_RETURN(const ModelDescription model,
                              describe_dummy_model(engine_options.model));
  const GemmOptions gemm;
  const std::vector<uint16_t> row = random_bf16(static_cast<size_t>(gemm.cols));
  PrefillWork work;
  work.flops = prefill_flops(model.spec, num_tokens);
  work.format = quant_format(kDummyWeights).name;
  SLIPSTREAM_ASSIGN_OR_RETURN(
      work.gemm_tflops,
      measure_gemm_tflops(
          {engine_options.cpu_isa, num_threads},
          {reinterpret_cast<const std::byte*>(row.data()), kDummyWeights, 1, gemm.cols}, gemm));
  return work;
}

// A GPU multiplies what it has made of the files, not their formats.
Result<PrefillWork> device_work(const EngineOptions& engine_options, const ModelInfo& model,
                                int64_t num_tokens) {
  const auto tokens = static_cast<double>(num_tokens);
  const double pairs = tokens * (tokens + 1.0) / 2.0;  // causal
  PrefillWork work;
  work.flops = tokens * static_cast<double>(model.flops.per_token) +
               pairs * static_cast<double>(model.flops.per_position) +
               static_cast<double>(model.flops.per_logits);
  work.format = model.flops.layers_format;
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto rates, measure_products(engine_options, model));
  const auto found = rates.find(work.format);
  if (found == rates.end()) return failed(str("the rate of ", work.format, " is not measured"));
  work.gemm_tflops = found->second;
  return work;
}

Result<PrefillWork> read_work(const EngineOptions& engine_options, const ModelInfo& info,
                              int64_t num_tokens) {
  const int num_threads = info.num_threads;
  if (!info.gpu.empty()) return device_work(engine_options, info, num_tokens);
  if (engine_options.load_format == "dummy") {
    return read_dummy_work(engine_options, num_threads, num_tokens);
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(engine_options.model));
  SLIPSTREAM_ASSIGN_OR_RETURN(const ModelDescription model, describe_model(*checkpoint));
  PrefillWork work;
  work.flops = prefill_flops(model.spec, num_tokens);
  const std::vector<TensorInfo> tensors = checkpoint->tensors();
  const TensorInfo* dominant = dominant_matrix(tensors);
  if (dominant == nullptr) return failed("the model has no matrix to measure the GEMM rate with");
  SLIPSTREAM_ASSIGN_OR_RETURN(
      const SourceMatrix matrix,
      checkpoint->matrix(dominant->name, dominant->shape[0], dominant->shape[1]));
  work.format = dominant->type_name;
  SLIPSTREAM_ASSIGN_OR_RETURN(
      work.gemm_tflops,
      measure_gemm_tflops({engine_options.cpu_isa, num_threads}, matrix, GemmOptions()));
  return work;
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

void add_measured(const std::vector<double>& ttft_ms, const PrefillWork& work, int64_t num_tokens,
                  Json& record) {
  const double seconds = median(ttft_ms) / 1e3;
  const double tflops = work.flops / seconds / 1e12;
  record["tokens"] = num_tokens;
  record["tok_s"] = static_cast<double>(num_tokens) / seconds;
  record["ttft_ms"] = seconds * 1e3;
  record["tflops"] = tflops;
  record["gemm_format"] = work.format;
  record["gemm_tflops"] = work.gemm_tflops;
  record["gemm_fraction"] = tflops / work.gemm_tflops;
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
  SLIPSTREAM_ASSIGN_OR_RETURN(const PrefillWork work,
                              read_work(engine_options, model, options.input_len));
  Json summary = begin_record(head);
  std::vector<double> all;
  for (int repeat_idx = 0; repeat_idx < options.repeats; ++repeat_idx) {
    Json record = begin_record(head);
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<double> ttft_ms,
                                run_repeat(client, options, repeat_idx));
    record["repeat"] = repeat_idx;
    add_measured(ttft_ms, work, options.input_len, record);
    SLIPSTREAM_RETURN_IF_ERROR(records.write(record));
    all.insert(all.end(), ttft_ms.begin(), ttft_ms.end());
  }
  summary["summary"] = true;
  add_measured(all, work, options.input_len, summary);
  SLIPSTREAM_RETURN_IF_ERROR(records.write(summary));
  return summary;
}

}  // namespace slipstream

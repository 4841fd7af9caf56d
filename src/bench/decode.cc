#include "bench/decode.h"

#include <algorithm>

#include "base/random.h"
#include "bench/distribution.h"

namespace slipstream {
namespace {

struct DecodeSamples {
  std::vector<double> tok_s, ttft_ms, ms_per_token, read_gb_s;

  void append(const DecodeSamples& other) {
    tok_s.insert(tok_s.end(), other.tok_s.begin(), other.tok_s.end());
    ttft_ms.insert(ttft_ms.end(), other.ttft_ms.begin(), other.ttft_ms.end());
    ms_per_token.insert(ms_per_token.end(), other.ms_per_token.begin(), other.ms_per_token.end());
    read_gb_s.insert(read_gb_s.end(), other.read_gb_s.begin(), other.read_gb_s.end());
  }
};

Request make_request(const DecodeBenchOptions& options, int64_t vocab_size, uint64_t seed) {
  Request request;
  request.prompt_token_ids = random_token_ids(options.input_len, vocab_size, seed);
  request.sampling.temperature = 0.0f;
  request.sampling.max_tokens = options.output_len;
  request.sampling.ignore_eos = true;
  return request;
}

double mean_positions(const DecodeBenchOptions& options) {
  return static_cast<double>(options.input_len) + static_cast<double>(options.output_len) / 2.0;
}

int64_t bytes_per_token(const ModelInfo& model, const DecodeBenchOptions& options) {
  return model.bytes_per_token +
         static_cast<int64_t>(mean_positions(options) *
                              static_cast<double>(model.kv_bytes_per_token));
}

Result<DecodeSamples> run_repeat(EngineClient& client, const DecodeBenchOptions& options,
                                 int repeat_idx) {
  DecodeSamples samples;
  for (int prompt_idx = 0; prompt_idx < options.num_prompts; ++prompt_idx) {
    const auto stream = static_cast<uint64_t>(repeat_idx) * 1'000'003u + prompt_idx;
    const Request request = make_request(options, client.model().vocab_size, options.seed + stream);
    SLIPSTREAM_ASSIGN_OR_RETURN(const Generation generation, client.generate(request));
    samples.tok_s.push_back(generation.decode_tok_s());
    samples.ttft_ms.push_back(generation.ttft_ms());
    const std::vector<int64_t>& times_ns = generation.token_times_ns;
    for (size_t idx = 1; idx < times_ns.size(); ++idx) {
      samples.ms_per_token.push_back(static_cast<double>(times_ns[idx] - times_ns[idx - 1]) / 1e6);
    }
  }
  samples.read_gb_s.push_back(client.engine().measure_read_gb_s());
  return samples;
}

// The shared fields are in `record`; adds what was measured.
void add_measured(const DecodeSamples& samples, const ModelInfo& model,
                  const DecodeBenchOptions& options, Json& record) {
  const double tok_s = median(samples.tok_s);
  const double read_gb_s = median(samples.read_gb_s);
  const double roof = roof_tok_s(model, mean_positions(options), read_gb_s);
  record["input_len"] = options.input_len;
  record["output_len"] = options.output_len;
  record["tok_s"] = tok_s;
  record["ms_per_token"] = distribution_json(samples.ms_per_token);
  record["ttft_ms"] = median(samples.ttft_ms);
  record["roof_tok_s"] = roof;
  record["roof_fraction"] = roof > 0.0 ? tok_s / roof : 0.0;
  record["read_gb_s"] = read_gb_s;
}

}  // namespace

std::vector<int32_t> random_token_ids(int64_t count, int64_t vocab_size, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab_size)));
  }
  return ids;
}

Result<Json> bench_decode(EngineClient& client, const DecodeBenchOptions& options,
                          RecordWriter& records) {
  const ModelInfo& model = client.model();
  RecordHead head;
  head.kind = "decode";
  head.config = Json{{"input_len", options.input_len},
                     {"output_len", options.output_len},
                     {"num_prompts", options.num_prompts},
                     {"quantization", options.quantization},
                     {"seed", options.seed},
                     {"temperature", 0.0},
                     {"num_threads", model.num_threads}};
  head.repeats = options.repeats;
  head.cores_used = model.num_threads;
  head.model = &model;
  head.bytes_per_token = static_cast<double>(bytes_per_token(model, options));

  SLIPSTREAM_RETURN_IF_ERROR(run_repeat(client, options, options.repeats).status());  // warms up
  Json summary = begin_record(head);
  DecodeSamples all;
  for (int repeat_idx = 0; repeat_idx < options.repeats; ++repeat_idx) {
    Json record = begin_record(head);
    SLIPSTREAM_ASSIGN_OR_RETURN(const DecodeSamples samples,
                                run_repeat(client, options, repeat_idx));
    record["repeat"] = repeat_idx;
    add_measured(samples, model, options, record);
    SLIPSTREAM_RETURN_IF_ERROR(records.write(record));
    all.append(samples);
  }
  summary["summary"] = true;
  if (options.timings) {
    Json phases = Json::array();
    for (const PhaseTime& phase : client.engine().latency_phases()) {
      phases.push_back({{"name", phase.name},
                        {"us", phase.us},
                        {"wait_us", phase.wait_us},
                        {"bytes", phase.bytes}});
    }
    summary["phases"] = std::move(phases);
  }
  add_measured(all, model, options, summary);
  summary["tok_s_min"] = *std::min_element(all.tok_s.begin(), all.tok_s.end());
  summary["tok_s_max"] = *std::max_element(all.tok_s.begin(), all.tok_s.end());
  SLIPSTREAM_RETURN_IF_ERROR(records.write(summary));
  return summary;
}

}  // namespace slipstream

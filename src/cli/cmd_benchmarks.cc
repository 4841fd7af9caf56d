// slipstream bench decode, prefill, engine, throughput: flags, and the words around the records.
#include <array>
#include <cstdio>
#include <string>
#include <utility>

#include "base/strings.h"
#include "bench/decode.h"
#include "bench/engine_steps.h"
#include "bench/prefill.h"
#include "bench/record.h"
#include "bench/throughput.h"
#include "cli/command.h"
#include "cli/line_io.h"
#include "cli/model_path.h"
#include "cli/open_client.h"
#include "cli/record_flags.h"
#include "cli/shared_flags.h"

namespace slipstream {
namespace {

std::string percent(double share) { return fixed(share * 100.0, 0) + " %"; }

std::string decode_words(const Json& record) {
  const Json& ms = record["ms_per_token"];
  return str(label(record), "decode ", fixed(record["tok_s"].get<double>(), 1), " tok/s of a ",
             fixed(record["roof_tok_s"].get<double>(), 1), " tok/s roof (",
             percent(record["roof_fraction"].get<double>()), " of ",
             fixed(record["read_gb_s"].get<double>(), 1), " GB/s), ms/token p50 ",
             fixed(ms["p50"].get<double>(), 2), " p99 ", fixed(ms["p99"].get<double>(), 2),
             ", TTFT ", fixed(record["ttft_ms"].get<double>(), 1), " ms");
}

std::string prefill_words(const Json& record) {
  return str(label(record), "prefill ", record["tokens"].get<int64_t>(), " tokens at ",
             fixed(record["tok_s"].get<double>(), 1), " tok/s, ",
             fixed(record["tflops"].get<double>(), 3), " TFLOP/s, ",
             percent(record["gemm_fraction"].get<double>()), " of the ",
             fixed(record["gemm_tflops"].get<double>(), 3), " TFLOP/s of a large ",
             record["gemm_format"].get<std::string>(), " matrix product");
}

std::string engine_words(const Json& record) {
  const auto words = [](const Json& us) {
    return str("p50 ", fixed(us["p50"].get<double>(), 1), " p90 ",
               fixed(us["p90"].get<double>(), 1), " p99 ", fixed(us["p99"].get<double>(), 1),
               " max ", fixed(us["max"].get<double>(), 1), " us");
  };
  return str(label(record), record["steps"].get<int64_t>(), " steps of ",
             record["num_seqs"].get<int64_t>(), " sequences: ", words(record["step_us"]),
             "; CPU of the engine's thread ", words(record["cpu_us_per_step"]));
}

std::string throughput_words(const Json& record) {
  const auto rate = [&](const char* key) { return fixed(record[key].get<double>(), 0); };
  const std::string busy =
      record.contains("gpu_busy_fraction")
          ? str("; GPU busy ", fixed(100.0 * record["gpu_busy_fraction"].get<double>(), 1), " %")
          : "";
  std::string roof;
  if (record.contains("serial_roof")) {
    const Json& serial = record["serial_roof"];
    roof = str("; ", fixed(100.0 * serial["share"].get<double>(), 0), " % of the serial roof of ",
               fixed(serial["output_tok_s"].get<double>(), 0), " (",
               fixed(serial["read_gb_s"].get<double>(), 0), " GB/s");
    for (const auto& [format, tflops] : serial["gemm_tflops"].items()) {
      roof += str(", ", format, " ", fixed(tflops.get<double>(), 1), " TFLOP/s");
    }
    roof += ")";
  }
  return str(label(record), record["num_prompts"].get<int64_t>(), " requests of ",
             record["input_len"].get<int64_t>(), " + ", record["output_len"].get<int64_t>(),
             " tokens, ", record["max_num_seqs"].get<int64_t>(), " at once: ", rate("output_tok_s"),
             " output tok/s, ", rate("total_tok_s"), " in all, ",
             fixed(record["requests_s"].get<double>(), 2), " requests/s", busy, roof);
}

class BenchModelCommand : public Command {
 public:
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }

 protected:
  std::vector<Flag> common_flags(int64_t default_input_len) {
    input_len_ = default_input_len;
    std::vector<Flag> flags = {
        int_flag({"input-len", "", "TOKENS", str(default_input_len), "prompt of random token ids"},
                 {1, 1 << 24}, [this](int64_t value) { input_len_ = value; }),
        int_flag({"num-prompts", "", "N", "1", "prompts per run, one after the other"},
                 {1, 1 << 20}, [this](int64_t value) { num_prompts_ = static_cast<int>(value); }),
    };
    append(flags, record_flags_.flags());
    append(flags, engine_flags(shared_));
    return flags;
  }

  static void append(std::vector<Flag>& flags, std::vector<Flag> more) {
    for (Flag& flag : more) flags.push_back(std::move(flag));
  }

  // Room for exactly what is measured, unless the flags say otherwise.
  Result<OpenedModel> open(int64_t num_tokens) {
    SharedOptions shared = shared_;
    if (shared.engine.max_model_len == 0) shared.engine.max_model_len = num_tokens;
    shared.engine.skip_tokenizer_init = true;
    return open_model(shared);
  }

  SharedOptions shared_;
  RecordFlags record_flags_;
  int64_t input_len_ = 0;
  int num_prompts_ = 1;
};

// A line for each phase; one that says so where there are none.
std::string phase_words(const Json& phases) {
  if (phases.empty()) return "no phases: the latency gear computed none of these tokens";
  double all_us = 0.0;
  for (const Json& phase : phases) all_us += phase["us"].get<double>();
  std::string words = "phase            us   share     GB/s   until its first rows, us";
  for (const Json& phase : phases) {
    const double us = phase["us"].get<double>();
    const double wait_us = phase["wait_us"].get<double>();
    std::array<char, 96> line{};
    std::snprintf(line.data(), line.size(), "\n%-10s %8.1f  %4.0f %%  %7.0f   %s",
                  phase["name"].get<std::string>().c_str(), us, 100.0 * us / all_us,
                  phase["bytes"].get<double>() / us / 1e3,
                  wait_us > 0.0 ? fixed(wait_us, 1).c_str() : "-");
    words += line.data();
  }
  return words;
}

class BenchDecodeCommand : public BenchModelCommand {
 public:
  std::string name() const override { return "bench decode"; }
  std::string summary() const override {
    return "tokens per second of one request, beside the roof measured in the same run";
  }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {
        int_flag({"output-len", "", "TOKENS", str(output_len_), "tokens to generate"}, {2, 1 << 24},
                 [this](int64_t value) { output_len_ = value; }),
        switch_flag({"timings", "", "", "", "phases of a token that the latency gear computed"},
                    [this] { timings_ = true; })};
    append(flags, common_flags(16));
    return flags;
  }
  Result<int> run() override {
    Output output;
    SLIPSTREAM_ASSIGN_OR_RETURN(RecordWriter records,
                                open_records(record_flags_, output, decode_words));
    SLIPSTREAM_ASSIGN_OR_RETURN(OpenedModel model, open(input_len_ + output_len_));
    DecodeBenchOptions options;
    options.input_len = input_len_;
    options.output_len = output_len_;
    options.num_prompts = num_prompts_;
    options.repeats = record_flags_.repeats;
    options.seed = shared_.seed.value_or(options.seed);
    options.timings = timings_;
    options.quantization = shared_.engine.quantization;
    SLIPSTREAM_ASSIGN_OR_RETURN(const Json summary, bench_decode(*model.client, options, records));
    if (timings_ && !record_flags_.json) output.write(phase_words(summary["phases"]) + "\n");
    if (!output.status().ok()) return output.status();
    return 0;
  }

 private:
  int64_t output_len_ = 128;
  bool timings_ = false;
};

class BenchPrefillCommand : public BenchModelCommand {
 public:
  std::string name() const override { return "bench prefill"; }
  std::string summary() const override {
    return "prompt tokens per second, beside the matrix-product rate of the same run";
  }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {
        int_flag({"output-len", "", "TOKENS", "1", "only 1: prefill ends with the first token"},
                 {1, 1}, [](int64_t) {})};
    append(flags, common_flags(512));
    return flags;
  }
  Result<int> run() override {
    Output output;
    SLIPSTREAM_ASSIGN_OR_RETURN(RecordWriter records,
                                open_records(record_flags_, output, prefill_words));
    SLIPSTREAM_ASSIGN_OR_RETURN(OpenedModel model, open(input_len_ + 1));
    PrefillBenchOptions options;
    options.input_len = input_len_;
    options.num_prompts = num_prompts_;
    options.repeats = record_flags_.repeats;
    options.seed = shared_.seed.value_or(options.seed);
    SLIPSTREAM_RETURN_IF_ERROR(
        bench_prefill(*model.client, model.options, options, records).status());
    if (!output.status().ok()) return output.status();
    return 0;
  }
};

class BenchEngineCommand : public Command {
 public:
  std::string name() const override { return "bench engine"; }
  std::string summary() const override {
    return "the engine's own work per step, with no model computed; best with a small vocabulary";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {
        int_flag({"num-prompts", "", "N", str(options_.num_seqs), "sequences that run at once"},
                 {1, 65536}, [this](int64_t value) { options_.num_seqs = value; }),
        int_flag({"input-len", "", "TOKENS", str(options_.input_len), "shortest prompt"},
                 {1, 1 << 24}, [this](int64_t value) { options_.input_len = value; }),
        int_flag({"output-len", "", "TOKENS", str(options_.output_len), "tokens of each answer"},
                 {2, 1 << 24}, [this](int64_t value) { options_.output_len = value; })};
    for (Flag& flag : record_flags_.flags()) flags.push_back(std::move(flag));
    for (Flag& flag : engine_flags(shared_)) {
      const std::string& flag_name = flag.text.name;
      if (flag_name == "executor" || flag_name == "fake-step-us" || flag_name == "max-num-seqs") {
        continue;  // chosen by the measurement
      }
      flags.push_back(std::move(flag));
    }
    return flags;
  }
  Result<int> run() override {
    Output output;
    SLIPSTREAM_ASSIGN_OR_RETURN(RecordWriter records,
                                open_records(record_flags_, output, engine_words));
    SLIPSTREAM_ASSIGN_OR_RETURN(const ModelPath model, resolve_model(shared_.model));
    EngineOptions engine_options = shared_.engine;
    engine_options.model = model.path;
    options_.repeats = record_flags_.repeats;
    options_.seed = shared_.seed.value_or(options_.seed);
    SLIPSTREAM_RETURN_IF_ERROR(bench_engine(engine_options, options_, records).status());
    if (!output.status().ok()) return output.status();
    return 0;
  }

 private:
  SharedOptions shared_;
  RecordFlags record_flags_;
  EngineBenchOptions options_;
};

class BenchThroughputCommand : public Command {
 public:
  std::string name() const override { return "bench throughput"; }
  std::string summary() const override {
    return "tokens per second of many requests at once, until the last one ends";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {
        int_flag({"num-prompts", "", "N", "1.5 x max-num-seqs", "requests of a repeat"},
                 {1, 1 << 24}, [this](int64_t value) { options_.num_prompts = value; }),
        int_flag({"input-len", "", "TOKENS", str(options_.input_len), "tokens of each prompt"},
                 {1, 1 << 24}, [this](int64_t value) { options_.input_len = value; }),
        int_flag({"output-len", "", "TOKENS", str(options_.output_len), "tokens of each answer"},
                 {1, 1 << 24}, [this](int64_t value) { options_.output_len = value; }),
        int_flag({"profile", "", "STEPS", "0", "instead: what each op of so many full steps takes"},
                 {1, 1 << 16}, [this](int64_t value) { options_.profile_steps = value; }),
        text_flag({"profile-trace", "", "FILE", "", "these steps and ops as Chrome trace JSON"},
                  [this](const std::string& value) { options_.profile_trace = value; })};
    for (Flag& flag : record_flags_.flags()) flags.push_back(std::move(flag));
    for (Flag& flag : engine_flags(shared_)) {
      if (flag.text.name.find("prefix-caching") != std::string::npos) continue;  // always off
      flags.push_back(std::move(flag));
    }
    return flags;
  }
  Result<int> run() override {
    Output output;
    SLIPSTREAM_ASSIGN_OR_RETURN(RecordWriter records,
                                open_records(record_flags_, output, throughput_words));
    SLIPSTREAM_ASSIGN_OR_RETURN(const ModelPath model, resolve_model(shared_.model));
    EngineOptions engine_options = shared_.engine;
    engine_options.model = model.path;
    options_.repeats = record_flags_.repeats;
    options_.seed = shared_.seed.value_or(options_.seed);
    if (!options_.profile_trace.empty() && options_.profile_steps == 0) {
      return bad_usage(
          "--profile-trace: what is traced are the steps of --profile, which is missing");
    }
    if (options_.profile_steps > 0) {
      SLIPSTREAM_ASSIGN_OR_RETURN(const std::string table,
                                  profile_throughput(engine_options, options_));
      output.write_now(table);
      return output.status().ok() ? Result<int>(0) : output.status();
    }
    SLIPSTREAM_RETURN_IF_ERROR(bench_throughput(engine_options, options_, records).status());
    if (!output.status().ok()) return output.status();
    return 0;
  }

 private:
  SharedOptions shared_;
  RecordFlags record_flags_;
  ThroughputOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_bench_decode_command() {
  return std::make_unique<BenchDecodeCommand>();
}
std::unique_ptr<Command> make_bench_prefill_command() {
  return std::make_unique<BenchPrefillCommand>();
}
std::unique_ptr<Command> make_bench_throughput_command() {
  return std::make_unique<BenchThroughputCommand>();
}

std::unique_ptr<Command> make_bench_engine_command() {
  return std::make_unique<BenchEngineCommand>();
}

}  // namespace slipstream

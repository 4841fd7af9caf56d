#include "cli/shared_flags.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "base/log.h"
#include "base/machine.h"
#include "base/strings.h"
#include "cli/environment.h"

namespace slipstream {
namespace {

constexpr std::array<std::pair<const char*, LogLevel>, 5> kLogLevels = {
    {{"debug", LogLevel::kDebug},
     {"info", LogLevel::kInfo},
     {"warn", LogLevel::kWarn},
     {"error", LogLevel::kError},
     {"off", LogLevel::kOff}}};

// What the two log flags have said so far; each sets both.
struct LogSetting {
  LogLevel level = LogLevel::kWarn;
  LogFormat format = LogFormat::kText;
};

Status set_model(SharedOptions& options, const std::string& value) {
  if (value.empty()) return bad_usage("the model's name is empty; give a path or a name");
  if (!options.model.empty() && options.model != value) {
    return bad_usage(str("two models are given, ", quote(options.model), " and ", quote(value)));
  }
  options.model = value;
  return {};
}

// Whether the device is there is the engine's to find out.
Status set_device(SharedOptions& options, const std::string& value) {
  const bool is_cuda = value == "cuda" || starts_with(value, "cuda:");
  if (!is_cuda && value != "auto" && value != "cpu") {
    return bad_usage(
        str("--device ", quote(value), ": not a device; available: auto, cpu, cuda, cuda:N"));
  }
  options.engine.device = value;
  return {};
}

Status set_threads(SharedOptions& options, const std::string& value) {
  const Result<int64_t> number = parse_int(value);
  if (!number.ok()) return number.status().in(str("--threads ", quote(value)));
  const int num_cores = available_cores();
  if (number.value() < 0 || number.value() > num_cores) {
    return bad_usage(str("--threads ", quote(value), ": this process may use ", num_cores,
                         num_cores == 1 ? " core" : " cores", "; give 1 to ", num_cores,
                         ", or 0 for all"));
  }
  options.engine.num_threads = static_cast<int>(number.value());
  return {};
}

std::vector<Flag> placement_flags(SharedOptions& o) {
  return {
      {{"device", "", "DEVICE", "auto",
        "auto (a GPU if this build and machine have one), cpu, cuda"},
       [&o](const std::string& value) { return set_device(o, value); }},
      {{"threads", "t", "N", "all cores", "CPU threads"},
       [&o](const std::string& value) { return set_threads(o, value); }},
      choice_flag({"cpu-isa", "", "ISA", "auto", "CPU kernels: auto, ref, avx2, avx512"},
                  {"auto", "ref", "avx2", "avx512"},
                  [&o](const std::string& value) { o.engine.cpu_isa = value; }),
      choice_flag(
          {"executor", "", "NAME", "auto",
           "how steps are run: auto, eager, graph (GPU), megakernel (GPU: graphs, and one kernel "
           "for a "
           "lone request); fake computes no model, for load tests"},
          {"auto", "eager", "graph", "megakernel", "fake"},
          [&o](const std::string& value) { o.engine.executor = value; },
          "not an executor of this build"),
      int_flag({"fake-step-us", "", "US", "0", "executor fake: shortest time from step to step"},
               {0, 60'000'000}, [&o](int64_t value) { o.engine.fake_step_us = value; }),
      int_flag({"tensor-parallel-size", "", "N", "1", "devices one model is split over"}, {1, 1},
               [](int64_t) {}),
      number_flag({"gpu-memory-utilization", "", "SHARE", "0.9",
                   "share of a GPU's free memory to take; without effect on the CPU"},
                  {.min = 0.0, .max = 1.0, .min_excluded = true},
                  [&o](double value) { o.engine.gpu_memory_utilization = value; }),
      switch_flag({"deterministic", "", "", "always on on the CPU",
                   "a request's tokens do not depend on other requests"},
                  [&o] { o.engine.deterministic = true; }),
  };
}

std::vector<Flag> format_flags(SharedOptions& o) {
  return {
      choice_flag({"load-format", "", "FORMAT", "auto",
                   "auto, or dummy: seeded random weights from config.json alone"},
                  {"auto", "dummy"},
                  [&o](const std::string& value) { o.engine.load_format = value; }),
      switch_flag({"skip-tokenizer-init", "", "", "", "no tokenizer: ids in, ids out"},
                  [&o] { o.engine.skip_tokenizer_init = true; }),
      choice_flag(
          {"dtype", "", "TYPE", "auto", "type of activations: auto or float32"},
          {"auto", "float32"}, [](const std::string&) {}, "the CPU computes in float32"),
      choice_flag(
          {"quantization", "", "FORMAT", "auto",
           "auto: weights as the model's files store them; fp8, int4 (GPU): quantised while "
           "loading"},
          {"auto", "fp8", "int4"},
          [&o](const std::string& value) { o.engine.quantization = value; },
          "weights are not quantised to it while loading"),
      choice_flag({"kv-cache-dtype", "", "TYPE", "auto (CPU f16, GPU bf16)",
                   "type of the KV cache: auto; CPU f16, f32; GPU bf16, fp8, fp8_e4m3"},
                  {"auto", "f16", "f32", "bf16", "fp8", "fp8_e4m3"},
                  [&o](const std::string& value) { o.engine.kv_cache_dtype = value; }),
  };
}

std::vector<Flag> limit_flags(SharedOptions& o) {
  return {
      int_flag({"max-model-len", "", "TOKENS", "the model's own limit",
                "longest sequence, prompt and answer together"},
               {1, INT32_MAX}, [&o](int64_t value) { o.engine.max_model_len = value; }),
      int_flag({"max-num-seqs", "", "N", "16", "sequences that run at once"}, {1, 65536},
               [&o](int64_t value) { o.engine.max_num_seqs = static_cast<int32_t>(value); }),
      int_flag({"max-num-batched-tokens", "", "TOKENS", "512",
                "tokens of one step, prefill and decode together"},
               {1, 1 << 20}, [&o](int64_t value) { o.engine.max_num_batched_tokens = value; }),
      int_flag({"kv-cache-memory-bytes", "", "BYTES", "enough for max-num-seqs",
                "memory of the KV cache"},
               {1, INT64_MAX}, [&o](int64_t value) { o.engine.kv_cache_bytes = value; }),
      switch_flag({"enable-prefix-caching", "", "", "on",
                   "keep the KV of finished requests for prompts that begin alike"},
                  [&o] { o.engine.enable_prefix_caching = true; }),
      switch_flag({"no-enable-prefix-caching", "", "", "", "keep no KV of finished requests"},
                  [&o] { o.engine.enable_prefix_caching = false; }),
      switch_flag(
          {"no-one-ahead", "", "", "", "prepare each step after the one before, not while it runs"},
          [&o] { o.engine.one_ahead = false; }),
      seed_flag({"seed", "", "N", "drawn", "seed of sampling and of dummy weights"},
                [&o](uint64_t value) {
                  o.seed = value;
                  o.engine.seed = value;
                }),
  };
}

}  // namespace

Flag model_flag(SharedOptions& options) {
  return {{"model", "m", "MODEL", "the model list's default",
           "a .gguf file, a folder in Hugging Face layout, or a name of the model list"},
          [&options](const std::string& value) { return set_model(options, value); }};
}

Positional model_positional(SharedOptions& options) {
  return {"MODEL", "the same as --model", false,
          [&options](const std::string& value) { return set_model(options, value); }};
}

std::vector<Flag> engine_flags(SharedOptions& options) {
  options.engine.cache_folder = cache_home();
  std::vector<Flag> flags = {model_flag(options)};
  for (auto& group : {placement_flags(options), format_flags(options), limit_flags(options)}) {
    flags.insert(flags.end(), group.begin(), group.end());
  }
  return flags;
}

std::vector<Flag> engine_flags(SharedOptions& options, std::span<const std::string_view> names) {
  std::vector<Flag> flags;
  for (Flag& flag : engine_flags(options)) {
    const bool is_named = std::find(names.begin(), names.end(), flag.text.name) != names.end();
    if (is_named) flags.push_back(std::move(flag));
  }
  return flags;
}

std::vector<Flag> device_flags(SharedOptions& options) {
  constexpr std::array<std::string_view, 3> kNames = {"device", "threads", "cpu-isa"};
  return engine_flags(options, kNames);
}

int num_threads(const SharedOptions& options) {
  return options.engine.num_threads > 0 ? options.engine.num_threads : available_cores();
}

std::vector<Flag> log_flags() {
  // Owned by both setters, whichever is called last.
  auto setting = std::make_shared<LogSetting>();
  if (log_enabled(LogLevel::kDebug)) {
    setting->level = LogLevel::kDebug;
  } else if (log_enabled(LogLevel::kInfo)) {
    setting->level = LogLevel::kInfo;
  } else if (!log_enabled(LogLevel::kWarn)) {
    setting->level = log_enabled(LogLevel::kError) ? LogLevel::kError : LogLevel::kOff;
  }
  const std::vector<std::string> levels = {"debug", "info", "warn", "error", "off"};
  return {
      choice_flag({"log-level", "", "LEVEL", "$SLIPSTREAM_LOG, else warn",
                   "debug, info, warn, error or off"},
                  levels,
                  [setting](const std::string& value) {
                    for (const auto& [name, level] : kLogLevels) {
                      if (value == name) setting->level = level;
                    }
                    set_log(setting->level, setting->format);
                  }),
      choice_flag({"log-format", "", "FORMAT", "text", "log lines as text or json"},
                  {"text", "json"},
                  [setting](const std::string& value) {
                    setting->format = value == "json" ? LogFormat::kJson : LogFormat::kText;
                    set_log(setting->level, setting->format);
                  }),
  };
}

Status init_log_from_environment() {
  const auto level = log_level_from_environment();
  if (!level) return {};
  for (const auto& [name, value] : kLogLevels) {
    if (*level == name) {
      set_log(value, LogFormat::kText);
      return {};
    }
  }
  return bad_usage(str("SLIPSTREAM_LOG=", quote(*level),
                       ": not a log level; available: debug, info, warn, error, off"));
}

}  // namespace slipstream

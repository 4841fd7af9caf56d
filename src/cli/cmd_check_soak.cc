// slipstream check soak: an engine under random load, every answer compared with the one alone.
//
// Exit codes besides the common ones: 1 when something was found wrong, or when the load did not
// meet what it is for. Ctrl-C ends the load early, with the summary of what has been.
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/strings.h"
#include "bench/soak.h"
#include "cli/command.h"
#include "cli/interrupts.h"
#include "cli/line_io.h"
#include "cli/load_progress.h"
#include "cli/model_path.h"
#include "cli/shared_flags.h"
#include "slipstream/engine.h"

namespace slipstream {
namespace {

constexpr int64_t kMaxFaultLines = 20;

int64_t per_second(int64_t count, double seconds) {
  return seconds > 0.0 ? std::llround(static_cast<double>(count) / seconds) : 0;
}

std::string compared_words(const SoakReport& r) {
  if (r.exact)
    return str(r.num_compared, " compared with themselves alone, ", r.num_mismatches, " differ");
  const auto tokens = static_cast<double>(std::max<int64_t>(1, r.num_compared_tokens));
  const double per_mille = std::round(1000.0 * static_cast<double>(r.num_same_tokens) / tokens);
  return str(r.num_compared, " compared with themselves alone, ", r.num_mismatches, " differ, ",
             per_mille / 10.0, " % of the tokens come before the first that does");
}

std::string words(const SoakReport& r) {
  const auto prompt_tokens = static_cast<double>(std::max<int64_t>(1, r.num_prompt_tokens));
  const double cached =
      std::round(100.0 * static_cast<double>(r.num_prefix_hit_tokens) / prompt_tokens);
  return str(std::round(r.load_s), " s of load: ", r.num_requests, " requests (", r.num_cancelled,
             " cancelled, ", r.num_expired, " at their deadline), ", r.num_tokens, " tokens (",
             per_second(r.num_tokens, r.load_s), " tok/s), ", r.num_preemptions, " preemptions, ",
             cached, " % of the prompts' tokens from the cache; ", compared_words(r));
}

std::string summary_line(const SoakReport& r) {
  std::string text =
      str(r.passed() ? "ok     " : "FAILED ", "seed ", r.seed, ", ", words(r), "; ", r.num_lost,
          " lost, ", r.num_faults, " faults, ", r.leaked_blocks, " leaked blocks");
  for (const std::string& what : r.not_exercised) text += str("; no ", what, " happened");
  if (!r.exact) text += "; answers may differ without --deterministic";
  if (r.interrupted) text += "; ended early";
  return text + "\n";
}

class CheckSoakCommand : public Command {
 public:
  std::string name() const override { return "check soak"; }
  std::string summary() const override {
    return "random load on a real engine: nothing is lost, every answer is the one it gives alone";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override;
  Result<int> run() override;

 private:
  SharedOptions shared_;
  SoakOptions soak_;
  bool json_ = false;
};

std::vector<Flag> CheckSoakCommand::flags() {
  std::vector<Flag> flags = {
      number_flag(
          {"duration-s", "", "SECONDS", "300", "length of the load; runs alone come on top"},
          {.min = 0.0, .max = 1e6, .min_excluded = true},
          [this](double value) { soak_.duration_s = value; }),
      int_flag({"requests", "", "N", "as many as come", "end the load after so many requests"},
               {1, INT32_MAX}, [this](int64_t value) { soak_.num_requests = value; }),
      number_flag({"rate", "", "PER_SECOND", "three times the engine's own",
                   "mean arrivals a second outside bursts; it also scales cancels and deadlines"},
                  {.min = 0.0, .max = 1e6, .min_excluded = true},
                  [this](double value) { soak_.rate = value; }),
      int_flag({"compare-every", "", "N", "1", "run one of so many requests alone as well"},
               {1, INT32_MAX}, [this](int64_t value) { soak_.compare_every = value; }),
      seed_flag({"seed", "", "N", "drawn", "seed of the load and of dummy weights"},
                [this](uint64_t value) { shared_.seed = value; }),
      switch_flag({"json", "", "", "", "print one JSON object"}, [this] { json_ = true; }),
  };
  for (Flag& flag : engine_flags(shared_)) {
    if (flag.text.name != "seed") flags.push_back(std::move(flag));
  }
  return flags;
}

Result<int> CheckSoakCommand::run() {
  const Interrupts interrupts([] {});
  Output output;
  SLIPSTREAM_ASSIGN_OR_RETURN(const ModelPath model, resolve_model(shared_.model));
  soak_.seed = shared_.seed ? *shared_.seed : std::random_device()();
  EngineOptions wanted = shared_.engine;
  wanted.model = model.path;
  wanted.seed = soak_.seed;
  SLIPSTREAM_ASSIGN_OR_RETURN(EngineOptions options, soak_engine_options(wanted));
  LoadProgress progress;
  options.on_progress = [&progress](const LoadProgressEvent& event) { progress.update(event); };

  int64_t num_lines = 0;
  SoakHooks hooks;
  hooks.on_fault = [&num_lines](const std::string& fault) {
    if (++num_lines <= kMaxFaultLines) write_stderr("soak: " + fault + "\n");
    if (num_lines == kMaxFaultLines) write_stderr("soak: more are counted, not shown\n");
  };
  hooks.on_progress = [](const SoakReport& r) { write_stderr("soak: " + words(r) + "\n"); };
  hooks.should_stop = [&interrupts] { return interrupts.interrupted(); };
  Soak soak(soak_, std::move(hooks));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                              Engine::open(options, soak.sink()));
  if (interrupts.interrupted()) return failed("interrupted while loading");
  write_stderr(str("soak: seed ", soak_.seed, ", ", engine->stats().kv_blocks_total,
                   " KV blocks, sequences of up to ", engine->model().max_model_len, " tokens\n"));
  const SoakReport report = soak.run(*engine, options);
  output.write_now(json_ ? dump_json(report_json(report)) + "\n" : summary_line(report));
  if (!output.status().ok()) return output.status();
  return report.passed() ? 0 : 1;
}

}  // namespace

std::unique_ptr<Command> make_check_soak_command() { return std::make_unique<CheckSoakCommand>(); }

}  // namespace slipstream

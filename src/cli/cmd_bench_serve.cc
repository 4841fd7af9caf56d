// slipstream bench serve: a running server of any make, from its clients' side.
//
// Exit codes besides the common ones: 1 when a request failed, a run is not valid, the server went
// away, or Ctrl-C ended the runs early; what was recorded until then is kept.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/json.h"
#include "base/strings.h"
#include "bench/record.h"
#include "bench/serve.h"
#include "cli/command.h"
#include "cli/interrupts.h"
#include "cli/line_io.h"

namespace slipstream {
namespace {

constexpr int kBarWidth = 24;

std::string fixed(double value, int digits) {
  std::ostringstream text;
  text.setf(std::ios::fixed);
  text.precision(digits);
  text << value;
  return text.str();
}

std::string fixed_ms(const Json& spread, const char* key) {
  const bool has = spread.is_object() && spread.contains(key) && spread[key].is_number();
  return has ? fixed(spread[key].get<double>(), 2) : "-";
}

std::string error_words(const Json& record) {
  if (!record.contains("errors_by_kind") || record["errors_by_kind"].empty()) return "";
  std::string words;
  for (const auto& [kind, count] : record["errors_by_kind"].items()) {
    words += str(words.empty() ? " (" : ", ", kind, " ", count.get<int64_t>());
  }
  return words + ")";
}

std::string serve_words(const Json& record) {
  const auto words = [&](const char* key) {
    return str("p50 ", fixed_ms(record[key], "p50"), " p99 ", fixed_ms(record[key], "p99"), " ms");
  };
  const bool is_summary = record.contains("summary");
  std::string line = str(
      is_summary ? str("median of ", record["repeats"].get<int64_t>(), ": ") : "",
      record["requests"].get<int64_t>(), " requests, ", record["errors"].get<int64_t>(), " errors",
      error_words(record), ", ", static_cast<int64_t>(record["output_tok_s"].get<double>()),
      " output tok/s, ", fixed(record["requests_s"].get<double>(), 2), " requests/s; TTFT ",
      words("ttft_ms"), ", between tokens ", words("itl_ms"), ", per token ", words("tpot_ms"));
  if (record.contains("goodput")) {
    line += str("; goodput ", fixed(record["goodput"]["requests_s"].get<double>(), 2),
                " requests/s, ", fixed(100.0 * record["goodput"]["share"].get<double>(), 1), " %");
  }
  if (record.contains("highest_rate")) {
    line += str("; highest rate within the limits ",
                fixed(record["highest_rate"]["requests_s"].get<double>(), 2), " requests/s");
  }
  if (is_summary && record["ci95"].contains("output_tok_s")) {
    const Json& interval = record["ci95"]["output_tok_s"];
    line += str("; 95 % interval of output tok/s ", fixed(interval[0].get<double>(), 1), " to ",
                fixed(interval[1].get<double>(), 1));
  }
  line += str("; client lag p99 ", fixed_ms(record["client_lag_ms"], "p99"), " ms");
  if (record.contains("first_error")) {
    line += "; first error: " + record["first_error"].get<std::string>();
  }
  for (const Json& reason : record["invalid_reasons"]) {
    line += "; NOT VALID: " + reason.get<std::string>();
  }
  return line;
}

// A bar with live rates on a terminal, a line per stage elsewhere.
class ServeProgress {
 public:
  ServeProgress() : is_terminal_(::isatty(STDERR_FILENO) == 1) {}
  ~ServeProgress() { clear(); }
  ServeProgress(const ServeProgress&) = delete;
  ServeProgress& operator=(const ServeProgress&) = delete;

  void update(const std::string& label, int64_t num_requests, const LoadState& state) {
    const int64_t now_ns = steady_now_ns();
    if (label != label_ || state.num_chunks < chunks_before_) {
      label_ = label;
      begin(now_ns);
      if (!is_terminal_)
        write_stderr(str("bench serve: ", label, ", ", num_requests, " requests\n"));
    }
    if (!is_terminal_) return;
    const double seconds = static_cast<double>(now_ns - before_ns_) * 1e-9;
    if (seconds >= 0.5) {
      chunks_s_ = static_cast<double>(state.num_chunks - chunks_before_) / seconds;
      chunks_before_ = state.num_chunks;
      before_ns_ = now_ns;
    }
    draw(num_requests, state, static_cast<double>(now_ns - begin_ns_) * 1e-9);
  }
  void clear() {
    if (shown_) write_stderr("\r\033[K");
    shown_ = false;
  }

 private:
  void begin(int64_t now_ns) {
    begin_ns_ = before_ns_ = now_ns;
    chunks_before_ = 0;
    chunks_s_ = 0.0;
  }
  void draw(int64_t num_requests, const LoadState& state, double elapsed_s) {
    const int64_t num_ended = state.num_done + state.num_failed;
    const double share =
        static_cast<double>(num_ended) / static_cast<double>(std::max<int64_t>(1, num_requests));
    const auto filled = static_cast<size_t>(std::clamp(share, 0.0, 1.0) * kBarWidth);
    shown_ = true;
    write_stderr(str("\r", label_, " [", std::string(filled, '#'),
                     std::string(kBarWidth - filled, ' '), "] ", num_ended, "/", num_requests,
                     "  running ", state.num_sent - num_ended, "  errors ", state.num_failed, "  ",
                     fixed(static_cast<double>(state.num_done) / std::max(elapsed_s, 1e-3), 1),
                     " req/s  ", std::llround(chunks_s_), " chunks/s\033[K"));
  }

  bool is_terminal_ = false;
  bool shown_ = false;
  std::string label_;
  int64_t begin_ns_ = 0, before_ns_ = 0;
  int64_t chunks_before_ = 0;
  double chunks_s_ = 0.0;
};

class BenchServeCommand : public Command {
 public:
  std::string name() const override { return "bench serve"; }
  std::string summary() const override {
    return "latencies and throughput of any OpenAI-compatible server, seen by its clients";
  }
  std::vector<Positional> positionals() override {
    return {
        {"LIMIT", "more limits after --goodput", false,
         [this](const std::string& value) { return add_goodput_limits(value, options_.goodput); },
         true}};
  }
  std::vector<Flag> flags() override;
  Result<int> run() override;

 private:
  void add_server_flags(std::vector<Flag>& flags);
  void add_prompt_flags(std::vector<Flag>& flags);
  void add_arrival_flags(std::vector<Flag>& flags);
  void add_method_flags(std::vector<Flag>& flags);
  Status settle();
  Status settle_arrivals();

  ServeBenchOptions options_;
  bool constant_rate_ = false;
  int64_t burst_size_ = 0;
  bool ignores_eos_ = false, respects_eos_ = false;
  bool json_ = false;
  std::string save_;
};

void BenchServeCommand::add_server_flags(std::vector<Flag>& flags) {
  ServeBenchOptions& o = options_;
  const auto add = [&flags](Flag flag) { flags.push_back(std::move(flag)); };
  add(text_flag({"url", "", "URL", o.url, "the server: http://HOST:PORT"},
                [&o](const std::string& value) { o.url = value; }));
  add(text_flag({"endpoint", "", "PATH", o.endpoint, "/v1/completions or /v1/chat/completions"},
                [&o](const std::string& value) { o.endpoint = value; }));
  add(text_flag({"model", "m", "NAME", "the server's first", "the model's name in requests"},
                [&o](const std::string& value) { o.model = value; }));
  add(text_flag({"api-key", "", "KEY", "", "sent as a bearer token"},
                [&o](const std::string& value) { o.api_key = value; }));
  add(number_flag({"wait-ready", "", "SECONDS", "0",
                   "wait so long for the server; the record gets the time as cold_start_s"},
                  {.min = 0.0, .max = 1e6}, [&o](double value) { o.wait_ready_s = value; }));
  add(int_flag({"request-timeout", "", "SECONDS", str(o.request_timeout_s), "of each request"},
               {1, 1 << 24}, [&o](int64_t value) { o.request_timeout_s = value; }));
  add(number_flag({"temperature", "", "T", "0", "of the requests"}, {.min = 0.0, .max = 100.0},
                  [&o](double value) { o.temperature = value; }));
  add(switch_flag({"ignore-eos", "", "", "with prompts of a given length",
                   "ask for answers of the whole length"},
                  [this] { ignores_eos_ = true; }));
  add(switch_flag({"no-ignore-eos", "", "", "", "let answers end by themselves"},
                  [this] { respects_eos_ = true; }));
  add(switch_flag({"per-chunk-usage", "", "", "",
                   "ask for the tokens of each chunk (continuous_usage_stats); costs the server"},
                  [&o] { o.per_chunk_usage = true; }));
  Flag extra = text_flag({"extra-body", "", "JSON", "", "an object of members for each request"},
                         [](const std::string&) {});
  extra.set = [&o](const std::string& value) -> Status {
    Result<Json> json = parse_json(value, "--extra-body");
    if (!json.ok()) return bad_usage(json.status().message());
    if (!json->is_object()) return bad_usage("--extra-body: a JSON object is expected");
    o.extra_body = std::move(json).value();
    return {};
  };
  add(std::move(extra));
}

void BenchServeCommand::add_prompt_flags(std::vector<Flag>& flags) {
  ServeBenchOptions& o = options_;
  const auto add = [&flags](Flag flag) { flags.push_back(std::move(flag)); };
  add(int_flag({"num-prompts", "", "N", str(o.num_prompts), "requests, or conversations"},
               {1, 1 << 24}, [&o](int64_t value) { o.num_prompts = value; }));
  add(int_flag({"input-len", "", "TOKENS", str(o.input_len),
                "tokens of each prompt; with --trace the most taken of a row"},
               {1, 1 << 24}, [&o](int64_t value) { o.input_len = value; }));
  add(int_flag({"output-len", "", "TOKENS", str(o.output_len),
                "tokens of each answer; with --trace the most taken of a row"},
               {1, 1 << 24}, [&o](int64_t value) { o.output_len = value; }));
  add(choice_flag({"dataset-name", "", "NAME", "random", "where prompts come from"},
                  prompt_source_names(), [&o](const std::string& value) {
                    const auto& names = prompt_source_names();
                    const auto found = std::find(names.begin(), names.end(), value);
                    o.prompts.source = static_cast<PromptSource>(found - names.begin());
                  }));
  add(text_flag({"dataset-path", "", "FILE", "", "of the dataset, plain or gzipped"},
                [&o](const std::string& value) { o.prompts.path = value; }));
  add(switch_flag({"text-prompts", "", "", "token ids",
                   "random words counted by the server's /tokenize; always so for chat"},
                  [&o] { o.prompts.as_ids = false; }));
  add(int_flag({"vocab-size", "", "IDS", str(o.prompts.vocab_size), "random ids are below this"},
               {1, INT32_MAX}, [&o](int64_t value) { o.prompts.vocab_size = value; }));
  add(number_flag({"prefix-share", "", "SHARE", "0", "of each prompt, common to all: 0 to 1"},
                  {.min = 0.0, .max = 1.0},
                  [&o](double value) { o.prompts.prefix_share = value; }));
  add(int_flag({"turns", "", "N", "1", "of each conversation; every turn adds --input-len tokens"},
               {1, 1000}, [&o](int64_t value) { o.prompts.num_turns = static_cast<int>(value); }));
}

void BenchServeCommand::add_arrival_flags(std::vector<Flag>& flags) {
  ServeBenchOptions& o = options_;
  const auto add = [&flags](Flag flag) { flags.push_back(std::move(flag)); };
  add(int_flag({"max-concurrency", "", "N", "all", "requests in flight at once"}, {1, 1 << 20},
               [&o](int64_t value) { o.max_concurrency = value; }));
  add(number_flag({"request-rate", "", "PER_S", "all at once",
                   "requests sent per second, as a Poisson process"},
                  {.min = 0.0, .max = 1e6, .min_excluded = true},
                  [&o](double value) { o.arrivals.rate = value; }));
  add(switch_flag({"constant-rate", "", "", "", "even gaps instead of a Poisson process"},
                  [this] { constant_rate_ = true; }));
  add(int_flag({"burst-size", "", "N", "", "send in bursts of so many, which meet --request-rate"},
               {1, 1 << 20}, [this](int64_t value) { burst_size_ = value; }));
  add(text_flag({"trace", "", "FILE", "",
                 "send as a trace has it: CSV of TIMESTAMP,ContextTokens,GeneratedTokens"},
                [&o](const std::string& value) { o.trace_path = value; }));
  add(number_flag({"trace-speed", "", "FACTOR", "1", "replay so many times as fast"},
                  {.min = 0.0, .max = 1e6, .min_excluded = true},
                  [&o](double value) { o.trace_speed = value; }));
}

void BenchServeCommand::add_method_flags(std::vector<Flag>& flags) {
  ServeBenchOptions& o = options_;
  const auto add = [&flags](Flag flag) { flags.push_back(std::move(flag)); };
  Flag goodput = text_flag({"goodput", "", "LIMIT...", "",
                            "count requests within limits in ms: ttft:300 tpot:50 e2el:5000"},
                           [](const std::string&) {});
  goodput.set = [&o](const std::string& value) { return add_goodput_limits(value, o.goodput); };
  goodput.repeats = true;
  add(std::move(goodput));
  add(switch_flag({"find-rate", "", "", "",
                   "search the highest Poisson rate that meets the limits, then measure it"},
                  [&o] { o.find_rate = true; }));
  add(number_flag({"goodput-share", "", "SHARE", "0.99",
                   "of the requests that must be within the limits, for --find-rate"},
                  {.min = 0.0, .max = 1.0, .min_excluded = true},
                  [&o](double value) { o.goodput_share = value; }));
  add(number_flag({"stall-ms", "", "MS", "200", "count gaps within an answer above this"},
                  {.min = 0.0, .max = 1e9, .min_excluded = true},
                  [&o](double value) { o.stall_ms = value; }));
  add(int_flag({"num-warmups", "", "N", str(o.num_warmups), "requests sent first and discarded"},
               {0, 1 << 20}, [&o](int64_t value) { o.num_warmups = value; }));
  add(int_flag({"idle-connections", "", "N", "0", "connections held beside, sending nothing"},
               {0, 1 << 20}, [&o](int64_t value) { o.num_idle_connections = value; }));
  add(int_flag({"client-threads", "", "N", "one a core", "threads of the client"}, {1, 1024},
               [&o](int64_t value) { o.client_threads = static_cast<int>(value); }));
  add(seed_flag({"seed", "", "N", "1", "of prompts, arrivals, requests and intervals"},
                [&o](uint64_t value) { o.seed = value; }));
  add(int_flag({"repeats", "", "N", "1", "measurements, and a summary of them"}, {1, 1000},
               [&o](int64_t value) { o.repeats = static_cast<int>(value); }));
  add(switch_flag({"json", "", "", "", "one JSON object a line"}, [this] { json_ = true; }));
  add(text_flag({"save", "", "FILE", "", "append the records to a JSONL file"},
                [this](const std::string& value) { save_ = value; }));
}

std::vector<Flag> BenchServeCommand::flags() {
  std::vector<Flag> flags;
  add_server_flags(flags);
  add_prompt_flags(flags);
  add_arrival_flags(flags);
  add_method_flags(flags);
  return flags;
}

Status BenchServeCommand::settle_arrivals() {
  Arrivals& arrivals = options_.arrivals;
  const bool has_rate = arrivals.rate > 0.0;
  if ((constant_rate_ || burst_size_ > 0) && !has_rate) {
    return bad_usage(
        str(constant_rate_ ? "--constant-rate" : "--burst-size", " needs --request-rate"));
  }
  if (constant_rate_ && burst_size_ > 0) {
    return bad_usage("--constant-rate and --burst-size contradict each other; drop one");
  }
  if (!options_.trace_path.empty()) {
    if (has_rate) {
      return bad_usage(
          "--trace brings its own times; give --trace-speed instead of"
          " --request-rate");
    }
    arrivals.kind = ArrivalKind::kTrace;
    std::filesystem::path name = std::filesystem::path(options_.trace_path).filename();
    while (name.has_extension()) name = name.stem();
    arrivals.trace_name = name.string();
    std::replace(arrivals.trace_name.begin(), arrivals.trace_name.end(), ' ', '_');
  } else if (options_.trace_speed != 1.0) {
    return bad_usage("--trace-speed needs --trace");
  } else if (has_rate) {
    arrivals.kind = burst_size_ > 0  ? ArrivalKind::kBursts
                    : constant_rate_ ? ArrivalKind::kConstant
                                     : ArrivalKind::kPoisson;
    arrivals.burst_size = std::max<int64_t>(1, burst_size_);
  } else if (options_.max_concurrency > 0 && options_.max_concurrency < options_.num_prompts) {
    arrivals.kind = ArrivalKind::kClosed;
    arrivals.concurrency = options_.max_concurrency;
  }
  return {};
}

Status BenchServeCommand::settle() {
  SLIPSTREAM_RETURN_IF_ERROR(settle_arrivals());
  if (ignores_eos_ && respects_eos_) {
    return bad_usage("--ignore-eos and --no-ignore-eos contradict each other; drop one");
  }
  const bool has_length = options_.prompts.source == PromptSource::kRandom ||
                          options_.prompts.source == PromptSource::kSonnet;
  options_.ignore_eos = ignores_eos_ || (has_length && !respects_eos_);
  return check_serve_options(options_);
}

Result<int> BenchServeCommand::run() {
  SLIPSTREAM_RETURN_IF_ERROR(settle());
  const Interrupts interrupts([] {});
  Output output;
  ServeProgress progress;
  std::string last_line;
  SLIPSTREAM_ASSIGN_OR_RETURN(RecordWriter records,
                              RecordWriter::open(save_, [&](const std::string& line) {
                                progress.clear();
                                last_line = line;
                                if (json_) return output.write_now(line);
                                const Result<Json> record = parse_json(line, "record");
                                if (record.ok())
                                  output.write_now(serve_words(record.value()) + "\n");
                              }));
  ServeBenchHooks hooks;
  hooks.should_stop = [&interrupts] { return interrupts.interrupted(); };
  hooks.on_progress = [&progress](const std::string& label, int64_t num_requests,
                                  const LoadState& state) {
    progress.update(label, num_requests, state);
  };
  const Result<ServeBenchOutcome> outcome = bench_serve(options_, records, hooks);
  progress.clear();
  if (!outcome.ok()) {
    // What was measured and could not be saved is not lost.
    if (!records.save_failed()) return outcome.status();
    if (!json_) output.write_now(last_line);
    return failed(outcome.status().message() + "; the record is on the standard output instead");
  }
  if (!output.status().ok()) return output.status();
  if (outcome->interrupted) {
    return failed(str("interrupted: the run under way is dropped, ", outcome->num_records, " of ",
                      options_.repeats, " repeats are recorded"));
  }
  if (!outcome->server_lost.empty()) return failed(outcome->server_lost);
  return outcome->num_errors == 0 && outcome->all_valid ? 0 : 1;
}

}  // namespace

std::unique_ptr<Command> make_bench_serve_command() {
  return std::make_unique<BenchServeCommand>();
}

}  // namespace slipstream

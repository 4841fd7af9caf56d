// slipstream bench serve: a running server from the client's side.
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "base/json.h"
#include "base/strings.h"
#include "bench/record.h"
#include "bench/serve.h"
#include "cli/command.h"
#include "cli/line_io.h"

namespace slipstream {
namespace {

std::string fixed_ms(const Json& spread, const char* key) {
  if (!spread.is_object()) return "-";
  std::ostringstream text;
  text.setf(std::ios::fixed);
  text.precision(2);
  text << spread[key].get<double>();
  return text.str();
}

std::string serve_words(const Json& record) {
  const auto words = [&](const char* key) {
    return str("p50 ", fixed_ms(record[key], "p50"), " p99 ", fixed_ms(record[key], "p99"), " ms");
  };
  std::string line =
      str(record["requests"].get<int64_t>(), " requests, ", record["errors"].get<int64_t>(),
          " errors, ", static_cast<int64_t>(record["output_tok_s"].get<double>()),
          " output tok/s; TTFT ", words("ttft_ms"), ", between tokens ", words("itl_ms"));
  if (record.contains("first_error"))
    line += "; first error: " + record["first_error"].get<std::string>();
  return line;
}

class BenchServeCommand : public Command {
 public:
  std::string name() const override { return "bench serve"; }
  std::string summary() const override {
    return "latencies and throughput of a running server, seen by its clients";
  }
  std::vector<Flag> flags() override;
  Result<int> run() override;

 private:
  ServeBenchOptions options_;
  bool json_ = false;
  std::string save_;
};

std::vector<Flag> BenchServeCommand::flags() {
  ServeBenchOptions& o = options_;
  return {
      text_flag({"url", "", "URL", o.url, "the server: http://ADDRESS:PORT"},
                [&o](const std::string& value) { o.url = value; }),
      text_flag({"endpoint", "", "PATH", o.endpoint, "a completions endpoint that takes token ids"},
                [&o](const std::string& value) { o.endpoint = value; }),
      text_flag({"model", "m", "NAME", "the server's", "the model's name in requests"},
                [&o](const std::string& value) { o.model = value; }),
      text_flag({"api-key", "", "KEY", "", "sent as a bearer token"},
                [&o](const std::string& value) { o.api_key = value; }),
      int_flag({"num-prompts", "", "N", str(o.num_prompts), "requests"}, {1, 1 << 24},
               [&o](int64_t value) { o.num_prompts = value; }),
      int_flag({"input-len", "", "TOKENS", str(o.input_len), "tokens of each prompt"}, {1, 1 << 24},
               [&o](int64_t value) { o.input_len = value; }),
      int_flag({"output-len", "", "TOKENS", str(o.output_len), "tokens of each answer"},
               {1, 1 << 24}, [&o](int64_t value) { o.output_len = value; }),
      int_flag({"max-concurrency", "", "N", "all", "requests in flight at once"}, {1, 1 << 20},
               [&o](int64_t value) { o.max_concurrency = value; }),
      number_flag({"request-rate", "", "PER_S", "closed loop", "requests sent per second"},
                  {.min = 0.0, .max = 1e6, .min_excluded = true},
                  [&o](double value) { o.request_rate = value; }),
      switch_flag({"constant-rate", "", "", "", "even gaps instead of a Poisson process"},
                  [&o] { o.poisson = false; }),
      int_flag({"idle-connections", "", "N", "0", "connections held beside, sending nothing"},
               {0, 1 << 20}, [&o](int64_t value) { o.num_idle_connections = value; }),
      int_flag({"vocab-size", "", "IDS", str(o.vocab_size), "prompts are random ids below this"},
               {1, INT32_MAX}, [&o](int64_t value) { o.vocab_size = value; }),
      number_flag({"temperature", "", "T", "0", "of the requests"}, {.min = 0.0, .max = 100.0},
                  [&o](double value) { o.temperature = value; }),
      seed_flag({"seed", "", "N", "1", "of prompts, arrivals and requests"},
                [&o](uint64_t value) { o.seed = value; }),
      int_flag({"repeats", "", "N", "1", "measurements"}, {1, 1000},
               [&o](int64_t value) { o.repeats = static_cast<int>(value); }),
      switch_flag({"json", "", "", "", "one JSON object a line"}, [this] { json_ = true; }),
      text_flag({"save", "", "FILE", "", "append the records to a JSONL file"},
                [this](const std::string& value) { save_ = value; }),
  };
}

Result<int> BenchServeCommand::run() {
  Output output;
  SLIPSTREAM_ASSIGN_OR_RETURN(RecordWriter records,
                              RecordWriter::open(save_, [&](const std::string& line) {
                                if (json_) {
                                  output.write_now(line);
                                  return;
                                }
                                const Result<Json> record = parse_json(line, "record");
                                if (record.ok())
                                  output.write_now(serve_words(record.value()) + "\n");
                              }));
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json record, bench_serve(options_, records));
  if (!output.status().ok()) return output.status();
  return record["errors"].get<int64_t>() == 0 ? 0 : 1;
}

}  // namespace

std::unique_ptr<Command> make_bench_serve_command() {
  return std::make_unique<BenchServeCommand>();
}

}  // namespace slipstream

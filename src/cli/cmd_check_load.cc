// slipstream check load: the load client of `bench serve` against a server whose delays are known.
//
// Exit code 1 when a count is wrong or a time is further off than it may be. On a busy machine the
// times may be: run it again on a quiet one.
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/strings.h"
#include "bench/load_check.h"
#include "cli/command.h"
#include "cli/line_io.h"

namespace slipstream {
namespace {

std::string three_digits(const Json& value) {
  if (!value.is_number()) return "-";
  std::ostringstream text;
  text.setf(std::ios::fixed);
  text.precision(3);
  text << value.get<double>();
  return text.str();
}

std::string error_words(const Json& record, const char* key) {
  const Json& spread = record[key];
  if (!spread.is_object()) return "-";
  return str("mean ", three_digits(spread["mean"]), " p50 ", three_digits(spread["p50"]), " p99 ",
             three_digits(spread["p99"]));
}

std::string words(const Json& record) {
  std::string text = str(
      record["passed"].get<bool>() ? "ok     " : "FAILED ", record["requests"].get<int64_t>(),
      " streams, ", record["chunks"].get<int64_t>(), " chunks, ", record["errors"].get<int64_t>(),
      " errors, ", record["stalls"]["count"].get<int64_t>(), " stalls; off by, ms: TTFT ",
      error_words(record, "ttft_error_ms"), ", ITL ", error_words(record, "itl_error_ms"),
      ", arrivals ", error_words(record, "arrival_error_ms"), "; client ",
      record["client_threads"].get<int64_t>(), " threads, ",
      three_digits(record["client_cpu_us_per_chunk"]), " us of CPU a chunk, lag p50 ",
      three_digits(record["client_lag_ms"]["p50"]), " p99 ",
      three_digits(record["client_lag_ms"]["p99"]), " max ",
      three_digits(record["client_lag_ms"]["max"]), " ms\n");
  for (const Json& fault : record["faults"]) text += "  " + fault.get<std::string>() + "\n";
  return text;
}

class CheckLoadCommand : public Command {
 public:
  std::string name() const override { return "check load"; }
  std::string summary() const override {
    return "the load client of bench serve: known delays, errors and stalls are found again";
  }
  std::vector<Flag> flags() override;
  Result<int> run() override;

 private:
  LoadCheckOptions options_;
  bool json_ = false;
};

std::vector<Flag> CheckLoadCommand::flags() {
  LoadCheckOptions& o = options_;
  return {
      int_flag({"streams", "", "N", str(o.num_streams), "requests, spread over one second"},
               {1, 100'000}, [&o](int64_t value) { o.num_streams = value; }),
      int_flag({"chunks", "", "N", str(o.num_chunks), "chunks of each answer"}, {1, 1 << 20},
               [&o](int64_t value) { o.num_chunks = value; }),
      number_flag({"ttft-ms", "", "MS", "50", "injected time to the first chunk"},
                  {.min = 0.0, .max = 60'000.0}, [&o](double value) { o.ttft_ms = value; }),
      number_flag({"itl-ms", "", "MS", "20", "injected time between chunks"},
                  {.min = 0.0, .max = 60'000.0}, [&o](double value) { o.itl_ms = value; }),
      number_flag({"fault-share", "", "SHARE", "0.02", "of the requests that fail, in four ways"},
                  {.min = 0.0, .max = 1.0}, [&o](double value) { o.fault_share = value; }),
      int_flag({"stall-every", "", "N", str(o.stall_every), "one of N answers stalls; 0: none"},
               {0, INT32_MAX}, [&o](int64_t value) { o.stall_every = value; }),
      number_flag({"stall-ms", "", "MS", "300", "length of a stall"}, {.min = 1.0, .max = 60'000.0},
                  [&o](double value) { o.stall_ms = value; }),
      int_flag({"client-threads", "", "N", "one a core", "threads of the client"}, {1, 1024},
               [&o](int64_t value) { o.client_threads = static_cast<int>(value); }),
      switch_flag({"json", "", "", "", "print one JSON object"}, [this] { json_ = true; }),
  };
}

Result<int> CheckLoadCommand::run() {
  Output output;
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json record, check_load(options_));
  output.write_now(json_ ? dump_json(record) + "\n" : words(record));
  if (!output.status().ok()) return output.status();
  return record["passed"].get<bool>() ? 0 : 1;
}

}  // namespace

std::unique_ptr<Command> make_check_load_command() { return std::make_unique<CheckLoadCommand>(); }

}  // namespace slipstream

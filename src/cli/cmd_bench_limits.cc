// slipstream bench limits: flags, and the table of what was measured.
#include <string>
#include <utility>

#include "base/strings.h"
#include "bench/limits.h"
#include "cli/command.h"
#include "cli/line_io.h"
#include "cli/record_flags.h"
#include "cli/shared_flags.h"

namespace slipstream {
namespace {

// "read                    3012.4 GB/s"; nothing where it was not measured.
std::string row(const std::string& name, const Json& value, int digits, const char* unit) {
  if (value.is_null()) return {};
  const std::string text = fixed(value.get<double>(), digits);
  constexpr size_t kNameWidth = 24;
  constexpr size_t kValueWidth = 10;
  const auto blanks = [](size_t width, const std::string& word) {
    return std::string(word.size() < width ? width - word.size() : 0, ' ');
  };
  return str(name, blanks(kNameWidth, name), blanks(kValueWidth, text), text, " ", unit, "\n");
}

std::string limits_words(const Json& record) {
  if (!record.contains("summary")) {
    return str(label(record), "read ", fixed(record["read_gb_s"].get<double>(), 1), " GB/s, write ",
               fixed(record["write_gb_s"].get<double>(), 1), " GB/s");
  }
  const Json& gpus = record["host"]["gpus"];
  std::string text =
      str(label(record),
          gpus.empty() ? record["host"]["cpu"].get<std::string>() : gpus[0].get<std::string>(),
          ", ", record["kernels"].get<std::string>(), "\n");
  text += row("read", record["read_gb_s"], 1, "GB/s");
  text += row("write", record["write_gb_s"], 1, "GB/s");
  for (const auto& [format, tflops] : record["gemm_tflops"].items()) {
    text += row(format + " products", tflops, 3, "TFLOP/s");
  }
  text += row("barrier of all blocks", record["barrier_us"], 2, "us");
  text +=
      row(gpus.empty() ? "hand-over to threads" : "kernel launch", record["launch_us"], 2, "us");
  text += row("node of a graph", record["graph_node_us"], 2, "us");
  text.pop_back();  // the line's end is the printer's
  return text;
}

class BenchLimitsCommand : public Command {
 public:
  BenchLimitsCommand() { record_flags_.repeats = 3; }
  std::string name() const override { return "bench limits"; }
  std::string summary() const override {
    return "what this machine can do at most: memory, matrix products, barriers, launches";
  }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {int_flag(
        {"bytes", "", "BYTES", "256 MiB, of a GPU 4 GiB", "memory that is written and read"},
        {1 << 20, int64_t{1} << 38}, [this](int64_t value) { options_.bytes = value; })};
    for (Flag& flag : record_flags_.flags()) flags.push_back(std::move(flag));
    for (Flag& flag : device_flags(shared_)) flags.push_back(std::move(flag));
    return flags;
  }
  Result<int> run() override {
    Output output;
    SLIPSTREAM_ASSIGN_OR_RETURN(RecordWriter records,
                                open_records(record_flags_, output, limits_words));
    options_.device = shared_.engine.device;
    options_.cpu_isa = shared_.engine.cpu_isa;
    options_.num_threads = num_threads(shared_);
    options_.repeats = record_flags_.repeats;
    SLIPSTREAM_RETURN_IF_ERROR(bench_limits(options_, records).status());
    if (!output.status().ok()) return output.status();
    return 0;
  }

 private:
  SharedOptions shared_;
  RecordFlags record_flags_;
  LimitsOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_bench_limits_command() {
  return std::make_unique<BenchLimitsCommand>();
}

}  // namespace slipstream

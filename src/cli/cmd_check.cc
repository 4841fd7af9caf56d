// slipstream check ops, golden, sim: self-tests of the machine at hand.
#include <algorithm>
#include <iomanip>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/strings.h"
#include "base/thread_pool.h"
#include "bench/roof.h"
#include "cli/command.h"
#include "cli/line_io.h"
#include "cli/shared_flags.h"
#include "engine/sim.h"
#include "engine/sim_stream.h"
#include "model/check_golden.h"
#include "ops/ops.h"
#include "ops/ops_cases.h"
#include "ops/staged_ops.h"

namespace slipstream {
namespace {

// The tables to check: the GPU's, the instruction set named, else all that this machine has.
Result<std::vector<const Ops*>> select_ops(const EngineOptions& options) {
  const std::string& isa = options.cpu_isa;
  std::vector<const Ops*> selected;
  if (starts_with(options.device, "cuda")) {
    std::string why;
    const Ops* const ops = cuda_ops(&why);
    if (ops == nullptr) return does_not_fit(str("--device ", options.device, ": ", why));
    selected.push_back(ops);
    return selected;
  }
  if (isa != "auto") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const Ops* ops, find_cpu_ops(isa));
    selected.push_back(ops);
    return selected;
  }
  for (const CpuIsa each : {CpuIsa::kRef, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (const Ops* ops = cpu_ops(each)) selected.push_back(ops);
  }
  return selected;
}

const std::string kLinear = "linear";

int exit_code(int64_t num_failed) { return num_failed == 0 ? 0 : 1; }

class CheckOpsCommand : public Command {
 public:
  std::string name() const override { return "check ops"; }
  std::string summary() const override {
    return "every op of each instruction set against the reference loops: error, us, GB/s, roof";
  }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {
        text_flag({"op", "", "NAME", "all", "one op, as in `linear`"},
                  [this](const std::string& value) { op_ = value; }),
        switch_flag({"no-timing", "", "", "", "compare only"}, [this] { timed_ = false; }),
        switch_flag({"json", "", "", "", "one JSON object a line"}, [this] { json_ = true; }),
    };
    for (Flag& flag : device_flags(shared_)) flags.push_back(std::move(flag));
    return flags;
  }
  Result<int> run() override;

 private:
  Status check_op_name() const;
  std::string line_of(const char* isa, const OpReport& report) const;

  SharedOptions shared_;
  std::string op_;
  bool timed_ = true;
  bool json_ = false;
};

Status CheckOpsCommand::check_op_name() const {
  std::string names;
  std::string last;
  for (const OpCase& each : op_cases()) {
    if (op_.empty() || each.op == op_) return {};
    if (each.op != last) names += (names.empty() ? "" : ", ") + each.op;
    last = each.op;
  }
  return bad_usage(str("--op ", quote(op_), ": no such op; there are ", names));
}

std::string CheckOpsCommand::line_of(const char* isa, const OpReport& r) const {
  if (!r.skipped.empty()) {
    if (json_) {
      return dump_json(Json{{"isa", isa}, {"op", r.op}, {"case", r.name}, {"skipped", r.skipped}}) +
             "\n";
    }
    return str("skipped ", isa, " ", r.op, " ", r.name, ": ", r.skipped, "\n");
  }
  if (json_) {
    return dump_json(Json{{"isa", isa},
                          {"op", r.op},
                          {"case", r.name},
                          {"passed", r.passed},
                          {"tolerance", r.tolerance},
                          {"max_error", r.max_error},
                          {"max_abs", r.max_abs},
                          {"cosine", r.cosine},
                          {"num_values", r.num_values},
                          {"num_not_finite", r.num_not_finite},
                          {"us", r.us},
                          {"gb_s", r.gb_s},
                          {"gflop_s", r.gflop_s},
                          {"roof_fraction", r.roof_fraction}}) +
           "\n";
  }
  std::ostringstream text;
  text << (r.passed ? "ok     " : "FAILED ") << std::left << std::setw(7) << isa << std::setw(17)
       << r.op << std::setw(44) << r.name << std::right << std::scientific << std::setprecision(1)
       << " error " << r.max_error << " of " << r.tolerance;
  if (r.num_not_finite > 0) {
    text << ", " << r.num_not_finite << " not finite, first at " << r.first_not_finite;
  }
  if (r.us > 0.0) {
    text << std::fixed << std::setprecision(1) << std::setw(11) << r.us << " us" << std::setw(8)
         << r.gb_s << " GB/s" << std::setw(8) << r.gflop_s << " GFLOP/s" << std::setw(5)
         << std::setprecision(0) << r.roof_fraction * 100.0 << " % of the read roof";
  }
  text << "\n";
  return text.str();
}

Result<int> CheckOpsCommand::run() {
  SLIPSTREAM_RETURN_IF_ERROR(check_op_name());
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto selected, select_ops(shared_.engine));
  const Ops& reference = *cpu_ops(CpuIsa::kRef);
  ThreadPool pool(num_threads(shared_));
  Output output;
  int64_t num_failed = 0;
  int64_t num_passed = 0;
  int64_t num_skipped = 0;
  const auto write = [&](const char* isa, const std::vector<OpReport>& reports) {
    for (const OpReport& report : reports) {
      ++(!report.skipped.empty() ? num_skipped : report.passed ? num_passed : num_failed);
      output.write_now(line_of(isa, report));
    }
  };
  for (const Ops* ops : selected) {
    if (!on_host(*ops)) {
      for (const auto& [isa, dtype] :
           {std::pair(ops->name, DType::kBF16), std::pair("e4m3", DType::kF8E4M3),
            std::pair("int4", DType::kI4)}) {
        StagedContext context;
        context.pool = &pool;
        SLIPSTREAM_RETURN_IF_ERROR(open_staged(context, *ops, dtype));
        // Only `linear` depends on the weights' type.
        const std::string& op = dtype == DType::kBF16 || !op_.empty() ? op_ : kLinear;
        if (dtype != DType::kBF16 && op != kLinear) continue;
        write(isa, check_ops(staged_ops(*ops), reference, context,
                             staged_check_options(context, op, timed_)));
      }
      continue;
    }
    OpContext context;
    context.pool = &pool;
    const OpLimits limits = op_case_limits();
    SLIPSTREAM_RETURN_IF_ERROR(ops->open(context, limits));
    write(ops->name, check_ops(*ops, reference, context, {.op = op_, .timed = timed_}));
  }
  if (!json_) {
    const std::string skipped = num_skipped > 0 ? str(", ", num_skipped, " skipped") : "";
    output.write_now(str(num_passed, " passed, ", num_failed, " failed", skipped, "\n"));
  }
  if (!output.status().ok()) return output.status();
  return exit_code(num_failed);
}

class CheckGoldenCommand : public Command {
 public:
  std::string name() const override { return "check golden"; }
  std::string summary() const override {
    return "tiny models against values computed by independent programs";
  }
  std::vector<Positional> positionals() override {
    return {{"NAME", "only the models whose folder or family has this name", false,
             [this](const std::string& value) {
               name_ = value;
               return Status();
             }}};
  }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {
        text_flag({"dir", "", "DIR", "tests/golden/models of the source tree",
                   "folder of the golden models"},
                  [this](const std::string& value) { root_ = value; }),
        switch_flag({"json", "", "", "", "one JSON object a line"}, [this] { json_ = true; }),
    };
    for (Flag& flag : device_flags(shared_)) flags.push_back(std::move(flag));
    return flags;
  }
  Result<int> run() override;

 private:
  std::string line_of(const char* isa, const GoldenReport& report) const;
  std::string skipped_line(const char* isa, const std::string& name, const std::string& why) const;

  SharedOptions shared_;
  std::string root_ = SLIPSTREAM_GOLDEN_DIR;
  std::string name_;
  bool json_ = false;
};

std::string CheckGoldenCommand::line_of(const char* isa, const GoldenReport& r) const {
  if (json_) {
    return dump_json(Json{{"isa", isa},
                          {"name", r.name},
                          {"family", r.family},
                          {"provenance", r.provenance},
                          {"passed", r.passed()},
                          {"num_logits", r.num_logits},
                          {"max_abs_error", r.max_abs_error},
                          {"tolerance", r.tolerance},
                          {"num_greedy", r.num_greedy},
                          {"num_greedy_equal", r.num_greedy_equal}}) +
           "\n";
  }
  return str(r.passed() ? "ok     " : "FAILED ", isa, " ", r.name, ": ", r.num_logits,
             " logits, largest error ", r.max_abs_error, " of ", r.tolerance, "; greedy ",
             r.num_greedy_equal, " of ", r.num_greedy, " tokens equal\n");
}

// A model whose shapes the device has no kernels for.
std::string CheckGoldenCommand::skipped_line(const char* isa, const std::string& name,
                                             const std::string& why) const {
  if (json_) return dump_json(Json{{"isa", isa}, {"name", name}, {"skipped", why}}) + "\n";
  return str("skipped ", isa, " ", name, ": ", why, "\n");
}

Result<int> CheckGoldenCommand::run() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto selected, select_ops(shared_.engine));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<std::string> folders, golden_folders(root_));
  Output output;
  int64_t num_failed = 0;
  int64_t num_passed = 0;
  int64_t num_skipped = 0;
  std::string names;
  for (const std::string& folder : folders) {
    const std::string folder_name = folder.substr(folder.find_last_of('/') + 1);
    names += (names.empty() ? "" : ", ") + folder_name;
    for (const Ops* ops : selected) {
      // A family's name selects all its models: `llama` runs llama2-tiny, llama3-tiny and so on.
      if (!name_.empty() && folder_name.find(name_) == std::string::npos) continue;
      const Result<GoldenReport> report = check_golden(folder, *ops);
      if (report.status().code() == StatusCode::kDoesNotFit) {
        ++num_skipped;
        output.write_now(skipped_line(ops->name, folder_name, report.status().message()));
        continue;
      }
      if (!report.ok()) return report.status();
      ++(report.value().passed() ? num_passed : num_failed);
      output.write_now(line_of(ops->name, report.value()));
    }
  }
  if (num_passed + num_failed + num_skipped == 0) {
    return bad_usage(str("no golden model has ", quote(name_), " in its name; there are ", names));
  }
  if (!json_) {
    output.write_now(str(num_passed, " passed, ", num_failed, " failed",
                         num_skipped > 0 ? str(", ", num_skipped, " skipped") : "", "\n"));
  }
  if (!output.status().ok()) return output.status();
  return exit_code(num_failed);
}

class CheckSimCommand : public Command {
 public:
  std::string name() const override { return "check sim"; }
  std::string summary() const override {
    return "scheduler, prefix cache and streams under random loads, every rule checked at every "
           "step";
  }
  std::vector<Flag> flags() override {
    return {
        int_flag({"steps", "", "N", str(options_.num_steps), "scheduler steps"},
                 {1, int64_t{1} << 40}, [this](int64_t value) { options_.num_steps = value; }),
        int_flag({"seed", "", "N", str(options_.seed), "names a run"}, {0, INT64_MAX},
                 [this](int64_t value) { options_.seed = static_cast<uint64_t>(value); }),
        switch_flag({"json", "", "", "", "print one JSON object"}, [this] { json_ = true; }),
    };
  }
  Result<int> run() override {
    const SimReport r = run_simulation(options_);
    const SimStreamReport s = run_stream_simulation(
        {.num_answers = std::max<int64_t>(options_.num_steps / 10, 1), .seed = options_.seed});
    Output output;
    output.write(json_ ? dump_json(to_json(r, s)) + "\n" : to_text(r) + to_text(s));
    output.flush();
    if (!output.status().ok()) return output.status();
    return exit_code(r.ok() && s.ok() ? 0 : 1);
  }

 private:
  Json to_json(const SimReport& r, const SimStreamReport& s) const {
    Json coverage = Json::object();
    for (size_t place = 0; place < kNumSimPlaces; ++place) {
      Json& row = coverage[sim_place_name(static_cast<SimPlace>(place))];
      for (size_t event = 0; event < kNumSimEvents; ++event) {
        row[sim_event_name(static_cast<SimEvent>(event))] = r.coverage[place][event];
      }
    }
    return Json{{"passed", r.ok() && s.ok()},
                {"seed", options_.seed},
                {"steps", r.num_steps},
                {"worlds", r.num_worlds},
                {"requests", r.num_requests},
                {"finished", r.num_finished},
                {"cancelled", r.num_cancelled},
                {"expired", r.num_expired},
                {"faults", r.num_faults},
                {"preemptions", r.num_preemptions},
                {"max_preemptions", r.max_preemptions},
                {"max_wait_share", r.max_wait_share},
                {"tokens", r.num_tokens},
                {"cached_tokens", r.num_cached_tokens},
                {"coverage", coverage},
                {"answers", s.num_answers},
                {"violation", r.ok() ? s.violation : r.violation}};
  }

  // How often what happened to a request where; what cannot happen is 0.
  static std::string to_text(const SimReport& r) {
    const auto cell = [](const std::string& text) {
      return std::string(text.size() < 10 ? 10 - text.size() : 1, ' ') + text;
    };
    std::string text = cell("");
    for (size_t event = 0; event < kNumSimEvents; ++event) {
      text += cell(sim_event_name(static_cast<SimEvent>(event)));
    }
    for (size_t place = 0; place < kNumSimPlaces; ++place) {
      text += "\n" + cell(sim_place_name(static_cast<SimPlace>(place)));
      for (const int64_t count : r.coverage[place]) text += cell(str(count));
    }
    return text + str("\n", r.ok() ? "ok     " : "FAILED ", r.num_steps, " steps, ", r.num_worlds,
                      " worlds, ", r.num_requests, " requests, ", r.num_cancelled, " cancelled, ",
                      r.num_preemptions, " preemptions (", r.max_preemptions, " of one request), ",
                      r.num_tokens, " tokens, ", r.num_cached_tokens, " more from the cache",
                      r.ok() ? "" : ": " + r.violation, "\n");
  }

  static std::string to_text(const SimStreamReport& s) {
    return str(s.ok() ? "ok     " : "FAILED ", s.num_answers,
               " answers as text: ", s.num_stopped_by_string, " ended by a stop string, ",
               s.num_stopped_by_id, " by an id, ", s.num_at_length, " at their length, ",
               s.num_aborted, " aborted", s.ok() ? "" : ": " + s.violation, "\n");
  }

  SimOptions options_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_check_ops_command() { return std::make_unique<CheckOpsCommand>(); }
std::unique_ptr<Command> make_check_golden_command() {
  return std::make_unique<CheckGoldenCommand>();
}
std::unique_ptr<Command> make_check_sim_command() { return std::make_unique<CheckSimCommand>(); }

}  // namespace slipstream

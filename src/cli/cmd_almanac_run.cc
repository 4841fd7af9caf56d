// slipstream almanac run: a campaign's engines started, measured and stopped one after the other.
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "bench/almanac_config.h"
#include "bench/campaign_run.h"
#include "bench/store.h"
#include "cli/command.h"
#include "cli/environment.h"
#include "cli/interrupts.h"
#include "cli/line_io.h"
#include "cli/model_path.h"

namespace slipstream {
namespace {

// A name of the model list or a file in the cache becomes its path. What is not in the cache is the
// engine's to find: most fetch a repository by its name.
Result<std::string> model_argument(const std::string& format, const std::string& model) {
  std::error_code code;
  if (format == "huggingface") {
    if (std::filesystem::exists(model, code)) return model;
    const Result<ModelPath> cached = resolve_model("hf:" + model);
    return cached.ok() ? cached->path : model;
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const ModelPath path, resolve_model(model));
  return path.path;
}

class RunCommand : public Command {
 public:
  std::string name() const override { return "almanac run"; }
  std::string summary() const override {
    return "measures a campaign: starts each engine, loads it, stores every point";
  }
  std::vector<Flag> flags() override;
  std::vector<Positional> positionals() override {
    return {text_positional("CAMPAIGN",
                            "a campaign's TOML file; almanac/README.md says what it holds", true,
                            [this](const std::string& value) { path_ = value; })};
  }
  Result<int> run() override;

 private:
  std::string path_;
  std::string folder_ = "almanac";
  std::string store_path_ = default_almanac_store();
  CampaignOptions options_;
  bool dry_run_ = false;
};

std::vector<Flag> RunCommand::flags() {
  Flag only{{"only", "", "FILTER", "",
             "CONFIGURATION[/MODEL[/INxOUT[/ARRIVAL]]], such as vllm/*/128x1024; may be repeated"},
            [this](const std::string& value) -> Status {
              SLIPSTREAM_ASSIGN_OR_RETURN(CampaignFilter filter, parse_campaign_filter(value));
              options_.filters.push_back(std::move(filter));
              return {};
            }};
  only.repeats = true;
  return {text_flag({"store", "", "FILE", "$SLIPSTREAM_HOME/almanac.db",
                     "gets the points; logs and requests go into a folder beside it"},
                    [this](const std::string& value) { store_path_ = value; }),
          text_flag({"almanac", "", "FOLDER", "almanac",
                     "the almanac's folder, which has engines/ and configurations/"},
                    [this](const std::string& value) { folder_ = value; }),
          std::move(only),
          switch_flag({"dry-run", "", "", "", "print the plan and its commands; start nothing"},
                      [this] { dry_run_ = true; })};
}

std::string report_line(const CampaignReport& report) {
  return str(report.num_measured, " points measured, ", report.num_present, " there already, ",
             report.num_failed, " failures",
             report.interrupted ? "; interrupted: run it again to go on" : "", "\n");
}

Result<int> RunCommand::run() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const AlmanacFile file, check_almanac_file(path_, folder_));
  if (!file.problems.empty()) {
    for (const std::string& problem : file.problems) write_stderr(problem + "\n");
    return bad_usage("").exit_code();
  }
  if (file.kind != "campaign") {
    return bad_usage(
        str(path_, ": a campaign is expected, not ", file.kind, " ", quote(file.name)));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const CampaignPlan plan,
                              make_campaign_plan(file.value, folder_, model_argument));
  options_.home = home_folder();
  Output output;
  if (dry_run_) {
    SLIPSTREAM_RETURN_IF_ERROR(check_filters(options_.filters, plan));
    output.write_now(describe_campaign(plan, options_));
    if (!output.status().ok()) return output.status();
    return 0;
  }
  if (store_path_.empty()) {
    return bad_usage("neither SLIPSTREAM_HOME nor HOME is set; name the store with --store");
  }
  options_.store_path = store_path_;
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto store, PointStore::open(store_path_));
  const Interrupts interrupts([] {});
  CampaignHooks hooks;
  hooks.on_line = [](const std::string& line) { write_stderr("almanac: " + line + "\n"); };
  hooks.should_stop = [&interrupts] { return interrupts.interrupted(); };
  hooks.on_unstored = [&output](const std::string& line) { output.write_now(line + "\n"); };
  SLIPSTREAM_ASSIGN_OR_RETURN(const CampaignReport report,
                              run_campaign(plan, options_, *store, hooks));
  write_stderr(report_line(report));
  return report.num_failed == 0 && !report.interrupted ? 0 : 1;
}

}  // namespace

std::unique_ptr<Command> make_almanac_run_command() { return std::make_unique<RunCommand>(); }

}  // namespace slipstream

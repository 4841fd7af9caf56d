// slipstream almanac add: a contributed configuration, checked and put in its place.
#include <string>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "bench/almanac_config.h"
#include "cli/command.h"
#include "cli/line_io.h"

namespace slipstream {
namespace {

class AddCommand : public Command {
 public:
  std::string name() const override { return "almanac add"; }
  std::string summary() const override {
    return "checks an engine's, a configuration's or a campaign's file and copies it in place";
  }
  std::vector<Flag> flags() override {
    return {
        text_flag({"to", "", "FOLDER", "almanac", "the almanac's folder, which has engines/"},
                  [this](const std::string& value) { folder_ = value; }),
        switch_flag({"check-only", "", "", "", "copy nothing"}, [this] { check_only_ = true; })};
  }
  std::vector<Positional> positionals() override {
    return {text_positional("FILE", "TOML; almanac/README.md says what it holds", true,
                            [this](const std::string& value) { path_ = value; })};
  }
  Result<int> run() override;

 private:
  std::string path_;
  std::string folder_ = "almanac";
  bool check_only_ = false;
};

Result<int> AddCommand::run() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const AlmanacFile file, check_almanac_file(path_, folder_));
  if (!file.problems.empty()) {
    for (const std::string& problem : file.problems) write_stderr(problem + "\n");
    return bad_usage("").exit_code();
  }
  std::string text = str(file.kind, " ", quote(file.name), " is valid");
  if (!check_only_) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const AddedFile added, add_almanac_file(path_, file, folder_));
    text += (added.was_there ? "; it was there already: " : "; copied to ") + added.path;
  }
  Output output;
  output.write_now(text + "\n");
  if (!output.status().ok()) return output.status();
  return 0;
}

}  // namespace

std::unique_ptr<Command> make_almanac_add_command() { return std::make_unique<AddCommand>(); }

}  // namespace slipstream

// slipstream version: what this binary is.
#include "bench/build_info.h"
#include "cli/command.h"
#include "cli/line_io.h"

namespace slipstream {
namespace {

class VersionCommand : public Command {
 public:
  std::string name() const override { return "version"; }
  std::string summary() const override { return "prints the version and the commit"; }
  std::vector<Flag> flags() override { return {}; }

  Result<int> run() override {
    Output output;
    output.write_now(version_text() + "\n");
    if (!output.status().ok()) return output.status();
    return 0;
  }
};

}  // namespace

std::unique_ptr<Command> make_version_command() { return std::make_unique<VersionCommand>(); }

}  // namespace slipstream

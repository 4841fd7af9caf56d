// slipstream openapi: the server's API as its own tables describe it.
#include "base/json.h"
#include "cli/command.h"
#include "cli/line_io.h"
#include "server/openapi.h"

namespace slipstream {
namespace {

class OpenApiCommand : public Command {
 public:
  std::string name() const override { return "openapi"; }
  std::string summary() const override { return "prints what the server's API takes, as OpenAPI"; }
  std::vector<Flag> flags() override {
    return {switch_flag({"markdown", "", "", "", "as the page docs/api.md instead"},
                        [this] { markdown_ = true; })};
  }

  Result<int> run() override {
    Output output;
    if (markdown_) {
      output.write_now(api_markdown());
    } else {
      output.write_now(dump_json(openapi_document(ParamTable(ServerLimits())), 2) + "\n");
    }
    if (!output.status().ok()) return output.status();
    return 0;
  }

 private:
  bool markdown_ = false;
};

}  // namespace

std::unique_ptr<Command> make_openapi_command() { return std::make_unique<OpenApiCommand>(); }

}  // namespace slipstream

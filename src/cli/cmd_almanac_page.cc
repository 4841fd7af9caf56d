// slipstream almanac page: serves the almanac's page with the points of a store.
#include <string>

#include "base/strings.h"
#include "bench/store.h"
#include "cli/almanac_flags.h"
#include "cli/almanac_site.h"
#include "cli/command.h"
#include "cli/environment.h"
#include "cli/line_io.h"
#include "server/assets.h"
#include "server/page_server.h"

namespace slipstream {
namespace {

class PageCommand : public Command {
 public:
  std::string name() const override { return "almanac page"; }
  std::string summary() const override { return "serves the almanac's page until Ctrl-C"; }
  std::vector<Flag> flags() override {
    return {
        almanac_store_flag(store_path_),
        text_flag({"host", "", "ADDRESS", "127.0.0.1", "address to listen on"},
                  [this](const std::string& value) { host_ = value; }),
        int_flag({"port", "", "PORT", "8000", "port to listen on; 0: a free one"}, {0, 65535},
                 [this](int64_t value) { port_ = static_cast<int>(value); }),
    };
  }
  Result<int> run() override;

 private:
  std::string store_path_ = default_almanac_store();
  std::string host_ = "127.0.0.1";
  int port_ = 8000;
};

Result<int> PageCommand::run() {
  SLIPSTREAM_RETURN_IF_ERROR(require_almanac_store(store_path_));
  // Refused now rather than at the first request.
  SLIPSTREAM_RETURN_IF_ERROR(PointStore::open_read_only(store_path_).status());
  SLIPSTREAM_ASSIGN_OR_RETURN(
      const auto server, PageServer::create(host_, port_,
                                            {redirect_route("/", "/almanac"),
                                             asset_route("/almanac"), asset_route("/assets/{path}"),
                                             almanac_data_route(live_almanac_files(store_path_))}));
  const bool is_ipv6 = host_.find(':') != std::string::npos;
  Output output;
  output.write_now(str("slipstream: the almanac is on http://", is_ipv6 ? "[" + host_ + "]" : host_,
                       ":", server->port(), "/almanac\n"));
  server->run();
  return 0;
}

}  // namespace

std::unique_ptr<Command> make_almanac_page_command() { return std::make_unique<PageCommand>(); }

}  // namespace slipstream

// CampaignEngine: an engine of a campaign, started by its own command and ready to be measured.
//
// Owns its process and its log. Used by one thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "bench/campaign_plan.h"
#include "bench/child_process.h"

namespace slipstream {

class CampaignEngine {
 public:
  // Starts it on a free port, its output appended to `log_path`, and waits until its health route
  // answers 200. The error says why it is not ready: it ended, or its time was up, or
  // `should_stop` said so.
  static Result<std::unique_ptr<CampaignEngine>> start(const EngineSetup& setup,
                                                       const std::string& log_path,
                                                       const std::function<bool()>& should_stop);

  // How it ended; none while it runs.
  std::optional<std::string> ended() { return process_->ended(); }
  // Whether it went by itself at SIGTERM; else it was killed.
  bool stop(int64_t limit_ms) { return process_->stop(limit_ms); }

  std::string url() const;
  const ChildCommand& command() const { return command_; }
  // From the start of the program until it said that it is ready.
  double cold_start_s() const { return cold_start_s_; }

 private:
  CampaignEngine() = default;

  ChildCommand command_;
  std::unique_ptr<ChildProcess> process_;
  int port_ = 0;
  double cold_start_s_ = 0.0;
};

// `setup`'s command with its places filled in.
ChildCommand engine_child_command(const EngineSetup& setup, const std::string& port);

// The last lines of a log, at most 4 KiB; empty if there is none.
std::string log_tail(const std::string& log_path);

}  // namespace slipstream

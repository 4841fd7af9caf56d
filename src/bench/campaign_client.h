// CampaignClient: one measurement by the load generator (bench/serve.h), in a process of its own.
//
// The one place where campaigns and the load generator meet. The process makes a measurement that
// can be ended at once: when the engine dies or hangs, or at Ctrl-C. Used by one thread, of a
// process whose other threads hold no locks: it is forked and goes on without them.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "bench/campaign_plan.h"

namespace slipstream {

struct ClientAsk {
  std::string url;
  std::string endpoint;
  CampaignShape shape;
  CampaignLoad load;
  int64_t vocab_size = 0;  // 0: the load generator's own bound
  bool text_prompts = false;
  bool ignore_eos = true;
  Json extra_body = Json::object();
  Json limits = Json::object();  // goodput is counted within them
  int64_t timeout_s = 0;         // of a request
  uint64_t seed = 0;
  // Gets a line per request, all of them or none; empty: none.
  std::string rows_path;
};

class CampaignClient {
 public:
  static Result<std::unique_ptr<CampaignClient>> start(const ClientAsk& ask);
  // Ends the measurement if it runs.
  ~CampaignClient();
  CampaignClient(const CampaignClient&) = delete;
  CampaignClient& operator=(const CampaignClient&) = delete;

  // Waits up to `wait_ms`. The record of a finished measurement or why there is none; nothing while
  // it runs.
  std::optional<Result<Json>> poll(int wait_ms);

 private:
  CampaignClient(pid_t pid, int fd) : pid_(pid), fd_(fd) {}

  pid_t pid_;
  int fd_;              // the record comes through it
  std::string answer_;  // what has come
};

// The command that makes the same measurement.
std::string client_command(const ClientAsk& ask);

}  // namespace slipstream

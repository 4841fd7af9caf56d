// Running a campaign: each engine started, measured point by point by the method, and stopped.
//
// A point is in the store before the next one starts, and one that is there is not measured again,
// so a campaign that was ended goes on where it was. An engine that does not start, dies or hangs
// costs its own points only. Runs on the caller's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "bench/campaign_plan.h"
#include "bench/store.h"

namespace slipstream {

struct CampaignOptions {
  std::string store_path;  // of the open store; logs and rows go beside it
  std::vector<CampaignFilter> filters = {};
  std::string home = {};  // commands show it as ~
};

struct CampaignHooks {
  std::function<void(const std::string& line)> on_line;  // progress, without a newline
  std::function<bool()> should_stop;                     // asked many times a second
  // A measured point that the store could not take, as a line that `almanac import` reads.
  std::function<void(const std::string& line)> on_unstored;
};

struct CampaignReport {
  int64_t num_measured = 0;
  int64_t num_present = 0;  // in the store from an earlier run
  int64_t num_failed = 0;   // engines that did not start and points that came to nothing
  bool interrupted = false;
};

// An error is one of the store, the disk or a filter; what was measured before it is kept.
Result<CampaignReport> run_campaign(const CampaignPlan& plan, const CampaignOptions& options,
                                    PointStore& store, const CampaignHooks& hooks);

// What would be run, with the commands and about how long it takes; a line each, nothing started.
// In campaign_describe.cc.
std::string describe_campaign(const CampaignPlan& plan, const CampaignOptions& options);

}  // namespace slipstream

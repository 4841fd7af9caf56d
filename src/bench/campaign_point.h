// From a measurement to a stored point: who it was about, and what came out.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "bench/campaign_method.h"
#include "bench/campaign_plan.h"

namespace slipstream {

// The machine as points name it. Identity: a campaign that goes on elsewhere measures anew.
struct CampaignMachine {
  std::string cpu;
  std::string gpu = {};                // "": the campaign is for the CPU
  std::string driver = {}, cuda = {};  // of the GPU; no identity
};

// The identity columns of a point, all of them and with their types: what point_id() needs.
Json point_identity(const CampaignPlan& plan, const EngineSetup& setup, const VersionWords& version,
                    const CampaignMachine& machine, const CampaignShape& shape,
                    const CampaignLoad& load, int64_t repeat);

struct MeasuredExtras {
  std::string server_command;
  std::string client_command;
  double cold_start_s = 0.0;
  std::optional<double> power_w_mean;  // of the GPUs; none: not known
  Json config;                         // how it was measured, on top of the record's own
};

// `record` is the load generator's.
Result<Json> measured_point(const Json& record, const Json& identity, const EngineSetup& setup,
                            const CampaignMachine& machine, const MeasuredExtras& extras);

}  // namespace slipstream

// The numbers of the method: how many requests a point takes, which rates lie between the extremes,
// which seed it has. Pure functions, from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/campaign_plan.h"

namespace slipstream {

// Requests that `rate` a second bring in `sweep.seconds`, within the sweep's bounds.
int64_t requests_of_rate(double rate, const CampaignSweep& sweep);

// At most `sweep.num_rates`, evenly spread between the requests a second of one at a time and those
// of all at once, both left out; three digits each. Fewer where they would be closer to each other
// than 5 % of the larger extreme: such points say the same.
std::vector<double> rates_between(double one_at_a_time, double all_at_once,
                                  const CampaignSweep& sweep);

// The same for every engine, so that all answer the same prompts, and another for every shape, load
// and repeat, so that no prompt is in a cache because an earlier point sent it. `load` is the
// load's place in the campaign, such as "rate 2".
uint64_t point_seed(uint64_t campaign_seed, const std::string& model, const CampaignShape& shape,
                    const std::string& load, int64_t repeat);

// What a version command printed, such as "slipstream 0.1.0 (25b416e)".
struct VersionWords {
  std::string version;  // "0.1.0"; the first line where it has no number with a dot
  std::string commit;   // "25b416e"; "" where none is given
};
VersionWords parse_version(const std::string& printed);

}  // namespace slipstream

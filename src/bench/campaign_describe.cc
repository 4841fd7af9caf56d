// What `almanac run --dry-run` prints.
#include <cmath>
#include <string>
#include <vector>

#include "base/strings.h"
#include "bench/campaign_engine.h"
#include "bench/campaign_run.h"
#include "bench/config_checker.h"

namespace slipstream {
namespace {

constexpr double kSPerMinute = 60.0;

// The loads of a shape that the filters leave, as words; their points are added to `num_points`.
std::vector<std::string> wanted_loads(const CampaignPlan& plan, const CampaignOptions& options,
                                      const EngineSetup& setup, const CampaignShape& shape,
                                      int64_t& num_points) {
  std::vector<std::string> loads;
  const auto add = [&](const std::string& arrival, const std::string& load, int64_t count) {
    if (count == 0 || !selects(options.filters, setup, shape, arrival)) return;
    loads.push_back(load);
    num_points += count * plan.repeats;
  };
  for (const CampaignLoad& load : plan.loads) {
    add(load.arrival, str(load_text(load), " (", load.requests, " requests)"), 1);
  }
  if (!plan.sweep) return loads;
  const CampaignSweep& sweep = *plan.sweep;
  add("closed", "one at a time", 1);
  add("burst", str("all at once (", sweep.max_requests, " requests)"), 1);
  add(sweep.arrival, str("up to ", sweep.num_rates, " ", sweep.arrival, " rates between"),
      sweep.num_rates);
  return loads;
}

}  // namespace

std::string describe_campaign(const CampaignPlan& plan, const CampaignOptions& options) {
  std::string text;
  int64_t num_points = 0;
  int64_t num_starts = 0;
  for (const EngineSetup& setup : plan.setups) {
    std::string lines;
    for (const CampaignShape& shape : plan.shapes) {
      const std::vector<std::string> loads = wanted_loads(plan, options, setup, shape, num_points);
      if (!loads.empty()) lines += str("  ", shape_text(shape), ": ", list_text(loads), "\n");
    }
    if (lines.empty()) continue;
    ++num_starts;
    text += str(setup.configuration, "/", setup.model, ": ",
                shell_text(engine_child_command(setup, "PORT"), options.home), "\n", lines);
  }
  const double seconds = plan.sweep ? plan.sweep->seconds : CampaignSweep().seconds;
  const double minutes = static_cast<double>(num_points) * (seconds + plan.pause_s) / kSPerMinute;
  return text + str(num_starts, num_starts == 1 ? " engine start" : " engine starts", ", at most ",
                    num_points, " points (", plan.repeats,
                    plan.repeats == 1 ? " repeat" : " repeats", "); about ",
                    std::llround(std::ceil(minutes)), " min at ", seconds,
                    " s a point, starts and warm-ups not counted\n");
}

}  // namespace slipstream

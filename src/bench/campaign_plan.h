// CampaignPlan: a campaign's file together with the engines and configurations it names, as what is
// to be done: which programs are started how, and which loads they get.
//
// Owns the reading of valid files. Does not start anything; what is measured already and which
// rates lie between the extremes is known while it runs (campaign_method.h, campaign_run.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace slipstream {

// A configuration (or an engine as it is) on a model.
struct EngineSetup {
  std::string configuration;  // its name; an engine's without tuning
  std::string engine;
  std::string model;
  std::string weights;
  std::string kv;  // "": the engine's default
  bool dummy_weights = false;
  int64_t num_devices = 1;
  int64_t vocab_size = 0;     // prompts are random ids below it; 0: the client's own bound
  bool text_prompts = false;  // the engine takes no ids
  // So that answers have their full length: the member of a request, or a bias against the model's
  // ends in the extra body.
  bool ignore_eos = true;
  Json extra_body = Json::object();
  std::string accuracy_task;
  std::optional<double> accuracy;  // of these weights on that task
  std::optional<int64_t> image_bytes;
  std::vector<std::string> command;  // {host} and {port} are still in it
  std::vector<std::string> version_command;
  std::map<std::string, std::string> environment;
  std::string health_route;
  std::string completions_route;
  int64_t ready_timeout_s = 0;
  int64_t stop_timeout_s = 0;
};

struct CampaignShape {
  int64_t tokens_in = 0;
  int64_t tokens_out = 0;
  double prefix_share = 0.0;
};

struct CampaignLoad {
  std::string arrival;        // "closed", "constant", "poisson", "burst"
  double request_rate = 0.0;  // per second, of constant and poisson
  int64_t concurrency = 0;    // of closed
  int64_t requests = 0;
};

// The method: one request at a time, all at once, and rates between what these two bring.
struct CampaignSweep {
  int64_t num_rates = 10;  // at most
  std::string arrival = "constant";
  double seconds = 60.0;  // of expected load a point takes, which makes the number of requests
  int64_t min_requests = 32;
  int64_t max_requests = 1'000;  // also those that are sent all at once
};

struct CampaignPlan {
  std::string name;
  std::string device;  // "cpu", "cuda"
  std::vector<EngineSetup> setups;
  std::vector<CampaignShape> shapes;
  std::vector<CampaignLoad> loads;     // besides the sweep
  std::optional<CampaignSweep> sweep;  // none: only `loads`
  int64_t repeats = 1;
  int64_t warmup_requests = 0;
  double pause_s = 0.0;
  int64_t point_timeout_s = 0;
  uint64_t seed = 0;
  Json limits;  // {"ttft_ms": 300}; empty: none
};

// What of a campaign is wanted: "CONFIGURATION[/MODEL[/INxOUT[/ARRIVAL]]]"; a * stands for any.
struct CampaignFilter {
  std::string text;  // as it was given
  std::string configuration = "*";
  std::string model = "*";
  std::string shape = "*";
  std::string arrival = "*";
};
Result<CampaignFilter> parse_campaign_filter(const std::string& text);
bool selects(const CampaignFilter& filter, const EngineSetup& setup, const CampaignShape& shape,
             const std::string& arrival);
// Whether any of the filters does; without filters everything is wanted.
bool selects(const std::vector<CampaignFilter>& filters, const EngineSetup& setup,
             const CampaignShape& shape, const std::string& arrival);
// An error names the first filter that selects nothing of the plan, and what there is to select.
Status check_filters(const std::vector<CampaignFilter>& filters, const CampaignPlan& plan);

std::string shape_text(const CampaignShape& shape);  // "128x1024"
std::string load_text(const CampaignLoad& load);     // "closed 8", "constant 2.5", "burst"

// What an engine is given for the model a campaign names, such as the file of "smollm2-135m".
// `format` is "gguf" or "huggingface".
using ModelResolver =
    std::function<Result<std::string>(const std::string& format, const std::string& model)>;

// `campaign` is the content of a file that check_almanac_file() found valid against `folder`.
Result<CampaignPlan> make_campaign_plan(const Json& campaign, const std::string& folder,
                                        const ModelResolver& resolve_model);

}  // namespace slipstream

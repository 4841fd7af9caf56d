#include "bench/campaign_plan.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "base/strings.h"
#include "bench/almanac_config.h"
#include "bench/config_checker.h"

namespace slipstream {
namespace {

using C = ConfigChecker;

constexpr int kNeverBias = -100;  // the API's lowest: "should result in a ban"

int64_t whole(const Json& table, const char* key, int64_t fallback) {
  return static_cast<int64_t>(C::number(table, key, static_cast<double>(fallback)));
}

// An engine's or a configuration's file, which must be valid itself.
Result<Json> load_valid(const std::string& kind, const std::string& name,
                        const std::string& folder) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const AlmanacFile file,
                              check_almanac_file(almanac_file_path(folder, kind, name), folder));
  if (!file.problems.empty()) return bad_usage(file.problems.front());
  return file.value;
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

// The flags of an entry of settings, weights or kv.
void add_flags(const Json& entry, const std::string& value, std::vector<std::string>& command) {
  for (std::string word : C::texts(entry, "flags")) {
    replace_all(word, "{value}", value);
    command.push_back(std::move(word));
  }
}

void add_environment(const Json& file, std::map<std::string, std::string>& environment) {
  for (const auto& [name, value] : C::table(file, "environment").items()) {
    environment[name] = value.get<std::string>();
  }
}

// One configuration, read once for all models.
struct Configuration {
  std::string name;
  Json engine;
  Json tuning = Json::object();  // of a configuration's file; empty for an engine as it is
};

Result<Configuration> load_configuration(const std::string& name, const std::string& folder) {
  Configuration configuration{name, Json::object()};
  std::string engine_name = name;
  std::error_code code;
  if (std::filesystem::exists(almanac_file_path(folder, "configuration", name), code)) {
    SLIPSTREAM_ASSIGN_OR_RETURN(configuration.tuning, load_valid("configuration", name, folder));
    engine_name = C::text(configuration.tuning, "engine");
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(configuration.engine, load_valid("engine", engine_name, folder));
  return configuration;
}

// What the engine is given for the model: of the formats it reads, the first that the model has.
Result<std::string> model_argument(const Json& engine, const Json& model,
                                   const ModelResolver& resolve_model) {
  for (const std::string& format : C::texts(engine, "model_formats")) {
    if (model.contains(format)) return resolve_model(format, C::text(model, format));
  }
  return bad_usage(str("model ", quote(C::text(model, "name")), " has no format that ",
                       C::text(engine, "name"), " reads"));
}

std::vector<std::string> engine_command(const Configuration& configuration, const Json& model,
                                        const std::string& device, const std::string& argument) {
  const Json& engine = configuration.engine;
  std::vector<std::string> command = C::texts(engine, "command");
  for (std::string& word : command) replace_all(word, "{model}", argument);
  for (const std::string& word : C::texts(C::table(engine, "device_flags"), device)) {
    command.push_back(word);
  }
  add_flags(C::table(C::table(engine, "weights"), C::text(model, "weights")), "", command);
  add_flags(C::table(C::table(engine, "kv"), C::text(configuration.tuning, "kv")), "", command);
  const Json& settings = C::table(engine, "settings");
  const Json& tuned = C::table(configuration.tuning, "settings");
  for (const auto& [name, value] : tuned.items()) {
    add_flags(C::table(settings, name), dump_json(value), command);
  }
  const int64_t num_devices = whole(model, "num_devices", 1);
  if (num_devices > 1 && !tuned.contains("tensor_parallel_size")) {
    add_flags(C::table(settings, "tensor_parallel_size"), std::to_string(num_devices), command);
  }
  if (model.value("dummy_weights", false)) {
    add_flags(C::table(settings, "dummy_weights"), "", command);
  }
  for (const std::string& word : C::texts(configuration.tuning, "extra_flags")) {
    command.push_back(word);
  }
  return command;
}

Json eos_bias(const Json& model) {
  Json bias = Json::object();
  for (const Json& id : model.value("eos_ids", Json::array())) bias[dump_json(id)] = kNeverBias;
  return bias;
}

Result<EngineSetup> make_setup(const Configuration& configuration, const Json& model,
                               const std::string& device, const ModelResolver& resolve_model) {
  const Json& engine = configuration.engine;
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string argument,
                              model_argument(engine, model, resolve_model));
  EngineSetup setup;
  setup.configuration = configuration.name;
  setup.engine = C::text(engine, "name");
  setup.model = C::text(model, "name");
  setup.weights = C::text(model, "weights");
  setup.kv = C::text(configuration.tuning, "kv");
  setup.dummy_weights = model.value("dummy_weights", false);
  setup.num_devices = whole(model, "num_devices", 1);
  setup.vocab_size = whole(model, "vocab_size", 0);
  setup.text_prompts = C::text(engine, "prompts") == "text";
  setup.ignore_eos = engine.value("ignore_eos", true);
  if (!setup.ignore_eos) setup.extra_body = {{"logit_bias", eos_bias(model)}};
  setup.accuracy_task = C::text(model, "accuracy_task");
  if (model.contains("accuracy")) setup.accuracy = C::number(model, "accuracy", 0.0);
  if (engine.contains("image_bytes")) setup.image_bytes = whole(engine, "image_bytes", 0);
  setup.command = engine_command(configuration, model, device, argument);
  setup.version_command = C::texts(engine, "version_command");
  add_environment(engine, setup.environment);
  add_environment(configuration.tuning, setup.environment);
  setup.health_route = C::text(engine, "health_route");
  setup.completions_route = C::text(engine, "completions_route");
  setup.ready_timeout_s = whole(engine, "ready_timeout_s", 0);
  setup.stop_timeout_s = whole(engine, "stop_timeout_s", kDefaultStopTimeoutS);
  return setup;
}

void read_shapes_and_loads(const Json& campaign, CampaignPlan& plan) {
  for (const Json& shape : C::tables(campaign, "shapes")) {
    plan.shapes.push_back({whole(shape, "tokens_in", 0), whole(shape, "tokens_out", 0),
                           C::number(shape, "prefix_share", 0.0)});
  }
  for (const Json& load : C::tables(campaign, "loads")) {
    plan.loads.push_back({C::text(load, "arrival"), C::number(load, "request_rate", 0.0),
                          whole(load, "concurrency", 0), whole(load, "requests", 0)});
  }
  if (!campaign.contains("sweep")) return;
  const Json& sweep = C::table(campaign, "sweep");
  CampaignSweep read;
  read.num_rates = whole(sweep, "rates", read.num_rates);
  if (sweep.contains("arrival")) read.arrival = C::text(sweep, "arrival");
  read.seconds = C::number(sweep, "seconds", read.seconds);
  read.min_requests = whole(sweep, "min_requests", read.min_requests);
  read.max_requests = whole(sweep, "max_requests", read.max_requests);
  plan.sweep = read;
}

// Every arrival that the plan has, each once.
std::vector<std::string> arrivals_of(const CampaignPlan& plan) {
  std::set<std::string> arrivals;
  for (const CampaignLoad& load : plan.loads) arrivals.insert(load.arrival);
  if (plan.sweep) {
    arrivals.insert({"closed", "burst"});
    if (plan.sweep->num_rates > 0) arrivals.insert(plan.sweep->arrival);
  }
  return {arrivals.begin(), arrivals.end()};
}

void add_once(std::vector<std::string>& names, const std::string& name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

bool fits(const std::string& wanted, const std::string& name) {
  return wanted == "*" || wanted == name;
}

}  // namespace

std::string shape_text(const CampaignShape& shape) {
  return str(shape.tokens_in, "x", shape.tokens_out,
             shape.prefix_share > 0.0 ? str("+", shape.prefix_share * 100.0, "%") : "");
}

std::string load_text(const CampaignLoad& load) {
  if (load.arrival == "closed") return str("closed ", load.concurrency);
  if (load.arrival == "burst") return "burst";
  return str(load.arrival, " ", load.request_rate);
}

Result<CampaignFilter> parse_campaign_filter(const std::string& text) {
  const std::vector<std::string> parts = split(text, '/');
  const bool has_empty =
      std::any_of(parts.begin(), parts.end(), [](const auto& part) { return part.empty(); });
  if (parts.empty() || parts.size() > 4 || has_empty) {
    return bad_usage(str("--only ", quote(text),
                         ": CONFIGURATION[/MODEL[/INxOUT[/ARRIVAL]]] is expected, such as"
                         " vllm/qwen3-8b/128x1024; * stands for any"));
  }
  CampaignFilter filter{text};
  std::string* const members[] = {&filter.configuration, &filter.model, &filter.shape,
                                  &filter.arrival};
  for (size_t idx = 0; idx < parts.size(); ++idx) *members[idx] = parts[idx];
  return filter;
}

bool selects(const CampaignFilter& filter, const EngineSetup& setup, const CampaignShape& shape,
             const std::string& arrival) {
  return fits(filter.configuration, setup.configuration) && fits(filter.model, setup.model) &&
         fits(filter.shape, shape_text(shape)) && fits(filter.arrival, arrival);
}

bool selects(const std::vector<CampaignFilter>& filters, const EngineSetup& setup,
             const CampaignShape& shape, const std::string& arrival) {
  return filters.empty() || std::any_of(filters.begin(), filters.end(), [&](const auto& filter) {
           return selects(filter, setup, shape, arrival);
         });
}

Status check_filters(const std::vector<CampaignFilter>& filters, const CampaignPlan& plan) {
  const std::vector<std::string> arrivals = arrivals_of(plan);
  for (const CampaignFilter& filter : filters) {
    bool any = false;
    std::vector<std::string> setups;
    std::vector<std::string> shapes;
    for (const EngineSetup& setup : plan.setups) {
      add_once(setups, setup.configuration + "/" + setup.model);
      for (const CampaignShape& shape : plan.shapes) {
        add_once(shapes, shape_text(shape));
        any = any || std::any_of(arrivals.begin(), arrivals.end(), [&](const auto& arrival) {
                return selects(filter, setup, shape, arrival);
              });
      }
    }
    if (any) continue;
    return bad_usage(str("--only ", quote(filter.text), " selects nothing of campaign ",
                         quote(plan.name), "; it has ", list_text(setups), "; shapes ",
                         list_text(shapes), "; arrivals ", list_text(arrivals)));
  }
  return {};
}

Result<CampaignPlan> make_campaign_plan(const Json& campaign, const std::string& folder,
                                        const ModelResolver& resolve_model) {
  CampaignPlan plan;
  plan.name = C::text(campaign, "name");
  plan.device = C::text(campaign, "device");
  plan.repeats = whole(campaign, "repeats", plan.repeats);
  plan.warmup_requests = whole(campaign, "warmup_requests", plan.warmup_requests);
  plan.pause_s = C::number(campaign, "pause_s", plan.pause_s);
  plan.point_timeout_s = whole(campaign, "point_timeout_s", kDefaultPointTimeoutS);
  plan.seed = static_cast<uint64_t>(whole(campaign, "seed", 1));
  plan.limits = C::table(campaign, "limits");
  read_shapes_and_loads(campaign, plan);
  for (const std::string& name : C::texts(campaign, "configurations")) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const Configuration configuration,
                                load_configuration(name, folder));
    for (const Json& model : C::tables(campaign, "models")) {
      const std::vector<std::string> chosen = C::texts(model, "configurations");
      const bool is_for_it = !model.contains("configurations") ||
                             std::find(chosen.begin(), chosen.end(), name) != chosen.end();
      if (!is_for_it) continue;
      SLIPSTREAM_ASSIGN_OR_RETURN(EngineSetup setup,
                                  make_setup(configuration, model, plan.device, resolve_model));
      plan.setups.push_back(std::move(setup));
    }
  }
  return plan;
}

}  // namespace slipstream

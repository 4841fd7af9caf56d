// The rules of configurations and campaigns.
#include <algorithm>
#include <array>
#include <set>

#include "bench/almanac_check.h"
#include "bench/campaign_plan.h"

namespace slipstream {
namespace {

using enum ValueKind;

constexpr std::array kConfigurationRules = {
    KeyRule{"kind", kText, true, "\"configuration\""},
    KeyRule{"name", kText, true, "\"vllm-many-seqs\""},
    KeyRule{"engine", kText, true, "\"vllm\""},
    KeyRule{"description", kText, true, "\"what it is tuned for\""},
    KeyRule{"contributor", kText, false, "\"a name\""},
    KeyRule{"devices", kTexts, false, "[\"cuda\"]"},
    KeyRule{"settings", kTable, false, "{ max_num_seqs = 512 }"},
    KeyRule{"kv", kText, false, "\"fp8\""},
    KeyRule{"extra_flags", kTexts, false, "[\"--enforce-eager\"]"},
    KeyRule{"environment", kTable, false, "{ NAME = \"value\" }"},
};
constexpr std::array kCampaignRules = {
    KeyRule{"kind", kText, true, "\"campaign\""},
    KeyRule{"name", kText, true, "\"qwen3-8b-h100\""},
    KeyRule{"description", kText, true, "\"what it answers\""},
    KeyRule{"device", kText, true, "\"cuda\""},
    KeyRule{"configurations", kTexts, true, "[\"slipstream\", \"vllm\"]"},
    KeyRule{"models", kTables, true,
            "[{ name = \"...\", huggingface = \"...\", weights = \"fp8\" }]"},
    KeyRule{"shapes", kTables, true, "[{ tokens_in = 128, tokens_out = 1024 }]"},
    KeyRule{"sweep", kTable, false, "{ rates = 10 }"},
    KeyRule{"loads", kTables, false,
            "[{ arrival = \"closed\", concurrency = 64, requests = 256 }]"},
    KeyRule{"repeats", kWhole, true, "3"},
    KeyRule{"warmup_requests", kWhole, true, "16"},
    KeyRule{"pause_s", kNumber, false, "5"},
    KeyRule{"point_timeout_s", kWhole, false, "600"},
    KeyRule{"seed", kWhole, false, "42"},
    KeyRule{"limits", kTable, false, "{ ttft_ms = 300 }"},
};
constexpr std::array kModelRules = {
    KeyRule{"name", kText, true, "\"qwen3-8b\""},
    KeyRule{"huggingface", kText, false, "\"Qwen/Qwen3-8B\""},
    KeyRule{"gguf", kText, false, "\"qwen3-8b-Q8_0.gguf\""},
    KeyRule{"weights", kText, true, "\"fp8\""},
    KeyRule{"num_devices", kWhole, false, "1"},
    KeyRule{"dummy_weights", kFlag, false, "true"},
    KeyRule{"vocab_size", kWhole, false, "32000"},
    KeyRule{"eos_ids", kWholes, false, "[2]"},
    KeyRule{"accuracy_task", kText, false, "\"wikitext-2 perplexity\""},
    KeyRule{"accuracy", kNumber, false, "0.62"},
    KeyRule{"configurations", kTexts, false, "[\"vllm\"]"},
};
constexpr std::array kShapeRules = {
    KeyRule{"tokens_in", kWhole, true, "128"},
    KeyRule{"tokens_out", kWhole, true, "1024"},
    KeyRule{"prefix_share", kNumber, false, "0.5"},
};
constexpr std::array kSweepRules = {
    KeyRule{"rates", kWhole, false, "10"},
    KeyRule{"arrival", kText, false, "\"constant\""},
    KeyRule{"seconds", kNumber, false, "60"},
    KeyRule{"min_requests", kWhole, false, "32"},
    KeyRule{"max_requests", kWhole, false, "1000"},
};
constexpr std::array kLoadRules = {
    KeyRule{"arrival", kText, true, "\"poisson\""},
    KeyRule{"request_rate", kNumber, false, "2.5"},
    KeyRule{"concurrency", kWhole, false, "64"},
    KeyRule{"requests", kWhole, true, "256"},
};
constexpr std::array kLimitRules = {
    KeyRule{"ttft_ms", kNumber, false, "300"},
    KeyRule{"tpot_ms", kNumber, false, "50"},
    KeyRule{"e2e_ms", kNumber, false, "10000"},
};

const std::vector<std::string> kArrivals = {"closed", "constant", "poisson", "burst"};

}  // namespace

void FileCheck::check_configuration() {
  checker_.check_table(value_, "", kConfigurationRules);
  check_environment();
  const std::string engine_name = C::text(value_, "engine");
  const std::string name = C::text(value_, "name");
  if (!name.empty() && find("engine", name)) {
    checker_.report("name", str("name ", quote(name), " is an engine's; choose another, such as ",
                                engine_name, "-tuned"));
  }
  if (engine_name.empty()) return;
  const std::optional<Json> engine = find("engine", engine_name);
  if (!engine) {
    return checker_.report("engine", str("unknown engine ", quote(engine_name),
                                         "; known: ", list_text(names_of("engine")),
                                         "; add the engine's own file first"));
  }
  if (value_.contains("devices")) check_choices("devices", C::texts(*engine, "devices"));
  const std::string kv = C::text(value_, "kv");
  if (!kv.empty() && !C::table(*engine, "kv").contains(kv)) {
    checker_.report("kv", str(engine_name, " has no kv format ", quote(kv), "; it has ",
                              list_text(keys_of(C::table(*engine, "kv")))));
  }
  check_settings(*engine);
  check_extra_flags(*engine);
}

void FileCheck::check_settings(const Json& engine) {
  const Json& settings = C::table(value_, "settings");
  const Json& offered = C::table(engine, "settings");
  for (const auto& [name, value] : settings.items()) {
    const std::string path = "settings." + name;
    if (!offered.contains(name)) {
      checker_.report(path, str(C::text(engine, "name"), " has no setting ", quote(name),
                                "; it has ", list_text(keys_of(offered))));
      continue;
    }
    const AlmanacSetting* setting = find_setting(name);
    const bool takes_value = setting != nullptr && setting->takes_value;
    const bool is_positive = value.is_number() && value.get<double>() >= 0.0;
    if (takes_value && !is_positive) {
      checker_.report(path, str(quote(name), " must be a number that is not negative"));
    } else if (!takes_value && value != true) {
      checker_.report(path, str(quote(name), " is a switch: write ", name,
                                " = true or leave it"
                                " out"));
    }
  }
  if (settings.contains("prefix_caching") && settings.contains("no_prefix_caching")) {
    checker_.report("settings.no_prefix_caching",
                    "prefix_caching and no_prefix_caching contradict each other; remove one");
  }
  if (C::number(settings, "memory_fraction", 0.5) > 1.0) {
    checker_.report("settings.memory_fraction", "memory_fraction must be at most 1");
  }
}

void FileCheck::check_extra_flags(const Json& engine) {
  std::set<std::string> taken;
  for (const std::string& word : C::texts(engine, "command")) {
    if (is_flag(word)) taken.insert(flag_name(word));
  }
  for (const auto& [name, entry] : C::table(engine, "settings").items()) {
    for (const std::string& word : C::texts(entry, "flags")) {
      if (is_flag(word)) taken.insert(flag_name(word));
    }
  }
  const std::vector<std::string> extra = C::texts(value_, "extra_flags");
  for (size_t idx = 0; idx < extra.size(); ++idx) {
    if (!is_flag(extra[idx]) || !taken.contains(flag_name(extra[idx]))) continue;
    checker_.report(element("extra_flags", idx),
                    str(flag_name(extra[idx]),
                        " is given by the engine's command or by a setting;"
                        " set it under [settings] or remove it"));
  }
}

std::vector<std::string> FileCheck::devices_of(const std::string& name, const Json& engine) const {
  const std::optional<Json> configuration = find("configuration", name);
  const bool is_narrower = configuration && configuration->contains("devices");
  return C::texts(is_narrower ? *configuration : engine, "devices");
}

void FileCheck::check_campaign() {
  checker_.check_table(value_, "", kCampaignRules);
  check_range(value_, "", "repeats", 1, 1'000);
  check_range(value_, "", "warmup_requests", 0, 1'000'000);
  check_range(value_, "", "pause_s", 0, 3'600);
  check_range(value_, "", "point_timeout_s", 1, 86'400);
  check_range(value_, "", "seed", 0, 0x1p53);
  checker_.check_table(C::table(value_, "limits"), "limits", kLimitRules);
  const std::string device = C::text(value_, "device");
  if (!device.empty() && !contains(almanac_devices(), device)) {
    checker_.report("device", str(quote(device), " is not one of ", list_text(almanac_devices())));
  }
  const std::vector<std::string> configurations = C::texts(value_, "configurations");
  if (value_.contains("configurations") && value_["configurations"] == Json::array()) {
    checker_.report("configurations", "'configurations' is empty; name an engine");
  }
  for (size_t idx = 0; idx < configurations.size(); ++idx) {
    const std::string path = element("configurations", idx);
    const std::optional<Json> engine = engine_behind(configurations[idx]);
    if (!engine) {
      std::vector<std::string> known = names_of("engine");
      for (const std::string& name : names_of("configuration")) known.push_back(name);
      checker_.report(path, str("unknown engine or configuration ", quote(configurations[idx]),
                                "; known: ", list_text(known)));
    } else if (contains(almanac_devices(), device) &&
               !contains(devices_of(configurations[idx], *engine), device)) {
      checker_.report(path, str(quote(configurations[idx]), " does not run on ", device,
                                "; remove it or change device"));
    }
  }
  check_models();
  check_shapes();
  check_sweep();
  check_loads();
}

void FileCheck::check_models() {
  check_tables("models", kModelRules);
  const Json& models = C::tables(value_, "models");
  for (size_t idx = 0; idx < models.size(); ++idx) check_model(models[idx], element("models", idx));
}

void FileCheck::check_model(const Json& model, const std::string& path) {
  check_range(model, path, "num_devices", 1, 1'024);
  check_range(model, path, "vocab_size", 1, 10'000'000);
  if (model.contains("accuracy") != model.contains("accuracy_task")) {
    checker_.report(path, "accuracy and accuracy_task belong together; give both or none");
  }
  std::vector<std::string> formats;
  for (const std::string& format : almanac_model_formats()) {
    if (model.contains(format)) formats.push_back(format);
  }
  if (formats.empty()) {
    checker_.report(path, "a model needs huggingface = \"ORG/REPO\" or gguf = \"FILE\"");
  }
  const std::vector<std::string> all = C::texts(value_, "configurations");
  const std::vector<std::string> chosen =
      model.contains("configurations") ? C::texts(model, "configurations") : all;
  const std::string weights = C::text(model, "weights");
  for (const std::string& name : chosen) {
    if (!contains(all, name)) {
      checker_.report(path + ".configurations", str(quote(name),
                                                    " is not among the campaign's"
                                                    " configurations; add it there"));
    }
    const std::optional<Json> engine = engine_behind(name);
    if (!engine) continue;
    const std::vector<std::string> read = C::texts(*engine, "model_formats");
    const bool is_read = std::any_of(formats.begin(), formats.end(),
                                     [&](const auto& format) { return contains(read, format); });
    if (!formats.empty() && !is_read) {
      checker_.report(path, str(quote(name), " reads ", list_text(read),
                                " only; add that or name"
                                " the model's own configurations"));
    }
    if (engine->value("ignore_eos", Json(true)) == false && !model.contains("eos_ids")) {
      checker_.report(path,
                      str(quote(name), " does not know ignore_eos; give the model's eos_ids"));
    }
    const Json& settings = C::table(*engine, "settings");
    for (const auto& [setting, is_needed] :
         {std::pair{"tensor_parallel_size", C::number(model, "num_devices", 1.0) > 1.0},
          std::pair{"dummy_weights", model.value("dummy_weights", Json(false)) == true}}) {
      if (!is_needed || settings.contains(setting)) continue;
      checker_.report(path, str(quote(name), " has no setting ", setting,
                                ", which this model needs; name the model's own configurations"));
    }
    if (!weights.empty() && !C::table(*engine, "weights").contains(weights)) {
      checker_.report(path + ".weights",
                      str(quote(name), " has no weights format ", quote(weights), "; it has ",
                          list_text(keys_of(C::table(*engine, "weights"))),
                          "; or name the model's own configurations"));
    }
  }
}

void FileCheck::check_shapes() {
  check_tables("shapes", kShapeRules);
  const Json& shapes = C::tables(value_, "shapes");
  for (size_t idx = 0; idx < shapes.size(); ++idx) {
    for (const char* key : {"tokens_in", "tokens_out"}) {
      check_range(shapes[idx], element("shapes", idx), key, 1, 10'000'000);
    }
    check_range(shapes[idx], element("shapes", idx), "prefix_share", 0, 1);
  }
}

void FileCheck::check_sweep() {
  if (!value_.contains("sweep")) {
    if (!value_.contains("loads")) {
      checker_.report("", "a campaign needs sweep or loads; add sweep = { rates = 10 }");
    }
    return;
  }
  const Json& sweep = C::table(value_, "sweep");
  checker_.check_table(sweep, "sweep", kSweepRules);
  check_range(sweep, "sweep", "rates", 0, 10);
  check_range(sweep, "sweep", "seconds", 1, 3'600);
  check_range(sweep, "sweep", "min_requests", 1, 1'000'000);
  check_range(sweep, "sweep", "max_requests", 1, 1'000'000);
  const std::string arrival = C::text(sweep, "arrival");
  if (!arrival.empty() && arrival != "constant" && arrival != "poisson") {
    checker_.report("sweep.arrival", str(quote(arrival), " is not one of constant, poisson"));
  }
  const CampaignSweep defaults;
  if (C::number(sweep, "min_requests", static_cast<double>(defaults.min_requests)) >
      C::number(sweep, "max_requests", static_cast<double>(defaults.max_requests))) {
    checker_.report("sweep", "min_requests is above max_requests; lower it");
  }
}

void FileCheck::check_loads() {
  check_tables("loads", kLoadRules);
  const Json& loads = C::tables(value_, "loads");
  for (size_t idx = 0; idx < loads.size(); ++idx) check_load(loads[idx], element("loads", idx));
}

void FileCheck::check_load(const Json& load, const std::string& path) {
  check_range(load, path, "requests", 1, 10'000'000);
  check_range(load, path, "concurrency", 1, 1'000'000);
  check_range(load, path, "request_rate", 1e-6, 1e6);
  const std::string arrival = C::text(load, "arrival");
  if (arrival.empty()) return;
  if (!contains(kArrivals, arrival)) {
    return checker_.report(path + ".arrival",
                           str(quote(arrival), " is not one of ", list_text(kArrivals)));
  }
  const bool has_rate = arrival == "constant" || arrival == "poisson";
  const std::pair<const char*, bool> keys[] = {{"request_rate", has_rate},
                                               {"concurrency", arrival == "closed"}};
  for (const auto& [key, is_needed] : keys) {
    if (load.contains(key) == is_needed) continue;
    checker_.report(is_needed ? path : path + "." + key,
                    is_needed ? str("arrival ", quote(arrival), " needs ", key, "; add it")
                              : str("arrival ", quote(arrival), " and ", key,
                                    " contradict each other; remove one"));
  }
  if (C::number(load, "requests", 1e9) < C::number(load, "concurrency", 0.0)) {
    checker_.report(path + ".requests", "fewer requests than concurrency; raise requests");
  }
}

}  // namespace slipstream

#include "bench/almanac_check.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <system_error>

#include "base/mmap_file.h"
#include "bench/almanac_config.h"

namespace slipstream {
namespace {

using enum ValueKind;
constexpr size_t kMaxNameBytes = 64;

constexpr std::array kEngineRules = {
    KeyRule{"kind", kText, true, "\"engine\""},
    KeyRule{"name", kText, true, "\"vllm\""},
    KeyRule{"source", kText, false, "\"https://github.com/vllm-project/vllm\""},
    KeyRule{"licence", kText, true, "\"Apache-2.0\""},
    KeyRule{"devices", kTexts, true, "[\"cuda\"]"},
    KeyRule{"model_formats", kTexts, true, "[\"huggingface\"]"},
    KeyRule{"version_command", kTexts, true, "[\"vllm\", \"--version\"]"},
    KeyRule{"command", kTexts, true, "[\"vllm\", \"serve\", \"{model}\", \"--port\", \"{port}\"]"},
    KeyRule{"health_route", kText, true, "\"/health\""},
    KeyRule{"completions_route", kText, true, "\"/v1/completions\""},
    KeyRule{"ready_timeout_s", kWhole, true, "900"},
    KeyRule{"prompts", kText, false, "\"ids\""},
    KeyRule{"ignore_eos", kFlag, false, "false"},
    KeyRule{"stop_timeout_s", kWhole, false, "30"},
    KeyRule{"image_bytes", kWhole, false, "21474836480"},
    KeyRule{"notes", kText, false, "\"what a reader must know\""},
    KeyRule{"environment", kTable, false, "{ NAME = \"value\" }"},
    KeyRule{"device_flags", kTable, false, "{ cuda = [\"--device\", \"cuda\"] }"},
    KeyRule{"settings", kTable, true,
            "{ seed = { flags = [\"--seed\", \"{value}\"], means = \"...\" } }"},
    KeyRule{"weights", kTable, true, "{ bf16 = { flags = [], means = \"as stored\" } }"},
    KeyRule{"kv", kTable, false, "{ bf16 = { flags = [], means = \"the default\" } }"},
};
constexpr std::array kFlagRules = {
    KeyRule{"flags", kTexts, true, "[\"--seed\", \"{value}\"]"},
    KeyRule{"means", kText, true, "\"what the engine does with it\""},
};
constexpr std::array kSettings = {
    AlmanacSetting{"max_model_len", true},
    AlmanacSetting{"max_num_seqs", true},
    AlmanacSetting{"max_num_batched_tokens", true},
    AlmanacSetting{"tensor_parallel_size", true},
    AlmanacSetting{"memory_fraction", true},
    AlmanacSetting{"threads", true},
    AlmanacSetting{"seed", true},
    AlmanacSetting{"prefix_caching", false},
    AlmanacSetting{"no_prefix_caching", false},
    AlmanacSetting{"dummy_weights", false},
};
// Names are file names: nothing that leads out of the folder.
bool is_name(const std::string& name) {
  const std::string letters = "abcdefghijklmnopqrstuvwxyz0123456789";
  return !name.empty() && name.size() <= kMaxNameBytes &&
         letters.find(name[0]) != std::string::npos &&
         name.find_first_not_of(letters + ".-_") == std::string::npos;
}

Result<TomlDocument> read_document(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxAlmanacFileBytes));
  return parse_toml_with_lines(text, path);
}

}  // namespace

const AlmanacSetting* find_setting(const std::string& name) {
  const auto* found = std::find_if(kSettings.begin(), kSettings.end(),
                                   [&](const AlmanacSetting& known) { return name == known.name; });
  return found == kSettings.end() ? nullptr : found;
}

const std::vector<std::string>& almanac_devices() {
  static const std::vector<std::string> devices = {"cpu", "cuda"};
  return devices;
}

const std::vector<std::string>& almanac_model_formats() {
  static const std::vector<std::string> formats = {"huggingface", "gguf"};
  return formats;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<std::string> keys_of(const Json& table) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : table.items()) keys.push_back(key);
  return keys;
}

std::string flag_name(const std::string& word) { return word.substr(0, word.find('=')); }
bool is_flag(const std::string& word) {
  return starts_with(word, "-") || word.find('=') != std::string::npos;
}

std::string almanac_folder(const std::string& folder, const std::string& kind) {
  return folder + "/" + kind + "s";
}

void FileCheck::run() {
  const std::string kind = C::text(value_, "kind");
  if (kind == "engine") {
    check_engine();
  } else if (kind == "configuration") {
    check_configuration();
  } else if (kind == "campaign") {
    check_campaign();
  } else {
    return checker_.report(
        "kind", "kind must be \"engine\", \"configuration\" or \"campaign\"; say which it is");
  }
  const std::string name = C::text(value_, "name");
  if (!name.empty() && !is_name(name)) {
    checker_.report("name", str("name ", quote(name),
                                " must be lower-case letters, digits, '.',"
                                " '-' and '_', at most ",
                                kMaxNameBytes));
  }
}

void FileCheck::check_choices(const std::string& key, const std::vector<std::string>& choices) {
  const std::vector<std::string> given = C::texts(value_, key);
  if (value_.contains(key) && value_[key] == Json::array()) {
    checker_.report(key, str(quote(key), " is empty; name some of ", list_text(choices)));
  }
  for (size_t idx = 0; idx < given.size(); ++idx) {
    if (contains(choices, given[idx])) continue;
    checker_.report(element(key, idx),
                    str(quote(given[idx]), " is not one of ", list_text(choices)));
  }
}

void FileCheck::check_range(const Json& table, const std::string& path, const std::string& key,
                            double min, double max) {
  const double number = C::number(table, key, min);
  if (number >= min && number <= max) return;
  checker_.report(path.empty() ? key : path + "." + key,
                  str(key, " must be from ", min, " to ", max));
}

void FileCheck::check_environment() {
  for (const auto& [key, value] : C::table(value_, "environment").items()) {
    if (!value.is_string()) {
      checker_.report("environment." + key, str("environment variable ", quote(key),
                                                " must be a text: put quotes around its value"));
    }
  }
}

void FileCheck::check_tables(const std::string& key, std::span<const KeyRule> rules) {
  const Json& tables = C::tables(value_, key);
  if (value_.contains(key) && value_[key] == Json::array()) {
    checker_.report(key, str(quote(key), " is empty; add one"));
  }
  std::set<std::string> seen;
  for (size_t idx = 0; idx < tables.size(); ++idx) {
    checker_.check_table(tables[idx], element(key, idx), rules);
    if (!seen.insert(dump_json(tables[idx])).second) {
      checker_.report(element(key, idx), str(element(key, idx), " is there twice; remove one"));
    }
  }
}

std::optional<Json> FileCheck::find(const std::string& kind, const std::string& name) const {
  if (!is_name(name)) return std::nullopt;
  const auto document = read_document(almanac_file_path(folder_, kind, name));
  if (!document.ok() || C::text(document->value, "kind") != kind) return std::nullopt;
  return document->value;
}

std::vector<std::string> FileCheck::names_of(const std::string& kind) const {
  std::vector<std::string> names;
  std::error_code code;
  for (const auto& entry :
       std::filesystem::directory_iterator(almanac_folder(folder_, kind), code)) {
    if (entry.path().extension() == ".toml") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<Json> FileCheck::engine_behind(const std::string& name) const {
  const std::optional<Json> configuration = find("configuration", name);
  return find("engine", configuration ? C::text(*configuration, "engine") : name);
}

void FileCheck::check_engine() {
  checker_.check_table(value_, "", kEngineRules);
  check_choices("devices", almanac_devices());
  check_choices("model_formats", almanac_model_formats());
  check_range(value_, "", "ready_timeout_s", 1, 86'400);
  check_range(value_, "", "stop_timeout_s", 1, 3'600);
  check_range(value_, "", "image_bytes", 1, 1e15);
  check_environment();
  const std::string prompts = C::text(value_, "prompts");
  if (!prompts.empty() && prompts != "ids" && prompts != "text") {
    checker_.report("prompts", str(quote(prompts), " is not one of ids, text"));
  }
  for (const char* key : {"health_route", "completions_route"}) {
    const std::string route = C::text(value_, key);
    if (!route.empty() && route[0] != '/') {
      checker_.report(key, str(key, " ", quote(route), " must begin with '/'"));
    }
  }
  for (const auto& [device, flags] : C::table(value_, "device_flags").items()) {
    if (!contains(C::texts(value_, "devices"), device)) {
      checker_.report("device_flags." + device, str("device_flags for ", quote(device),
                                                    ", which devices leaves out; add it"
                                                    " there or remove the flags"));
    } else if (!flags.is_array()) {
      checker_.report("device_flags." + device, "device_flags must be arrays of texts");
    }
  }
  check_command();
  for (const char* group : {"settings", "weights", "kv"}) check_flag_tables(group);
}

void FileCheck::check_command() {
  const std::vector<std::string> command = C::texts(value_, "command");
  if (value_.contains("version_command") && value_["version_command"] == Json::array()) {
    checker_.report("version_command", "version_command is empty; name a program");
  }
  if (!value_.contains("command") || !value_["command"].is_array()) return;
  std::string all;
  for (size_t idx = 0; idx < command.size(); ++idx) {
    all += command[idx] + " ";
    for (size_t open = command[idx].find('{'); open != std::string::npos;
         open = command[idx].find('{', open + 1)) {
      const size_t close = std::min(command[idx].find('}', open), command[idx].size() - 1);
      const std::string place = command[idx].substr(open, close - open + 1);
      if (place == "{model}" || place == "{host}" || place == "{port}") continue;
      checker_.report(element("command", idx), str(quote(place),
                                                   " is unknown; command may hold"
                                                   " {model}, {host} and {port}"));
    }
  }
  for (const char* place : {"{model}", "{port}"}) {
    if (all.find(place) != std::string::npos) continue;
    checker_.report("command", str("command lacks ", place, "; add it where the engine takes it"));
  }
}

void FileCheck::check_flag_tables(const std::string& group) {
  const std::vector<std::string> command = C::texts(value_, "command");
  const bool are_settings = group == "settings";
  for (const auto& [name, entry] : C::table(value_, group).items()) {
    const std::string path = group + "." + name;
    const AlmanacSetting* setting = find_setting(name);
    if (are_settings && setting == nullptr) {
      std::vector<std::string> known;
      for (const AlmanacSetting& one : kSettings) known.emplace_back(one.name);
      checker_.report(path,
                      str("unknown setting ", quote(name), "; use one of ", list_text(known)));
      continue;
    }
    if (!entry.is_object()) {
      checker_.report(path, str(quote(path), " must be a table with flags and means"));
      continue;
    }
    checker_.check_table(entry, path, kFlagRules);
    bool has_value = false;
    for (const std::string& word : C::texts(entry, "flags")) {
      has_value = has_value || word.find("{value}") != std::string::npos;
      if (is_flag(word) && std::any_of(command.begin(), command.end(), [&](const auto& given) {
            return flag_name(given) == flag_name(word);
          })) {
        checker_.report(path + ".flags", str(flag_name(word),
                                             " is in command as well and would be"
                                             " given twice; remove it from one"));
      }
    }
    const bool takes_value = are_settings && setting->takes_value;
    if (entry.contains("flags") && takes_value != has_value) {
      checker_.report(path + ".flags", takes_value ? str(quote(name),
                                                         " takes a value: its flags"
                                                         " must hold {value}")
                                                   : str(quote(name),
                                                         " takes no value: its flags"
                                                         " must not hold {value}"));
    }
  }
}

}  // namespace slipstream

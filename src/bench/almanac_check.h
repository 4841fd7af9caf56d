// FileCheck: the rules of the almanac's files. almanac_check.cc has what all kinds share and the
// rules of engines; almanac_check_campaign.cc those of configurations and campaigns.
//
// Only almanac_config.cc uses it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "base/strings.h"
#include "base/toml.h"
#include "bench/config_checker.h"

namespace slipstream {

constexpr uint64_t kMaxAlmanacFileBytes = 1u << 20;

// What a configuration may set; an engine says by which flags. Switches take no value.
struct AlmanacSetting {
  const char* name;
  bool takes_value;
};
const AlmanacSetting* find_setting(const std::string& name);  // null: there is none

// "cpu", "cuda"; "huggingface", "gguf".
const std::vector<std::string>& almanac_devices();
const std::vector<std::string>& almanac_model_formats();

bool contains(const std::vector<std::string>& names, const std::string& name);
std::vector<std::string> keys_of(const Json& table);
// Whether a word of a command names a flag, and which: "--port=1" and "tp_size={value}" name theirs
// before the sign.
bool is_flag(const std::string& word);
std::string flag_name(const std::string& word);
// Where `folder` keeps files of a kind.
std::string almanac_folder(const std::string& folder, const std::string& kind);

class FileCheck {
 public:
  FileCheck(const TomlDocument& document, const std::string& path, std::string folder)
      : checker_(document, path), value_(document.value), folder_(std::move(folder)) {}

  void run();
  std::vector<std::string> problems() const { return checker_.problems(); }

 private:
  using C = ConfigChecker;

  void check_engine();
  void check_command();
  void check_flag_tables(const std::string& group);
  void check_configuration();
  void check_settings(const Json& engine);
  void check_extra_flags(const Json& engine);
  void check_campaign();
  void check_models();
  void check_model(const Json& model, const std::string& path);
  void check_shapes();
  void check_loads();
  void check_sweep();
  void check_load(const Json& load, const std::string& path);
  void check_choices(const std::string& key, const std::vector<std::string>& choices);
  void check_range(const Json& table, const std::string& path, const std::string& key, double min,
                   double max);
  void check_environment();
  // Every element of an array of tables, and that none comes twice.
  void check_tables(const std::string& key, std::span<const KeyRule> rules);
  std::optional<Json> find(const std::string& kind, const std::string& name) const;
  std::vector<std::string> names_of(const std::string& kind) const;
  // The engine behind the name of an engine or of a configuration.
  std::optional<Json> engine_behind(const std::string& name) const;
  // Those of a configuration are a part of its engine's.
  std::vector<std::string> devices_of(const std::string& name, const Json& engine) const;
  static std::string element(const std::string& key, size_t idx) { return str(key, "[", idx, "]"); }

  ConfigChecker checker_;
  const Json& value_;
  std::string folder_;
};

}  // namespace slipstream

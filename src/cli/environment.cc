#include "cli/environment.h"

#include <cstdlib>

namespace slipstream {
namespace {

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): before any thread
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

}  // namespace

std::string home_folder() { return variable("HOME").value_or(""); }

std::string cache_home() {
  if (const auto home = variable("SLIPSTREAM_HOME")) return *home;
  const auto user_home = variable("HOME");
  return user_home ? *user_home + "/.cache/slipstream" : "";
}

std::string default_usage_db() {
  const std::string home = cache_home();
  return home.empty() ? "" : home + "/usage.db";
}

std::string default_almanac_store() {
  const std::string home = cache_home();
  return home.empty() ? "" : home + "/almanac.db";
}

std::optional<std::string> log_level_from_environment() { return variable("SLIPSTREAM_LOG"); }

}  // namespace slipstream

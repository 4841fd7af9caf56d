// Small text helpers: joining messages, quoting what came from outside, human-readable sizes.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace slipstream {

// str("layer ", 3, " has ", n, " rows"): every argument printed with operator<<.
template <typename... Args>
std::string str(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// 'text' in single quotes, control characters and invalid bytes escaped, cut after `max_bytes`:
// safe to print whatever a file contained.
std::string quote(std::string_view text, size_t max_bytes = 80);

// "1.5 GiB", "96.6 MiB", "512 B".
std::string human_bytes(uint64_t bytes);

std::vector<std::string> split(std::string_view text, char separator);
bool starts_with(std::string_view text, std::string_view prefix);
bool ends_with(std::string_view text, std::string_view suffix);

}  // namespace slipstream

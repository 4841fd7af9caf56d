#include "bench/campaign_method.h"

#include <algorithm>
#include <cmath>
#include <regex>

#include "base/sha256.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr double kMinGap = 0.05;  // of the larger extreme
constexpr double kMaxRequests = 1e9;
constexpr size_t kSeedDigits = 8;  // of 16: short enough to type

double three_digits(double value) {
  const double scale = std::pow(10.0, 2.0 - std::floor(std::log10(value)));
  return std::round(value * scale) / scale;
}

}  // namespace

int64_t requests_of_rate(double rate, const CampaignSweep& sweep) {
  const double expected = std::ceil(std::min(rate * sweep.seconds, kMaxRequests));
  return std::clamp(static_cast<int64_t>(expected), sweep.min_requests, sweep.max_requests);
}

std::vector<double> rates_between(double one_at_a_time, double all_at_once,
                                  const CampaignSweep& sweep) {
  const double low = std::min(one_at_a_time, all_at_once);
  const double high = std::max(one_at_a_time, all_at_once);
  std::vector<double> rates;
  if (!(low > 0.0)) return rates;
  const auto num_gaps = static_cast<int64_t>((high - low) / (kMinGap * high));
  const int64_t num_rates = std::min(sweep.num_rates, num_gaps - 1);
  for (int64_t idx = 1; idx <= num_rates; ++idx) {
    const double share = static_cast<double>(idx) / static_cast<double>(num_rates + 1);
    rates.push_back(three_digits(low + (high - low) * share));
  }
  return rates;
}

uint64_t point_seed(uint64_t campaign_seed, const std::string& model, const CampaignShape& shape,
                    const std::string& load, int64_t repeat) {
  const std::string text =
      str(campaign_seed, "\n", model, "\n", shape_text(shape), "\n", load, "\n", repeat);
  return std::stoull(to_hex(sha256(text)).substr(0, kSeedDigits), nullptr, 16);
}

VersionWords parse_version(const std::string& printed) {
  static const std::regex number(R"(\d+(\.\d+)+[\w.+-]*)");
  static const std::regex hash(R"([( ]([0-9a-f]{7,40}(-dirty)?)\))");
  VersionWords words;
  for (const std::string& line : split(printed, '\n')) {
    std::smatch found;
    if (words.version.empty()) words.version = line;
    if (!std::regex_search(line, found, number)) continue;
    words.version = found.str();
    if (std::regex_search(line, found, hash)) words.commit = found[1].str();
    break;
  }
  return words;
}

}  // namespace slipstream

#include "server/auth.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/mmap_file.h"
#include "base/sha256.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr uint64_t kMaxKeyFileBytes = 1 << 20;
constexpr size_t kMinKeyBytes = 1;
constexpr size_t kMaxKeyBytes = 512;
constexpr size_t kMaxLabelBytes = 64;
constexpr double kNsPerMinute = 60e9;

bool is_label(std::string_view text) {
  if (text.empty() || text.size() > kMaxLabelBytes) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

// The key a request presents, or nothing.
std::string_view presented_key(const HttpRequest& request) {
  const std::string_view authorization = request.header("authorization");
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() > kScheme.size()) {
    const bool is_bearer =
        std::equal(kScheme.begin(), kScheme.end(), authorization.begin(), [](char want, char have) {
          return want == (have >= 'A' && have <= 'Z' ? have + 32 : have);
        });
    if (is_bearer) return trim(authorization.substr(kScheme.size()));
  }
  return request.header("x-api-key");
}

}  // namespace

double TokenBucket::level(int64_t now_ns) {
  if (updated_ns_ != 0 && now_ns > updated_ns_) {
    const double minutes = static_cast<double>(now_ns - updated_ns_) / kNsPerMinute;
    level_ = std::min(per_minute_, level_ + minutes * per_minute_);
  }
  updated_ns_ = std::max(updated_ns_, now_ns);
  return level_;
}

int64_t TokenBucket::take(double amount, int64_t now_ns) {
  const double needed = std::min(amount, per_minute_);
  const double have = level(now_ns);
  if (have < needed) {
    return std::max<int64_t>(static_cast<int64_t>(std::ceil((needed - have) * 60.0 / per_minute_)),
                             1);
  }
  level_ -= amount;
  return 0;
}

void TokenBucket::charge(double amount, int64_t now_ns) { level_ = level(now_ns) - amount; }

Status KeyRing::add(std::string_view key, std::string label) {
  if (key.size() < kMinKeyBytes || key.size() > kMaxKeyBytes) {
    return bad_usage(str("an API key has ", kMinKeyBytes, " to ", kMaxKeyBytes, " characters, not ",
                         key.size()));
  }
  if (!std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c <= '~'; })) {
    return bad_usage("an API key consists of visible ASCII characters without spaces");
  }
  auto entry = std::make_unique<ApiKey>();
  entry->hash = sha256(key);
  entry->label = label.empty() ? "key-" + to_hex(entry->hash).substr(0, 8) : std::move(label);
  for (const auto& known : keys_) {
    if (known->hash == entry->hash) return bad_usage("an API key is given twice");
  }
  keys_.push_back(std::move(entry));
  return {};
}

Status KeyRing::add_file(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxKeyFileBytes));
  int64_t line_number = 0;
  const size_t num_before = keys_.size();
  for (const std::string& raw : split(text, '\n')) {
    ++line_number;
    const std::string_view line = trim(raw);
    if (line.empty() || line.front() == '#') continue;
    const size_t colon = line.find(':');
    std::string label;
    std::string_view key = line;
    if (colon != std::string_view::npos) {
      label = line.substr(0, colon);
      key = line.substr(colon + 1);
      if (!is_label(label)) {
        return bad_usage(str(path, ":", line_number, ": a label has 1 to ", kMaxLabelBytes,
                             " of A-Z a-z 0-9 . _ -"));
      }
    }
    SLIPSTREAM_RETURN_IF_ERROR(add(key, label).in(str(path, ":", line_number)));
  }
  if (keys_.size() == num_before) return bad_usage(str(path, ": holds no API key"));
  return {};
}

const ApiKey* KeyRing::find(const HttpRequest& request) const {
  const Sha256Digest hash = sha256(presented_key(request));
  const ApiKey* found = nullptr;
  for (const auto& key : keys_) {
    if (constant_time_equal(key->hash, hash)) found = key.get();
  }
  return found;
}

}  // namespace slipstream

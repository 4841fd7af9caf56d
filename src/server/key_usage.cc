#include "server/key_usage.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/strings.h"

namespace slipstream {
namespace {

void append_rate(HttpHeaders& headers, const std::string& what, double per_minute, double level) {
  if (per_minute <= 0.0) return;
  const double missing = std::max(per_minute - level, 0.0);
  const auto remaining = static_cast<int64_t>(std::max(std::floor(level), 0.0));
  const auto reset_s = static_cast<int64_t>(std::ceil(missing * 60.0 / per_minute));
  headers.emplace_back("x-ratelimit-limit-" + what,
                       std::to_string(static_cast<int64_t>(per_minute)));
  headers.emplace_back("x-ratelimit-remaining-" + what, std::to_string(remaining));
  headers.emplace_back("x-ratelimit-reset-" + what, str(reset_s, "s"));
}

}  // namespace

KeyUsage::Account& KeyUsage::account(const ApiKey* key) {
  return accounts_.try_emplace(key, limits_).first->second;
}

std::optional<ApiError> KeyUsage::admit(const ApiKey* key, int64_t now_ns) {
  Account& of_key = account(key);
  if (limits_.max_concurrent > 0 && of_key.num_running >= limits_.max_concurrent) {
    return rate_limited(str("this key already runs ", of_key.num_running,
                            " requests, as many as it may; wait for one to end"),
                        1);
  }
  // A request needs one token at least; what it really used is charged when it is known.
  if (limits_.tokens_per_minute > 0.0) {
    const double level = of_key.tokens.level(now_ns);
    if (level < 1.0) {
      const double wait_s = (1.0 - level) * 60.0 / limits_.tokens_per_minute;
      return rate_limited(str("this key has used its ", limits_.tokens_per_minute,
                              " tokens per minute; wait as Retry-After says"),
                          static_cast<int64_t>(std::ceil(wait_s)));
    }
  }
  if (limits_.requests_per_minute > 0.0) {
    const int64_t wait_s = of_key.requests.take(1.0, now_ns);
    if (wait_s > 0) {
      return rate_limited(str("this key has used its ", limits_.requests_per_minute,
                              " requests per minute; wait as Retry-After says"),
                          wait_s);
    }
  }
  ++of_key.num_running;
  return std::nullopt;
}

void KeyUsage::finish(const ApiKey* key) {
  Account& of_key = account(key);
  SLIPSTREAM_CHECK(of_key.num_running > 0, "a slot is given back once");
  --of_key.num_running;
}

void KeyUsage::charge_tokens(const ApiKey* key, int64_t num_tokens, int64_t now_ns) {
  if (limits_.tokens_per_minute <= 0.0) return;
  account(key).tokens.charge(static_cast<double>(num_tokens), now_ns);
}

void KeyUsage::append_headers(const ApiKey* key, int64_t now_ns, HttpHeaders& headers) {
  if (limits_.requests_per_minute <= 0.0 && limits_.tokens_per_minute <= 0.0) return;
  Account& of_key = account(key);
  append_rate(headers, "requests", limits_.requests_per_minute, of_key.requests.level(now_ns));
  append_rate(headers, "tokens", limits_.tokens_per_minute, of_key.tokens.level(now_ns));
}

int64_t KeyUsage::num_running(const ApiKey* key) const {
  const auto found = accounts_.find(key);
  return found == accounts_.end() ? 0 : found->second.num_running;
}

}  // namespace slipstream

// API keys and what each may use: who asks, how often, how much at once.
//
// Keys are kept as SHA-256 hashes and compared in constant time, all of them, without early exit.
// Network thread only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "server/http.h"

namespace slipstream {

struct RateLimits {
  double requests_per_minute = 0.0;  // 0: unlimited
  double tokens_per_minute = 0.0;    // input and output alike; 0: unlimited
  int64_t max_concurrent = 0;        // 0: unlimited
};

// A token bucket: holds at most a minute's worth, refills evenly.
class TokenBucket {
 public:
  explicit TokenBucket(double per_minute) : per_minute_(per_minute), level_(per_minute) {}
  // Takes `amount`, or gives how many whole seconds until it could. An amount beyond the capacity
  // is let through when the bucket is full.
  int64_t take(double amount, int64_t now_ns);
  // Takes without asking: what was used turned out to be more than was asked. May go below zero.
  void charge(double amount, int64_t now_ns);
  double level(int64_t now_ns);

 private:
  double per_minute_;
  double level_;
  int64_t updated_ns_ = 0;
};

struct ApiKey {
  std::string label;  // for logs, metrics and the ledger: "key-1a2b3c4d", or the name in the file
  std::array<uint8_t, 32> hash{};
};

// The keys of --api-key and --api-key-file: one a line, `KEY` or `LABEL:KEY`, # comments.
class KeyRing {
 public:
  Status add(std::string_view key, std::string label = "");
  Status add_file(const std::string& path);
  bool empty() const { return keys_.empty(); }
  // `Authorization: Bearer KEY` or `x-api-key: KEY`. Null: none matches.
  const ApiKey* find(const HttpRequest& request) const;

 private:
  std::vector<std::unique_ptr<ApiKey>> keys_;
};

}  // namespace slipstream

// KeyUsage: what each key has used of its rates and how many requests it runs at once.
//
// Requests without a key share one account. Network thread only.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "server/auth.h"
#include "server/errors.h"
#include "server/http.h"

namespace slipstream {

class KeyUsage {
 public:
  explicit KeyUsage(RateLimits limits) : limits_(limits) {}

  // Takes one request and one slot of `key`, or says why not (429 with Retry-After).
  std::optional<ApiError> admit(const ApiKey* key, int64_t now_ns);
  // Gives the slot of an admitted request back; the HTTP server does, once per request.
  void finish(const ApiKey* key);
  // Input and output tokens of a call, when they are known. May overdraw: the next request waits.
  void charge_tokens(const ApiKey* key, int64_t num_tokens, int64_t now_ns);
  // x-ratelimit-{limit,remaining,reset}-{requests,tokens} of the rates that are limited.
  void append_headers(const ApiKey* key, int64_t now_ns, HttpHeaders& headers);
  int64_t num_running(const ApiKey* key) const;

 private:
  struct Account {
    explicit Account(const RateLimits& limits)
        : requests(limits.requests_per_minute), tokens(limits.tokens_per_minute) {}
    TokenBucket requests;
    TokenBucket tokens;
    int64_t num_running = 0;
  };
  Account& account(const ApiKey* key);

  const RateLimits limits_;
  std::map<const ApiKey*, Account> accounts_;
};

}  // namespace slipstream

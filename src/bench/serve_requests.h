// The bodies of a load's requests: prompts as completions or chat, turn by turn.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "bench/load_client.h"
#include "bench/load_prompts.h"

namespace slipstream {

struct RequestShape {
  std::string model;
  bool is_chat = false;
  double temperature = 0.0;
  bool ignore_eos = true;
  bool per_chunk_usage = false;
  Json extra_body = Json::object();
};

class ServeRequests {
 public:
  // `times_ns` says when each prompt is sent; `seed` is that of the first request's sampling.
  ServeRequests(RequestShape shape, std::vector<LoadPrompt> prompts,
                const std::vector<int64_t>& times_ns, uint64_t seed);

  const std::vector<LoadSession>& sessions() const { return sessions_; }
  // Of the turn after so many answers. From any thread.
  std::string next_body(size_t session_idx, const std::vector<std::string>& answers) const;

 private:
  Json base_body(size_t session_idx) const;

  RequestShape shape_;
  std::vector<LoadPrompt> prompts_;
  std::vector<uint64_t> seeds_;
  std::vector<LoadSession> sessions_;
};

}  // namespace slipstream

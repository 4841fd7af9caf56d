#include "bench/serve_requests.h"

#include <algorithm>
#include <utility>

#include "base/random.h"

namespace slipstream {

ServeRequests::ServeRequests(RequestShape shape, std::vector<LoadPrompt> prompts,
                             const std::vector<int64_t>& times_ns, uint64_t seed)
    : shape_(std::move(shape)), prompts_(std::move(prompts)) {
  SplitMix64 random(seed);
  for (size_t i = 0; i < prompts_.size(); ++i) seeds_.push_back(random.next() >> 11);
  for (size_t i = 0; i < prompts_.size(); ++i) {
    const int num_turns = std::max(1, static_cast<int>(prompts_[i].turns.size()));
    sessions_.push_back({times_ns[i], next_body(i, {}), num_turns});
  }
}

Json ServeRequests::base_body(size_t session_idx) const {
  Json usage{{"include_usage", true}};
  if (shape_.per_chunk_usage) usage["continuous_usage_stats"] = true;
  Json body{{"model", shape_.model},
            {"max_tokens", prompts_[session_idx].output_len},
            {"temperature", shape_.temperature},
            {"seed", static_cast<int64_t>(seeds_[session_idx])},
            {"stream", true},
            {"stream_options", usage}};
  if (shape_.ignore_eos) body["ignore_eos"] = true;
  return body;
}

std::string ServeRequests::next_body(size_t session_idx,
                                     const std::vector<std::string>& answers) const {
  const LoadPrompt& prompt = prompts_[session_idx];
  Json body = base_body(session_idx);
  if (shape_.is_chat) {
    Json messages = Json::array();
    for (size_t turn = 0; turn <= answers.size(); ++turn) {
      messages.push_back(Json{{"role", "user"}, {"content", prompt.turns[turn]}});
      if (turn == answers.size()) break;
      messages.push_back(Json{{"role", "assistant"}, {"content", answers[turn]}});
    }
    body["messages"] = std::move(messages);
  } else if (!prompt.ids.empty()) {
    body["prompt"] = prompt.ids;
  } else {
    std::string text;
    for (size_t turn = 0; turn <= answers.size(); ++turn) {
      text += prompt.turns[turn];
      if (turn < answers.size()) text += answers[turn] + "\n";
    }
    body["prompt"] = std::move(text);
  }
  body.update(shape_.extra_body);
  return dump_json(body);
}

}  // namespace slipstream

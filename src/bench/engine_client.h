// EngineClient: an engine and the queue of its events, for programs that run one thing at a time.
//
// Owns the queue between the engine's thread and the caller's. Does not render templates and does
// not tokenise. One thread calls generate() and wait(); wake() may be called from any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/status.h"
#include "slipstream/engine.h"

namespace slipstream {

// One finished request, with the times of its tokens.
struct Generation {
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;         // parallel to token_ids when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  // [num_prompt_tokens - 1]
  FinishReason finish = FinishReason::kNone;
  std::string error;
  uint64_t seed = 0;
  int64_t num_prompt_tokens = 0;
  int64_t submitted_ns = 0;
  std::vector<int64_t> token_times_ns;  // parallel to token_ids

  double ttft_ms() const;
  // num_prompt_tokens / TTFT; 0 without tokens.
  double prefill_tok_s() const;
  // (tokens - 1) / (t_last - t_first); 0 with fewer than two tokens.
  double decode_tok_s() const;
};

struct GenerateHooks {
  std::function<void(const TokenEvent&)> on_event;  // may be null
  std::function<bool()> should_cancel;              // may be null; asked when woken
};

class EngineClient {
 public:
  static Result<std::unique_ptr<EngineClient>> open(const EngineOptions& options);

  Engine& engine() { return *engine_; }
  const ModelInfo& model() const { return engine_->model(); }
  double load_s() const { return load_s_; }

  // Runs one request to its end. The engine's refusal is the error; a request that fails while it
  // runs is one too.
  Result<Generation> generate(const Request& request, const GenerateHooks& hooks = {});

  // Events that arrived since the last call; waits for some, at most `timeout_ms`.
  std::vector<TokenEvent> wait(int64_t timeout_ms);
  // Makes a waiting thread look around.
  void wake();

 private:
  EngineClient() = default;

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<TokenEvent> events_;
  bool woken_ = false;
  double load_s_ = 0.0;
  std::unique_ptr<Engine> engine_;  // last: its thread stops before the queue goes
};

// Adds one event to the generation it belongs to.
void append_event(const TokenEvent& event, Generation& generation);

// Tokens per second at which decode would run if every weight byte and `num_positions` positions
// of KV were read once per token at `read_gb_s`.
double roof_tok_s(const ModelInfo& model, double num_positions, double read_gb_s);

}  // namespace slipstream

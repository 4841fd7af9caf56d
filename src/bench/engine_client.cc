#include "bench/engine_client.h"

#include <utility>

#include "base/clock.h"

namespace slipstream {
namespace {

constexpr int64_t kLookAroundMs = 50;

}  // namespace

double roof_tok_s(const ModelInfo& model, double num_positions, double read_gb_s) {
  const double bytes = static_cast<double>(model.bytes_per_token) +
                       static_cast<double>(model.kv_bytes_per_token) * num_positions;
  return bytes > 0.0 ? read_gb_s * 1e9 / bytes : 0.0;
}

double Generation::ttft_ms() const {
  return token_times_ns.empty() ? 0.0
                                : static_cast<double>(token_times_ns.front() - submitted_ns) / 1e6;
}

double Generation::prefill_tok_s() const {
  const double ms = ttft_ms();
  return ms > 0.0 ? static_cast<double>(num_prompt_tokens) * 1e3 / ms : 0.0;
}

double Generation::decode_tok_s() const {
  if (token_times_ns.size() < 2) return 0.0;
  const int64_t span_ns = token_times_ns.back() - token_times_ns.front();
  return span_ns > 0
             ? static_cast<double>(token_times_ns.size() - 1) * 1e9 / static_cast<double>(span_ns)
             : 0.0;
}

void append_event(const TokenEvent& event, Generation& generation) {
  if (event.first) {
    generation.seed = event.seed;
    generation.prompt_logprobs = event.prompt_logprobs;
  }
  if (event.token_id >= 0) {
    generation.token_ids.push_back(event.token_id);
    generation.token_times_ns.push_back(event.time_ns);
    if (event.has_logprobs) generation.logprobs.push_back(event.logprobs);
  }
  generation.text += event.text;
  if (event.finish != FinishReason::kNone) {
    generation.finish = event.finish;
    generation.error = event.error;
  }
}

Result<std::unique_ptr<EngineClient>> EngineClient::open(const EngineOptions& options) {
  std::unique_ptr<EngineClient> client(new EngineClient());
  const int64_t started_ns = steady_now_ns();
  Result<std::unique_ptr<Engine>> engine =
      Engine::open(options, [raw = client.get()](std::span<const TokenEvent> events) {
        const std::lock_guard lock(raw->mutex_);
        raw->events_.insert(raw->events_.end(), events.begin(), events.end());
        raw->arrived_.notify_one();
      });
  if (!engine.ok()) return engine.status();
  client->engine_ = std::move(engine).value();
  client->load_s_ = static_cast<double>(steady_now_ns() - started_ns) / 1e9;
  return client;
}

std::vector<TokenEvent> EngineClient::wait(int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  arrived_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                    [this] { return woken_ || !events_.empty(); });
  woken_ = false;
  return std::exchange(events_, {});
}

void EngineClient::wake() {
  const std::lock_guard lock(mutex_);
  woken_ = true;
  arrived_.notify_one();
}

Result<Generation> EngineClient::generate(const Request& request, const GenerateHooks& hooks) {
  Generation generation;
  generation.num_prompt_tokens = static_cast<int64_t>(request.prompt_token_ids.size());
  generation.submitted_ns = steady_now_ns();
  SLIPSTREAM_ASSIGN_OR_RETURN(const RequestId id, engine_->submit(request));
  bool cancelled = false;
  while (generation.finish == FinishReason::kNone) {
    for (const TokenEvent& event : wait(kLookAroundMs)) {
      if (event.request != id) continue;
      append_event(event, generation);
      if (hooks.on_event) hooks.on_event(event);
    }
    if (!cancelled && hooks.should_cancel && hooks.should_cancel()) {
      engine_->cancel(id);
      cancelled = true;
    }
  }
  if (generation.finish == FinishReason::kError) {
    return failed("the request failed: " + generation.error);
  }
  return generation;
}

}  // namespace slipstream

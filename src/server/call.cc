#include "server/call.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/strings.h"
#include "server/access_log.h"
#include "server/auth.h"
#include "server/json_writer.h"
#include "server/key_usage.h"
#include "server/ledger.h"
#include "server/server_context.h"
#include "server/server_metrics.h"
#include "server/sse.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr double kNsPerS = 1e9;

double seconds_between(int64_t from_ns, int64_t to_ns) {
  return static_cast<double>(to_ns - from_ns) / kNsPerS;
}

int64_t unix_now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Tokens per second of what followed the first token.
double decode_rate(const Choice& choice) {
  if (choice.num_tokens < 2 || choice.last_token_ns <= choice.first_token_ns) return 0.0;
  return static_cast<double>(choice.num_tokens - 1) /
         seconds_between(choice.first_token_ns, choice.last_token_ns);
}

class Call final : public EventListener, public std::enable_shared_from_this<Call> {
 public:
  Call(ServerContext& context, const HttpRequest& http, CallSpec spec,
       std::unique_ptr<AnswerFormat> format, std::shared_ptr<ResponseWriter> writer);

  void start();
  void on_events(std::span<TokenEvent* const> events) override;

 private:
  bool submit_choices();
  Request request_for(const Choice& choice) const;
  std::string cache_salt() const;
  Choice* find(RequestId id);
  void take(Choice& choice, TokenEvent& event);
  void stream(Choice& choice, bool first);
  void flush();
  void answer(std::span<TokenEvent* const> events);
  void finish();
  void fail(const ApiError& error, FinishReason reason);
  void closed(CloseReason reason);
  void arm_ping();
  void ping();
  void cancel_open();
  void account(FinishReason reason);
  void record(FinishReason reason);
  HttpHeaders headers() const;

  ServerContext& context_;
  CallState state_;
  std::unique_ptr<AnswerFormat> format_;
  std::shared_ptr<ResponseWriter> writer_;
  const ApiKey* key_;
  size_t num_open_ = 0;  // choices without a finish reason
  bool done_ = false;    // answered, failed or abandoned: what comes later is ignored
  bool begun_ = false;   // the stream's head was sent
  bool wrote_since_ping_ = false;
  uint64_t ping_timer_ = 0;
  std::vector<std::pair<size_t, int32_t>> unshown_;  // per choice: bytes shown, tokens held
  std::string out_;                                  // of this step, kept for its capacity
};

Call::Call(ServerContext& context, const HttpRequest& http, CallSpec spec,
           std::unique_ptr<AnswerFormat> format, std::shared_ptr<ResponseWriter> writer)
    : context_(context), format_(std::move(format)), writer_(std::move(writer)), key_(http.key) {
  Engine& engine = context_.bridge->engine();
  state_.spec = std::move(spec);
  state_.arrival_ns = http.arrival_ns;
  state_.request_id = http.request_id;
  state_.model = &engine.model();
  state_.tokenizer = engine.tokenizer().get();
  state_.read_gb_s = context_.read_gb_s;
  state_.system_fingerprint = context_.system_fingerprint;
  const size_t num_choices = state_.spec.prompts.size() * static_cast<size_t>(state_.spec.n);
  state_.choices.resize(num_choices);
  unshown_.resize(num_choices);
  for (size_t idx = 0; idx < num_choices; ++idx) {
    state_.choices[idx].idx = static_cast<int32_t>(idx);
    state_.choices[idx].prompt_idx = static_cast<int32_t>(idx) / state_.spec.n;
  }
  for (const std::vector<int32_t>& prompt : state_.spec.prompts) {
    state_.usage.prompt_tokens += std::ssize(prompt);
  }
}

void Call::start() {
  if (writer_->closed()) return;  // left while the prompt was made
  try {
    if (!submit_choices()) return;
  } catch (const std::bad_alloc&) {
    done_ = true;
    cancel_open();
    throw;
  }
  writer_->on_close([weak = weak_from_this()](CloseReason reason) {
    if (const auto self = weak.lock()) self->closed(reason);
  });
  if (state_.spec.stream) arm_ping();
}

Request Call::request_for(const Choice& choice) const {
  const CallSpec& spec = state_.spec;
  Request request;
  request.prompt_token_ids = spec.prompts[static_cast<size_t>(choice.prompt_idx)];
  request.sampling = spec.sampling;
  request.sampling.choice_idx = static_cast<uint32_t>(choice.idx % spec.n);
  request.priority = spec.priority;
  // A default length gives way to a long prompt; one that was asked for has been checked to fit.
  if (request.sampling.max_tokens && !spec.asks_max_tokens) {
    const int64_t room = state_.model->max_model_len - std::ssize(request.prompt_token_ids);
    request.sampling.max_tokens = std::min(*request.sampling.max_tokens, room);
  }
  request.cache_salt = cache_salt();
  const int64_t longest_ms = context_.limits.max_request_ms;
  const int64_t deadline_ms =
      spec.deadline_ms > 0 ? std::min(spec.deadline_ms, longest_ms) : longest_ms;
  request.deadline_ns = state_.arrival_ns + deadline_ms * kNsPerMs;
  return request;
}

// Without a salt, the time to the first token tells one key what another has asked.
std::string Call::cache_salt() const {
  if (key_ == nullptr || context_.share_prefix_cache) return state_.spec.cache_salt;
  const std::string secret(context_.salt_secret.begin(), context_.salt_secret.end());
  const std::string id(key_->hash.begin(), key_->hash.end());
  return to_hex(hmac_sha256(secret, id)) + state_.spec.cache_salt;
}

bool Call::submit_choices() {
  for (Choice& choice : state_.choices) {
    const Result<RequestId> id = context_.bridge->submit(request_for(choice), shared_from_this());
    if (id.ok()) {
      choice.request = id.value();
      ++num_open_;
      continue;
    }
    done_ = true;
    cancel_open();
    const std::string& message = id.status().message();
    if (id.status().code() != StatusCode::kBadUsage) {
      writer_->send(format_->error_response(state_, rate_limited(message, 1)));
      return false;
    }
    // The engine's messages open with the parameter's name.
    const std::string first_word = message.substr(0, message.find(' '));
    const bool names_param = first_word.find('_') != std::string::npos;
    writer_->send(
        format_->error_response(state_, invalid_request(message, names_param ? first_word : "")));
    return false;
  }
  return true;
}

// Ids grow with the choices.
Choice* Call::find(RequestId id) {
  const auto found = std::lower_bound(
      state_.choices.begin(), state_.choices.end(), id,
      [](const Choice& choice, RequestId wanted) { return choice.request < wanted; });
  return found != state_.choices.end() && found->request == id ? &*found : nullptr;
}

void Call::on_events(std::span<TokenEvent* const> events) {
  if (done_) return;
  try {
    answer(events);
  } catch (const std::bad_alloc&) {
    // An answer that would lack something is none.
    out_.clear();
    if (!done_) fail(server_error("the request failed: memory ran out"), FinishReason::kError);
  }
}

void Call::answer(std::span<TokenEvent* const> events) {
  for (TokenEvent* event : events) {
    Choice* choice = find(event->request);
    if (choice == nullptr || choice->finish != FinishReason::kNone) continue;
    take(*choice, *event);
    switch (event->finish) {
      case FinishReason::kError:
        return fail(server_error(str("the request failed: ", event->error)), event->finish);
      case FinishReason::kDeadline:
        return fail(deadline_exceeded("the request did not finish before its deadline"),
                    event->finish);
      case FinishReason::kAbort:
        return fail(service_unavailable("the server is shutting down", 1), event->finish);
      case FinishReason::kNone:
      case FinishReason::kStop:
      case FinishReason::kLength:
        break;
    }
    if (state_.spec.stream) stream(*choice, event->first);
  }
  if (num_open_ == 0) return finish();
  flush();
}

void Call::take(Choice& choice, TokenEvent& event) {
  if (event.first) {
    choice.seed = event.seed;
    choice.num_cached_tokens = event.num_cached_tokens;
    choice.scheduled_ns = event.scheduled_ns;
    choice.prompt_logprobs = std::move(event.prompt_logprobs);
    if (choice.idx % state_.spec.n == 0) state_.usage.cached_tokens += event.num_cached_tokens;
  }
  if (event.token_id >= 0) {
    if (choice.num_tokens == 0) {
      choice.first_token_ns = event.time_ns;
      context_.metrics->observe_first_token(seconds_between(state_.arrival_ns, event.time_ns));
    } else {
      context_.metrics->observe_inter_token(seconds_between(choice.last_token_ns, event.time_ns));
    }
    choice.last_token_ns = event.time_ns;
    ++choice.num_tokens;
    if (event.of_run) ++choice.num_run_tokens;
    ++state_.usage.completion_tokens;
    choice.token_ids.push_back(event.token_id);
    if (event.has_logprobs) choice.logprobs.push_back(std::move(event.logprobs));
  }
  choice.text += event.text;
  if (event.finish != FinishReason::kNone) {
    choice.finish = event.finish;
    choice.stop_idx = event.stop_idx;
    --num_open_;
  }
}

void Call::stream(Choice& choice, bool first) {
  auto& [shown, held] = unshown_[static_cast<size_t>(choice.idx)];
  ++held;
  if (!first && choice.finish == FinishReason::kNone && held < state_.spec.stream_interval) return;
  ChoiceDelta delta;
  delta.text = std::string_view(choice.text).substr(shown);
  delta.first = first;
  delta.finish = choice.finish;
  format_->append_delta(state_, choice, delta, out_);
  shown = choice.text.size();
  held = 0;
  choice.token_ids.clear();
  choice.logprobs.clear();
}

void Call::flush() {
  if (out_.empty()) return;
  wrote_since_ping_ = true;
  if (begun_) {
    writer_->write(out_);
  } else {
    begun_ = true;
    HttpResponse head = sse_head();
    for (auto& header : headers()) head.headers.push_back(std::move(header));
    head.body = std::move(out_);
    writer_->begin_stream(std::move(head));
  }
  out_.clear();
}

HttpHeaders Call::headers() const {
  HttpHeaders headers;
  // A request without a seed drew one; a call of one choice can be repeated with it.
  if (state_.choices.size() == 1 && state_.choices[0].num_tokens > 0) {
    headers.emplace_back("x-slipstream-seed", std::to_string(state_.choices[0].seed));
  }
  format_->append_headers(state_, headers);
  return headers;
}

void Call::finish() {
  done_ = true;
  account(state_.choices.front().finish);
  if (!state_.spec.stream) {
    HttpResponse response;
    response.headers = headers();
    response.body = format_->body(state_);
    writer_->send(std::move(response));
    return;
  }
  format_->append_end(state_, out_);
  flush();
  writer_->end();
}

void Call::fail(const ApiError& error, FinishReason reason) {
  done_ = true;
  cancel_open();
  account(reason);
  if (!begun_) {
    writer_->send(format_->error_response(state_, error));
    return;
  }
  format_->append_error(state_, error, out_);
  flush();
  writer_->end();
}

void Call::closed(CloseReason reason) {
  if (done_) return;
  if (reason == CloseReason::kShutdown) {
    return fail(service_unavailable("the server is shutting down", 1), FinishReason::kAbort);
  }
  done_ = true;
  cancel_open();
  account(FinishReason::kAbort);
}

void Call::cancel_open() {
  if (ping_timer_ != 0) context_.loop->cancel_timer(std::exchange(ping_timer_, 0));
  for (const Choice& choice : state_.choices) {
    if (choice.request != 0 && choice.finish == FinishReason::kNone) {
      context_.bridge->cancel(choice.request);
    }
  }
}

void Call::arm_ping() {
  ping_timer_ =
      context_.loop->after_ms(context_.limits.ping_interval_ms, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->ping();
      });
}

void Call::ping() {
  ping_timer_ = 0;
  if (done_) return;
  if (!std::exchange(wrote_since_ping_, false)) {
    format_->append_ping(out_);
    flush();
    wrote_since_ping_ = false;
  }
  arm_ping();
}

// Everything that is counted about a call, once, before its last bytes go out.
void Call::account(FinishReason reason) {
  if (ping_timer_ != 0) context_.loop->cancel_timer(std::exchange(ping_timer_, 0));
  const CallSpec& spec = state_.spec;
  for (const Choice& choice : state_.choices) {
    ChoiceObservation seen;
    seen.finish = choice.finish != FinishReason::kNone ? choice.finish : reason;
    seen.prompt_tokens = std::ssize(spec.prompts[static_cast<size_t>(choice.prompt_idx)]);
    seen.cached_tokens = choice.num_cached_tokens;
    seen.generated_tokens = choice.num_tokens;
    seen.max_tokens = spec.sampling.max_tokens.value_or(0);
    seen.n = spec.n;
    seen.arrival_ns = state_.arrival_ns;
    seen.scheduled_ns = choice.scheduled_ns;
    seen.first_token_ns = choice.first_token_ns;
    seen.last_token_ns = choice.last_token_ns;
    context_.metrics->observe_finished(seen);
  }
  const Usage& usage = state_.usage;
  if (context_.key_usage != nullptr) {
    context_.key_usage->charge_tokens(key_, usage.prompt_tokens + usage.completion_tokens,
                                      steady_now_ns());
  }
  const Choice& first = state_.choices.front();
  CallRecord line;
  line.model = context_.model_id;
  line.input_tokens = usage.prompt_tokens;
  line.cached_tokens = usage.cached_tokens;
  line.output_tokens = usage.completion_tokens;
  if (first.first_token_ns > 0) {
    line.ttft_ms = seconds_between(state_.arrival_ns, first.first_token_ns) * 1e3;
  }
  line.decode_tok_s = decode_rate(first);
  line.finish = finish_reason_name(reason);
  line.user = spec.user;
  writer_->note(line);
  record(reason);
}

void Call::record(FinishReason reason) {
  if (context_.ledger == nullptr) return;
  LedgerEntry entry;
  entry.finished_unix_ms = unix_now_ms();
  entry.request_id = state_.request_id;
  entry.key_label = key_ != nullptr ? key_->label : "";
  entry.route = state_.spec.route;
  entry.model = context_.model_id;
  entry.input_tokens = state_.usage.prompt_tokens;
  entry.cached_tokens = state_.usage.cached_tokens;
  entry.output_tokens = state_.usage.completion_tokens;
  entry.finish = finish_reason_name(reason);
  const Status recorded = context_.ledger->record({&entry, 1});
  if (recorded.ok()) return;
  // An answer is worth more than its row: the server goes on and says so.
  context_.metrics->count_ledger_failure();
  log_error("ledger", recorded.message());
}

}  // namespace

void AnswerFormat::append_ping(std::string& out) const { out += kSsePing; }

void AnswerFormat::append_error(const CallState&, const ApiError& error, std::string& out) {
  out += error_event(error);
}

HttpResponse AnswerFormat::error_response(const CallState&, const ApiError& error) const {
  return slipstream::error_response(error);
}

void AnswerFormat::append_headers(const CallState&, HttpHeaders&) const {}

void start_call(ServerContext& context, const HttpRequest& http, CallSpec spec,
                std::unique_ptr<AnswerFormat> format, std::shared_ptr<ResponseWriter> writer) {
  std::make_shared<Call>(context, http, std::move(spec), std::move(format), std::move(writer))
      ->start();
}

std::string usage_json(const Usage& usage) {
  std::string out;
  JsonWriter json(out);
  json.begin_object()
      .field("prompt_tokens", usage.prompt_tokens)
      .field("completion_tokens", usage.completion_tokens)
      .field("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  json.key("prompt_tokens_details").begin_object();
  json.field("cached_tokens", usage.cached_tokens).end_object();
  json.key("completion_tokens_details").begin_object();
  json.field("reasoning_tokens", int64_t{0}).end_object().end_object();
  return out;
}

std::string timings_json(const CallState& call, const Choice& choice) {
  const auto num_prompt = std::ssize(call.spec.prompts[static_cast<size_t>(choice.prompt_idx)]);
  const int64_t computed = num_prompt - choice.num_cached_tokens;
  const int64_t prefill_from = choice.scheduled_ns > 0 ? choice.scheduled_ns : call.arrival_ns;
  const double prompt_s =
      choice.first_token_ns > 0 ? seconds_between(prefill_from, choice.first_token_ns) : 0.0;
  const double rate = decode_rate(choice);
  const double roof = call.model->bytes_per_token > 0
                          ? call.read_gb_s * 1e9 / static_cast<double>(call.model->bytes_per_token)
                          : 0.0;
  std::string out;
  JsonWriter json(out);
  json.begin_object().field("cache_n", choice.num_cached_tokens).field("prompt_n", computed);
  json.key("prompt_ms").number(prompt_s * 1e3);
  json.key("prompt_per_second")
      .number(prompt_s > 0.0 ? static_cast<double>(computed) / prompt_s : 0.0);
  json.field("predicted_n", choice.num_tokens);
  json.key("predicted_ms")
      .number(seconds_between(choice.first_token_ns, choice.last_token_ns) * 1e3);
  json.key("predicted_per_second").number(rate);
  json.key("ttft_ms").number(choice.first_token_ns > 0
                                 ? seconds_between(call.arrival_ns, choice.first_token_ns) * 1e3
                                 : 0.0);
  json.key("roof_tok_s").number(roof);
  json.key("roof_fraction").number(roof > 0.0 ? rate / roof : 0.0);
  const bool by_runs = 2 * choice.num_run_tokens > choice.num_tokens;
  json.field("executor", by_runs ? call.model->latency_executor : call.model->executor)
      .end_object();
  return out;
}

}  // namespace slipstream

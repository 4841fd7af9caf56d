#include "bench/soak.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "base/clock.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr int64_t kBlockTokens = 16;
constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kLongestByDefault = 1024;
// A round ends after so many requests, which bounds what is kept of answers, or so long, so that a
// slow engine's first answers are not compared last.
constexpr int64_t kRoundRequests = 384;
constexpr int64_t kRoundNs = 30 * kSecondNs;
constexpr int64_t kLookAroundUs = 20'000;
// Without a rate requests arrive so many times as fast as the engine has finished them so far.
constexpr double kOverload = 3.0;
constexpr int64_t kPaceRequests = 16;
constexpr double kFirstGapS = 0.005;
// Shorter loads need not meet everything.
constexpr double kWholeLoadS = 5.0;
constexpr int64_t kWholeLoadRequests = 200;

double seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

bool is_idle(const EngineStats& stats) {
  return stats.num_running == 0 && stats.num_waiting == 0 && stats.step_started_ns == 0;
}

}  // namespace

Json report_json(const SoakReport& r) {
  const auto compared = static_cast<double>(std::max<int64_t>(1, r.num_compared_tokens));
  return Json{{"passed", r.passed()},
              {"seed", r.seed},
              {"requests", r.num_requests},
              {"tokens", r.num_tokens},
              {"prompt_tokens", r.num_prompt_tokens},
              {"cancels", r.num_cancelled},
              {"deadlines", r.num_expired},
              {"preemptions", r.num_preemptions},
              {"prefix_hit_tokens", r.num_prefix_hit_tokens},
              {"compared", r.num_compared},
              {"compared_tokens", r.num_compared_tokens},
              {"same_token_share", static_cast<double>(r.num_same_tokens) / compared},
              {"exact", r.exact},
              {"mismatches", r.num_mismatches},
              {"lost", r.num_lost},
              {"faults", r.num_faults},
              {"leaked_blocks", r.leaked_blocks},
              {"not_exercised", r.not_exercised},
              {"interrupted", r.interrupted},
              {"duration_s", r.load_s},
              {"alone_s", r.alone_s}};
}

Result<EngineOptions> soak_engine_options(const EngineOptions& options) {
  EngineOptions chosen = options;
  if (options.kv_cache_bytes > 0 && options.max_model_len > 0) return chosen;
  // An engine that computes nothing knows the model's shape.
  EngineOptions probe = options;
  probe.executor = "fake";
  probe.max_num_seqs = 1;
  probe.skip_tokenizer_init = true;
  probe.on_progress = nullptr;
  int64_t kv_bytes_per_token = 0;
  {
    SLIPSTREAM_ASSIGN_OR_RETURN(const auto engine,
                                Engine::open(probe, [](std::span<const TokenEvent>) {}));
    kv_bytes_per_token = engine->model().kv_bytes_per_token;
    if (options.max_model_len == 0) {
      chosen.max_model_len = std::min(engine->model().max_model_len, kLongestByDefault);
    }
  }
  if (options.kv_cache_bytes == 0) {
    // A sequence of the workload is a fifth of the longest one on average, so this is a
    // third of what max_num_seqs of them take.
    const auto longest = static_cast<double>(chosen.max_model_len);
    const double tokens = std::max(1.25, 0.06 * chosen.max_num_seqs) * longest;
    const int64_t num_blocks = static_cast<int64_t>(tokens) / kBlockTokens + 1;
    chosen.kv_cache_bytes = num_blocks * kBlockTokens * kv_bytes_per_token;
  }
  return chosen;
}

Soak::Soak(SoakOptions options, SoakHooks hooks)
    : options_(std::move(options)), hooks_(std::move(hooks)) {}

EventSink Soak::sink() {
  return [this](std::span<const TokenEvent> events) {
    const std::lock_guard lock(mutex_);
    inbox_.insert(inbox_.end(), events.begin(), events.end());
    arrived_.notify_one();
  };
}

SoakReport Soak::run(Engine& engine, const EngineOptions& engine_options) {
  engine_ = &engine;
  const ModelInfo& model = engine.model();
  shape_ = {.seed = options_.seed,
            .vocab_size = model.vocab_size,
            .max_model_len = model.max_model_len,
            .max_num_seqs = engine_options.max_num_seqs,
            .max_logprobs = engine_options.max_logprobs,
            .has_tokenizer = engine.tokenizer() != nullptr};
  caches_ = engine_options.enable_prefix_caching;
  report_.seed = options_.seed;
  report_.exact = model.device == "cpu" || model.executor == "fake" || engine_options.deterministic;
  before_ = engine.stats();
  next_ = soak_request(shape_, 0);
  shown_ns_ = steady_now_ns();
  do {
    run_round();
  } while (!load_is_over(steady_now_ns()));
  report_.interrupted = stopping() && !gave_up_;
  note_what_is_missing();
  return report_;
}

void Soak::run_round() {
  round_.clear();
  round_idx_.clear();
  const int64_t round_len = std::max(kRoundRequests, int64_t{6} * shape_.max_num_seqs);
  run_load(next_idx_ + round_len);
  if (!gave_up_) wait_until_idle();
  judge_round();
  const int64_t began_ns = steady_now_ns();
  const size_t num_requests = round_.size();
  for (size_t idx = 0; idx < num_requests && !stopping(); ++idx) {
    const Open& open = round_[idx];
    const bool is_chosen = open.request_idx % options_.compare_every == 0;
    if (is_chosen && open.answer.ended() && !open.answer.token_ids.empty()) run_alone(open);
  }
  report_.alone_s += seconds(steady_now_ns() - began_ns);
  if (!gave_up_) wait_until_idle();
}

void Soak::run_load(int64_t end_idx) {
  load_began_ns_ = heard_ns_ = next_due_ns_ = steady_now_ns();
  idle_since_ns_ = 0;
  bool told_to_stop = false;
  for (;;) {
    const int64_t now_ns = steady_now_ns();
    if (!told_to_stop && stopping()) {
      told_to_stop = true;
      for (const auto& [id, idx] : open_) {
        round_[idx].cancelled = true;
        engine_->cancel(id);
      }
    }
    // Not one of a burst: the rest of it would come alone.
    if (now_ns > load_began_ns_ + kRoundNs && next_.gap > 0.0) end_idx = next_idx_;
    submit_due(now_ns, end_idx);
    cancel_due(now_ns);
    const bool may_come = next_idx_ < end_idx && !load_is_over(now_ns);
    if (open_.empty() && !may_come) break;
    int64_t wait_us = kLookAroundUs;
    if (may_come && next_due_ns_ > now_ns) {
      wait_us = std::min(wait_us, (next_due_ns_ - now_ns) / 1000 + 1);
    }
    if (!receive(wait_us)) break;
    report_.load_s = load_before_s_ + seconds(steady_now_ns() - load_began_ns_);
    show_progress();
  }
  load_before_s_ = report_.load_s = load_before_s_ + seconds(steady_now_ns() - load_began_ns_);
  load_began_ns_ = 0;
}

void Soak::submit_due(int64_t now_ns, int64_t end_idx) {
  while (next_idx_ < end_idx && !load_is_over(now_ns) && now_ns >= next_due_ns_ &&
         std::ssize(open_) < next_.most_unfinished) {
    Request request = next_.request;
    if (next_.deadline_gaps) request.deadline_ns = now_ns + gaps_ns(*next_.deadline_gaps);
    const Result<RequestId> id = engine_->submit(std::move(request));
    if (id.ok()) {
      round_idx_[id.value()] = open_[id.value()] = round_.size();
      round_.push_back({.request_idx = next_idx_, .asked = next_, .submitted_ns = now_ns});
      ++report_.num_requests;
      report_.num_prompt_tokens += std::ssize(next_.request.prompt_token_ids);
    } else {
      fault(str("request ", next_idx_, ": refused: ", id.status().message()));
    }
    heard_ns_ = now_ns;
    next_ = soak_request(shape_, ++next_idx_);
    next_due_ns_ = now_ns + gaps_ns(next_.gap);
  }
}

void Soak::cancel_due(int64_t now_ns) {
  for (const auto& [id, idx] : open_) {
    Open& open = round_[idx];
    if (open.cancelled) continue;
    const SoakRequest& asked = open.asked;
    const bool by_tokens = asked.cancel_after_tokens &&
                           std::ssize(open.answer.token_ids) >= *asked.cancel_after_tokens;
    const bool by_time =
        asked.cancel_after_gaps && now_ns >= open.submitted_ns + gaps_ns(*asked.cancel_after_gaps);
    if (!by_tokens && !by_time) continue;
    open.cancelled = true;
    engine_->cancel(id);
    if (open.request_idx % 2 == 0) engine_->cancel(id);  // twice is as good as once
  }
}

// Of the round's events; what is left of them waits for the runs alone.
void Soak::judge_round() {
  for (const Open& open : round_) {
    if (!open.answer.ended()) continue;  // lost, and counted where that was found
    const std::string words =
        stream_fault(open.asked, open.answer, shape_.max_model_len, open.cancelled);
    if (!words.empty()) fault(str("request ", open.request_idx, ": ", words));
  }
}

SoakAnswer Soak::answer_alone(const Open& open) {
  Open alone{.request_idx = open.request_idx, .asked = open.asked};
  alone.asked.request.cache_salt = str("alone ", open.request_idx);
  const Result<RequestId> id = engine_->submit(alone.asked.request);
  if (!id.ok()) {
    fault(str("request ", open.request_idx, " alone: refused: ", id.status().message()));
    return {};
  }
  // Kept behind the round's requests for as long as its events may come.
  round_.push_back(std::move(alone));
  round_idx_[id.value()] = open_[id.value()] = round_.size() - 1;
  heard_ns_ = steady_now_ns();
  idle_since_ns_ = 0;
  bool told_to_stop = false;
  while (!open_.empty()) {
    if (!told_to_stop && stopping()) {
      told_to_stop = true;
      engine_->cancel(id.value());
    }
    if (!receive(kLookAroundUs)) break;
    show_progress();
  }
  SoakAnswer answer = std::move(round_.back().answer);
  round_.pop_back();
  round_idx_.erase(id.value());
  return answer;
}

void Soak::run_alone(const Open& open) {
  const SoakAnswer alone = answer_alone(open);
  if (stopping() || !alone.ended()) return;
  const std::string words = stream_fault(open.asked, alone, shape_.max_model_len, false);
  if (!words.empty()) fault(str("request ", open.request_idx, " alone: ", words));
  if (alone.num_cached_tokens != 0) {
    fault(str("request ", open.request_idx, " alone: ", alone.num_cached_tokens,
              " tokens come from the prefix cache, which does not know its salt"));
  }
  const SoakComparison comparison = compare_answers(open.answer, alone);
  ++report_.num_compared;
  report_.num_compared_tokens += comparison.num_tokens;
  report_.num_same_tokens += comparison.num_same_tokens;
  if (!comparison.difference.empty()) mismatch(open, comparison.difference);
}

// The engine's counts follow its last event; then nothing may be left.
void Soak::wait_until_idle() {
  const int64_t began_ns = steady_now_ns();
  EngineStats stats = engine_->stats();
  while ((!is_idle(stats) || stats.kv_blocks_used > 0) &&
         seconds(steady_now_ns() - began_ns) < options_.idle_s) {
    receive(1000);
    stats = engine_->stats();
  }
  receive(0);
  note_stats();
  report_.leaked_blocks = std::max(report_.leaked_blocks, stats.kv_blocks_used);
  const std::string words = idle_fault(before_, stats, counts_);
  if (!words.empty()) fault("the engine is idle, and " + words);
  // Each fault is told once.
  before_.num_finished = stats.num_finished - counts_.num_ended;
  before_.num_generated_tokens = stats.num_generated_tokens - counts_.num_tokens;
}

bool Soak::receive(int64_t timeout_us) {
  std::vector<TokenEvent> events;
  {
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, std::chrono::microseconds(timeout_us),
                      [this] { return !inbox_.empty(); });
    std::swap(events, inbox_);
  }
  const int64_t now_ns = steady_now_ns();
  if (!events.empty()) {
    heard_ns_ = now_ns;
    idle_since_ns_ = 0;
    for (const TokenEvent& event : events) deliver(event);
    return true;
  }
  if (open_.empty()) return true;
  const EngineStats stats = engine_->stats();
  // Steps of long prompts give nobody a token.
  if (std::exchange(num_steps_, stats.num_steps) != stats.num_steps) heard_ns_ = now_ns;
  if (nothing_will_come(stats, now_ns)) {
    std::vector<size_t> lost;
    for (const auto& [id, idx] : open_) lost.push_back(idx);
    std::sort(lost.begin(), lost.end());
    for (const size_t idx : lost) lose(idx);
    open_.clear();
  } else if (seconds(now_ns - heard_ns_) > options_.stall_s) {
    give_up(str("no step has ended for ", options_.stall_s, " s with ", open_.size(),
                " requests unfinished: the engine hangs"));
    return false;
  }
  return true;
}

void Soak::deliver(const TokenEvent& event) {
  if (event.finish != FinishReason::kNone) ++counts_.num_ended;
  if (event.token_id >= 0) {
    ++counts_.num_tokens;
    if (load_began_ns_ != 0) ++report_.num_tokens;
  }
  const auto found = round_idx_.find(event.request);
  if (found == round_idx_.end()) {
    fault(str("an event of request id ", event.request, ", which is not under way"));
    return;
  }
  append_event(event, round_[found->second].answer);
  if (event.finish == FinishReason::kNone || open_.erase(event.request) == 0) return;
  if (load_began_ns_ == 0) return;
  if (event.finish == FinishReason::kAbort) ++report_.num_cancelled;
  if (event.finish == FinishReason::kDeadline) ++report_.num_expired;
}

// An engine that has been idle for a while, with requests that wait for their end.
bool Soak::nothing_will_come(const EngineStats& stats, int64_t now_ns) {
  if (!is_idle(stats)) {
    idle_since_ns_ = 0;
    return false;
  }
  if (idle_since_ns_ == 0) idle_since_ns_ = now_ns;
  return seconds(now_ns - idle_since_ns_) >= options_.idle_s;
}

void Soak::lose(size_t round_idx) {
  ++report_.num_lost;
  fault(str("request ", round_[round_idx].request_idx,
            ": no final event, and the engine has nothing left to do"));
}

void Soak::give_up(const std::string& why) {
  gave_up_ = true;
  report_.num_lost += std::ssize(open_);
  fault(why);
  open_.clear();
}

void Soak::fault(const std::string& words) {
  ++report_.num_faults;
  if (hooks_.on_fault) hooks_.on_fault(words);
}

void Soak::mismatch(const Open& open, const std::string& words) {
  ++report_.num_mismatches;
  if (!report_.exact || !hooks_.on_fault) return;
  hooks_.on_fault(str("request ", open.request_idx, ": ", words, "; again with --seed ",
                      options_.seed, " --requests ", open.request_idx + 1));
}

void Soak::note_stats() {
  const EngineStats stats = engine_->stats();
  report_.num_preemptions = stats.num_preemptions - before_.num_preemptions;
  report_.num_prefix_hit_tokens = stats.prefix_cache_hits - before_.prefix_cache_hits;
}

void Soak::show_progress() {
  const int64_t now_ns = steady_now_ns();
  if (seconds(now_ns - shown_ns_) < options_.progress_s || !hooks_.on_progress) return;
  shown_ns_ = now_ns;
  note_stats();
  hooks_.on_progress(report_);
}

void Soak::note_what_is_missing() {
  const bool is_whole = options_.duration_s >= kWholeLoadS &&
                        (options_.num_requests == 0 || options_.num_requests >= kWholeLoadRequests);
  if (!is_whole || report_.interrupted || gave_up_) return;
  const auto expect = [this](int64_t count, const char* what) {
    if (count == 0) report_.not_exercised.emplace_back(what);
  };
  if (shape_.max_num_seqs > 1) expect(report_.num_preemptions, "preemptions");
  expect(report_.num_cancelled, "cancels");
  expect(report_.num_compared, "comparisons");
  if (caches_) expect(report_.num_prefix_hit_tokens, "prefix hits");
}

int64_t Soak::gaps_ns(double gaps) const {
  double gap_s = kFirstGapS;
  if (options_.rate > 0.0) {
    gap_s = 1.0 / options_.rate;
  } else if (report_.num_requests >= kPaceRequests) {
    gap_s = report_.load_s / kOverload / static_cast<double>(report_.num_requests);
  }
  return static_cast<int64_t>(gaps * gap_s * static_cast<double>(kSecondNs));
}

bool Soak::stopping() { return gave_up_ || (hooks_.should_stop && hooks_.should_stop()); }

bool Soak::load_is_over(int64_t now_ns) {
  const double this_round_s = load_began_ns_ != 0 ? seconds(now_ns - load_began_ns_) : 0.0;
  return stopping() || load_before_s_ + this_round_s >= options_.duration_s ||
         (options_.num_requests > 0 && next_idx_ >= options_.num_requests);
}

}  // namespace slipstream

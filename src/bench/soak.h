// The soak: an engine under a random load for a while, and the proof that nothing is lost and that
// no request's answer depends on its neighbours.
//
// Rounds of load, each followed by a quiet phase in which the same engine runs the round's requests
// again one by one, with a salt of their own that hides them from the prefix cache. So one engine's
// memory is enough, and what is kept of the answers is that of one round.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "bench/soak_check.h"
#include "bench/soak_workload.h"
#include "slipstream/engine.h"
#include "slipstream/options.h"

namespace slipstream {

struct SoakOptions {
  uint64_t seed = 1;
  double duration_s = 300.0;  // under load; runs alone come on top
  int64_t num_requests = 0;   // 0: as many as come within the duration
  double rate = 0.0;          // mean arrivals a second outside bursts; 0: three times the engine's
  int64_t compare_every = 1;  // one of so many requests is run alone as well
  double stall_s = 120.0;     // an engine that ends no step for so long hangs
  double idle_s = 5.0;        // an engine whose counts are at rest for so long has said all
  double progress_s = 10.0;
};

struct SoakReport {
  uint64_t seed = 0;
  bool exact = true;  // whether answers must not depend on other requests
  bool interrupted = false;
  int64_t num_requests = 0;
  int64_t num_tokens = 0;  // generated under load
  int64_t num_prompt_tokens = 0;
  int64_t num_cancelled = 0;  // ended by their cancel
  int64_t num_expired = 0;    // and by their deadline
  int64_t num_preemptions = 0;
  int64_t num_prefix_hit_tokens = 0;
  int64_t num_compared = 0;
  int64_t num_compared_tokens = 0;
  int64_t num_same_tokens = 0;
  int64_t num_mismatches = 0;  // answers that differ from the one alone
  int64_t num_lost = 0;        // requests without a final event
  int64_t num_faults = 0;      // everything else that must not be
  int64_t leaked_blocks = 0;
  double load_s = 0.0;
  double alone_s = 0.0;
  std::vector<std::string> not_exercised;  // what a load this long should have met

  bool passed() const {
    return (num_mismatches == 0 || !exact) && num_lost == 0 && num_faults == 0 &&
           leaked_blocks == 0 && not_exercised.empty();
  }
};

Json report_json(const SoakReport& report);

struct SoakHooks {
  std::function<void(const std::string& words)> on_fault;  // one line, without its newline
  std::function<void(const SoakReport&)> on_progress;      // every progress_s
  std::function<bool()> should_stop;                       // asked often
};

// Options whose KV pool is too small for all that may run at once, and whose sequences are of a
// length that a soak gets through, where the caller has not chosen.
Result<EngineOptions> soak_engine_options(const EngineOptions& options);

// One thread calls run(), once. The engine's sink must be this one's, and the engine must end
// before it does.
class Soak {
 public:
  Soak(SoakOptions options, SoakHooks hooks);

  EventSink sink();
  SoakReport run(Engine& engine, const EngineOptions& engine_options);

 private:
  struct Open {  // a request of this round
    int64_t request_idx = 0;
    SoakRequest asked;
    SoakAnswer answer = {};
    int64_t submitted_ns = 0;
    bool cancelled = false;
  };

  void run_round();
  void run_load(int64_t end_idx);
  void submit_due(int64_t now_ns, int64_t end_idx);
  void cancel_due(int64_t now_ns);
  void judge_round();
  void run_alone(const Open& open);
  SoakAnswer answer_alone(const Open& open);
  void wait_until_idle();

  // Waits for events, at most so long, and hands them out. False: the engine hangs.
  bool receive(int64_t timeout_us);
  void deliver(const TokenEvent& event);
  bool nothing_will_come(const EngineStats& stats, int64_t now_ns);
  void give_up(const std::string& why);
  void lose(size_t round_idx);
  void fault(const std::string& words);
  void mismatch(const Open& open, const std::string& words);
  void show_progress();
  void note_stats();
  void note_what_is_missing();

  int64_t gaps_ns(double gaps) const;
  bool stopping();
  // No further request comes.
  bool load_is_over(int64_t now_ns);

  const SoakOptions options_;
  const SoakHooks hooks_;
  SoakReport report_;
  Engine* engine_ = nullptr;
  SoakShape shape_;
  bool caches_ = true;
  EngineStats before_;
  SoakCounts counts_;

  int64_t next_idx_ = 0;
  SoakRequest next_;         // number next_idx_
  int64_t next_due_ns_ = 0;  // not before this
  std::deque<Open> round_;
  std::unordered_map<RequestId, size_t> round_idx_;  // all of this round, ended ones too
  std::unordered_map<RequestId, size_t> open_;       // those without a final event
  int64_t load_began_ns_ = 0;
  double load_before_s_ = 0.0;  // of earlier rounds
  int64_t heard_ns_ = 0;        // when the engine last showed that it works
  int64_t num_steps_ = 0;       // of the engine's, when that was looked at last
  int64_t idle_since_ns_ = 0;   // as far as the engine's counts say; 0: it works
  int64_t shown_ns_ = 0;
  bool gave_up_ = false;

  std::mutex mutex_;  // guards what the engine's thread writes
  std::condition_variable arrived_;
  std::vector<TokenEvent> inbox_;
};

}  // namespace slipstream

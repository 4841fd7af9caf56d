// A load client: many streamed requests to one server, each on a connection of its own, and when
// every piece of every answer came.
//
// Owns sockets, threads and clocks; knows neither prompts nor records. Each thread has an Asio loop
// and its share of the connections. When bytes came is the kernel's own timestamp of their arrival,
// so a client that is late does not make the server look late; how late it was is measured as well.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "bench/http_call.h"
#include "bench/lag.h"

namespace slipstream {

// One conversation: its turns follow each other, each when the one before is answered.
struct LoadSession {
  int64_t send_at_ns = 0;  // of the first turn, after the start; 0: at once
  std::string body;        // of the first turn: JSON with "stream": true
  int num_turns = 1;
};

// What became of one request.
struct StreamTimes {
  bool ok = false;
  // "connect", "timeout", "http_500", "error_event", "closed_early", "malformed", "no_tokens";
  // "not_sent" and "interrupted" where the run ended before it did. Empty: none.
  std::string error_kind;
  std::string error;              // one line of the server's or the system's own words
  int64_t sent_ns = 0;            // steady clock, before the first byte; 0: never sent
  int64_t ended_ns = 0;           // when the client knew the end of the response, or of the attempt
  std::vector<int64_t> chunk_ns;  // arrivals of the chunks that bring tokens
  std::vector<int32_t> chunk_tokens;  // of each; empty unless every chunk carried usage
  int64_t prompt_tokens = -1;         // of the usage; -1: none came
  int64_t completion_tokens = -1;
};

struct LoadOptions {
  std::string endpoint = "/v1/completions";
  int64_t max_concurrency = 0;           // sessions under way at once; 0: no bound
  int num_threads = 0;                   // 0: one a core, and no more than 64 sessions need
  int64_t request_timeout_ms = 600'000;  // from the send to the end of the response
  int64_t num_idle_connections = 0;      // opened first and held, sending nothing
  // The body of a later turn, from the answers so far. Called on the threads of the client.
  std::function<std::string(size_t session_idx, const std::vector<std::string>& answers)> next_body;
};

struct LoadState {
  int64_t num_sent = 0, num_done = 0, num_failed = 0, num_chunks = 0;
};

struct LoadHooks {
  std::function<void(const LoadState&)> on_progress;  // ten times a second, on the caller's thread
  std::function<bool()> should_stop;                  // asked as often; true ends the run
};

struct LoadResult {
  std::vector<StreamTimes> streams;  // session by session, turn by turn
  LagCounts lag;  // of arrivals (handled against arrived) and of sends (sent against due)
  double client_cpu_us = 0.0;  // user and system time of the client's threads
  int64_t num_chunks = 0;
  int num_threads = 0;
  bool interrupted = false;  // should_stop() said so
  bool server_lost = false;  // connection after connection failed: the rest was not tried
};

// Runs all sessions. An error is one of this machine: too few files may be open.
Result<LoadResult> run_load(const HttpTarget& target, const std::vector<LoadSession>& sessions,
                            const LoadOptions& options, const LoadHooks& hooks = {});

}  // namespace slipstream

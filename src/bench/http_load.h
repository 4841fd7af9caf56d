// A load client: many streamed requests to one server, each on a connection of its own, with the
// times of their events.
//
// Owns sockets and the reading of chunked event streams; knows nothing of records. One thread with
// epoll, so that the client's own work stays small beside the server's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace slipstream {

struct HttpTarget {
  std::string host;  // an address; "localhost" is 127.0.0.1
  int port = 0;
  std::string path;     // "/v1/completions"
  std::string api_key;  // empty: none is sent
};
// "http://ADDRESS:PORT" with an IPv4 address or localhost.
Result<HttpTarget> parse_target(const std::string& url, const std::string& path);

struct LoadRequest {
  std::string body;        // JSON with "stream": true
  int64_t send_at_ns = 0;  // after the start; 0: as soon as a connection is free
};

struct LoadOptions {
  int64_t max_concurrency = 64;      // requests in flight at once
  int64_t timeout_ms = 600'000;      // of the whole run
  int64_t num_idle_connections = 0;  // opened first and held, sending nothing
};

struct StreamTimes {
  bool ok = false;
  std::string error;    // what ended it early; an HTTP status or an error event
  int64_t sent_ns = 0;  // steady clock
  int64_t ended_ns = 0;
  std::vector<int64_t> event_ns;   // of events with text or tokens
  int64_t completion_tokens = -1;  // of the usage chunk; -1: none came
};

// Runs all requests; element i belongs to requests[i].
Result<std::vector<StreamTimes>> run_load(const HttpTarget& target,
                                          const std::vector<LoadRequest>& requests,
                                          const LoadOptions& options);

}  // namespace slipstream

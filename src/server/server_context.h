// ServerContext: what handlers share. Built once by Server, lives as long as it, network thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/auth.h"
#include "server/engine_bridge.h"
#include "server/http.h"
#include "server/ledger.h"
#include "slipstream/engine.h"

namespace slipstream {

class ChatTemplate;   // text/chat_template.h
class ServerMetrics;  // server/server_metrics.h
class AccessLog;      // server/access_log.h
class WorkerPool;     // server/worker_pool.h
class KeyUsage;       // server/key_usage.h: per-key buckets and concurrency

// Everything a client can make large has a limit here; docs/api.md prints the table.
struct ServerLimits {
  int64_t max_body_bytes = 8 << 20;
  int64_t max_header_bytes = 32 << 10;
  int64_t max_url_bytes = 8 << 10;
  int32_t max_json_depth = 128;
  int64_t max_json_values = 1'000'000;  // a body that is one long array of numbers is a prompt
  int32_t max_n = 128;
  int32_t max_prompts = 256;  // of one completions call
  int32_t max_choices = 256;  // prompts x n
  int32_t max_stop_strings = 16;
  int64_t max_stop_bytes = 1024;
  int32_t max_logit_bias = 1024;
  int32_t max_messages = 4096;
  int64_t max_prompt_bytes = 4 << 20;
  int64_t max_unsent_bytes = 1 << 20;  // of one response, beyond what the kernel took
  int64_t max_connections = 20'000;
  int64_t max_request_ms = 600'000;   // deadline of a call that names none
  int64_t read_timeout_ms = 10'000;   // head, and then body, of one request
  int64_t idle_timeout_ms = 120'000;  // keep-alive
  int64_t ping_interval_ms = 15'000;  // SSE comments while nothing else is sent
};

struct ServerContext {
  EventLoop* loop = nullptr;
  EngineBridge* bridge = nullptr;
  std::string model_id;                  // what /v1/models lists
  std::vector<std::string> model_names;  // every name the server answers to; the first is model_id
  std::string system_fingerprint;        // "slipstream-0.1.0-cpu-1a2b3c4d"
  int64_t started_unix_s = 0;
  ServerLimits limits;
  const ChatTemplate* chat_template = nullptr;  // null: the model has none
  std::string chat_template_error;              // why it has none, when it brought a broken one
  KeyRing* keys = nullptr;
  KeyUsage* key_usage = nullptr;
  Ledger* ledger = nullptr;  // null: no metering
  ServerMetrics* metrics = nullptr;
  AccessLog* access_log = nullptr;
  WorkerPool* workers = nullptr;
  double price_per_million_tokens = 0.0;
  double read_gb_s = 0.0;                 // measured at start: the roof of decode
  std::array<uint8_t, 16> salt_secret{};  // drawn at start: prefix caches are shared within a key
  bool share_prefix_cache = false;        // across keys
  bool allow_template_kwargs = false;     // chat_template_kwargs of requests
  int64_t max_queued_requests = 0;        // the engine's; readiness ends when as many wait
  bool loading = false;                   // the model is not there yet: bridge has no engine
  bool draining = false;
  bool memory_is_low = false;  // new work is refused until there is more
};

}  // namespace slipstream

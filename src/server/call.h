// Call: one API call that generates: its choices, from submission to the last byte.
//
// Owns what every generating endpoint shares: submitting the choices, deadline and disconnect,
// keep-alive comments, accounting, the log line, metrics, and failures before and after the first
// byte. How the answer looks is the AnswerFormat's business; there is one per API dialect.
// Network thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "server/engine_bridge.h"
#include "server/errors.h"
#include "server/http.h"
#include "slipstream/engine.h"

namespace slipstream {

// One answer to one prompt.
struct Choice {
  int32_t idx = 0;  // place in the response: prompt_idx * n + i
  int32_t prompt_idx = 0;
  RequestId request = 0;
  std::string text;  // all text so far
  std::vector<int32_t> token_ids;
  std::vector<std::string> token_texts;  // what each token made visible; kept if logprobs are asked
  std::vector<TokenLogprobs> logprobs;   // parallel to token_ids when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  // from position 1
  FinishReason finish = FinishReason::kNone;
  std::string error;
  uint64_t seed = 0;
  int64_t num_cached_tokens = 0;
  int64_t scheduled_ns = 0;  // steady clock, like the next three; 0: not yet
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
};

struct Usage {
  int64_t prompt_tokens = 0;  // of every prompt once, whatever n is
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;
};

// What a front end makes of a request body; see params.h for the fields that fill it.
struct CallSpec {
  std::string id;                             // "chatcmpl-..."
  std::string model;                          // as the client named it
  std::string route;                          // "/v1/chat/completions"
  int64_t created_s = 0;                      // Unix time
  std::vector<std::vector<int32_t>> prompts;  // token ids
  std::vector<std::string> prompt_texts;      // parallel; for echo and return_prompt_text
  int32_t n = 1;
  SamplingParams sampling;
  int32_t priority = 0;
  std::string cache_salt;
  int64_t deadline_ms = 0;  // 0: the server's maximum
  bool stream = false;
  bool include_usage = false;     // a usage chunk ends the stream
  bool continuous_usage = false;  // and every chunk carries the usage so far
  bool timings = false;
  bool return_token_ids = false;
  bool echo = false;
  int32_t stream_interval = 1;  // tokens per chunk; the first and last are never held
  std::string user;             // for the log
};

// The state a format reads. Lives in Call.
struct CallState {
  CallSpec spec;
  std::vector<Choice> choices;
  Usage usage;
  int64_t arrival_ns = 0;
  const ModelInfo* model = nullptr;
  double read_gb_s = 0.0;  // measured at start; 0: unknown
};

// How one API dialect writes answers. Stateful; one per call.
class AnswerFormat {
 public:
  virtual ~AnswerFormat() = default;
  // Streams: called for every event in order (choices mixed). `event.text` may be empty; `choice`
  // already includes the event. Appends whole SSE events or nothing.
  virtual void append_event(const CallState& call, const Choice& choice, const TokenEvent& event,
                            std::string& out) = 0;
  // After every choice's last event: usage chunk, [DONE].
  virtual void append_end(const CallState& call, std::string& out) = 0;
  // A failure after the first byte; the default is error_event().
  virtual void append_error(const CallState& call, const ApiError& error, std::string& out);
  // The body of an answer that is not streamed.
  virtual std::string body(const CallState& call) = 0;
};

struct ServerContext;  // server/server_context.h: engine bridge, limits, ledger, metrics, logs

// Submits the choices and answers through `writer`. Refusals are answered here.
void start_call(ServerContext& context, const HttpRequest& http, CallSpec spec,
                std::unique_ptr<AnswerFormat> format, std::shared_ptr<ResponseWriter> writer);

// {"prompt_tokens","completion_tokens","total_tokens","prompt_tokens_details",...}
std::string usage_json(const Usage& usage);
// llama.cpp's timings and ours; of the first choice.
std::string timings_json(const CallState& call);

}  // namespace slipstream

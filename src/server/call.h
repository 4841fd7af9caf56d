// Call: one API call that generates: its choices, from submission to the last byte.
//
// Owns what every generating endpoint shares: submitting the choices, deadline and disconnect,
// keep-alive comments, accounting, the log line, metrics, and failures before and after the first
// byte. How the answer looks is the AnswerFormat's business; there is one per API dialect. How a
// body becomes a CallSpec is params.h's and prompt.h's. Network thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/engine_bridge.h"
#include "server/errors.h"
#include "server/http.h"
#include "slipstream/engine.h"

namespace slipstream {

struct ServerContext;  // server/server_context.h

// One answer to one prompt.
struct Choice {
  int32_t idx = 0;  // place in the response: prompt_idx * n + i
  int32_t prompt_idx = 0;
  RequestId request = 0;
  std::string text;  // all text so far
  int64_t num_tokens = 0;
  int64_t num_run_tokens = 0;  // of them, those that the latency gear made
  // Per token: of the whole answer, or of the delta being written when the answer is streamed.
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;         // parallel to token_ids when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  // from position 1, when asked for
  FinishReason finish = FinishReason::kNone;
  int32_t stop_idx = -1;  // with kStop: which stop string matched; -1: a token ended it
  uint64_t seed = 0;
  int64_t num_cached_tokens = 0;
  int64_t scheduled_ns = 0;  // steady clock, like the next two; 0: not yet
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
};

struct Usage {
  int64_t prompt_tokens = 0;  // of every prompt once, whatever n is
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;
};

// How a prompt is made of what the client sent.
struct PromptSpec {
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  bool add_special_tokens = true;  // chat templates write their own: false there by default
  int64_t truncate_to_tokens = 0;  // > 0: at most so many, cut at the side below; 0: no limit
  bool truncate_left = true;       // keep the end
  std::string template_kwargs;     // a JSON object of more template variables; empty: none
};

// What a front end makes of a request body; params.h's table lists the fields that fill it.
struct CallSpec {
  std::string id;                             // "chatcmpl-..."
  std::string model;                          // as the client named it
  std::string route;                          // "/v1/chat/completions"
  int64_t created_s = 0;                      // Unix time
  std::vector<std::vector<int32_t>> prompts;  // token ids
  std::vector<std::string> prompt_texts;      // parallel; filled for echo and return_prompt_text
  PromptSpec prompt;
  int32_t n = 1;
  SamplingParams sampling;
  bool asks_max_tokens = false;  // the client named a length itself
  int32_t priority = 0;
  std::string cache_salt;
  int64_t deadline_ms = 0;  // 0: the server's maximum
  bool stream = false;
  bool include_usage = false;     // a usage chunk ends the stream
  bool continuous_usage = false;  // and every chunk carries the usage so far
  bool timings = false;
  bool return_token_ids = false;
  bool return_prompt_text = false;
  bool tokens_as_ids = false;  // log-probabilities name tokens "token_id:42"
  bool echo = false;
  int32_t stream_interval = 1;  // tokens per chunk; the first and last are never held
  std::string user;             // for the log
  int32_t num_unknown_fields = 0;
};

// What a format reads. Lives in Call.
struct CallState {
  CallSpec spec;
  std::vector<Choice> choices;
  Usage usage;  // so far
  int64_t arrival_ns = 0;
  std::string system_fingerprint;
  std::string request_id;
  const ModelInfo* model = nullptr;
  const Tokenizer* tokenizer = nullptr;  // null: not loaded
  double read_gb_s = 0.0;                // measured at start; 0: unknown
};

// What a choice gained since its last delta.
struct ChoiceDelta {
  std::string_view text;  // may be empty while bytes are held back
  bool first = false;
  FinishReason finish = FinishReason::kNone;  // set on the last delta
};

// How one API dialect writes answers. Stateful; one per call.
class AnswerFormat {
 public:
  virtual ~AnswerFormat() = default;
  // Streams: deltas of the choices in the order they came. Appends whole SSE events or nothing.
  virtual void append_delta(const CallState& call, const Choice& choice, const ChoiceDelta& delta,
                            std::string& out) = 0;
  // After every choice's last delta: usage chunk, [DONE].
  virtual void append_end(const CallState& call, std::string& out) = 0;
  // While nothing else is sent; the default is an SSE comment.
  virtual void append_ping(std::string& out) const;
  // A failure after the first byte; the default is error_event().
  virtual void append_error(const CallState& call, const ApiError& error, std::string& out);
  // A failure before it; the default is errors.h's error_response().
  virtual HttpResponse error_response(const CallState& call, const ApiError& error) const;
  // What the head of an answer says besides what every dialect's does.
  virtual void append_headers(const CallState& call, HttpHeaders& headers) const;
  // The body of an answer that is not streamed.
  virtual std::string body(const CallState& call) = 0;
};

// Submits the choices and answers through `writer`. Refusals are answered here.
void start_call(ServerContext& context, const HttpRequest& http, CallSpec spec,
                std::unique_ptr<AnswerFormat> format, std::shared_ptr<ResponseWriter> writer);

// {"prompt_tokens","completion_tokens","total_tokens","prompt_tokens_details",...}
std::string usage_json(const Usage& usage);
// llama.cpp's timings and ours, of one choice.
std::string timings_json(const CallState& call, const Choice& choice);

}  // namespace slipstream

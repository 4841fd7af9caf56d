// Answer: one prompt through the engine, streamed to stdout, with its speed.
//
// What `run` and `chat` share: streaming, Ctrl-C, the speed line and the JSON object.
#pragma once

#include <string>

#include "base/json.h"
#include "base/status.h"
#include "bench/engine_client.h"
#include "cli/interrupts.h"
#include "cli/line_io.h"

namespace slipstream {

struct Speed {
  double ttft_ms = 0.0;
  double prefill_tok_s = 0.0;
  double decode_tok_s = 0.0;  // 0: fewer than two tokens
  double roof_tok_s = 0.0;    // 0: not measured
  double roof_fraction = 0.0;
};

// Streams the text (or, without a tokenizer, the ids) to `output` as it arrives when `stream` is
// set. Ctrl-C and a closed stdout end the answer; its finish reason is then "abort".
Result<Generation> stream_answer(EngineClient& client, const Request& request, Output& output,
                                 const Interrupts& interrupts, bool stream);

// An answer that would outgrow the context ends with it: max_tokens is an upper bound.
void fit_to_context(const ModelInfo& model, Request& request);

// Reads memory for about 50 ms to measure the roof; call it when the answer is out.
Speed measure_speed(EngineClient& client, const Generation& generation);

// "31 prompt tokens, TTFT 42 ms, ..." on one line, without the newline.
std::string speed_line(const Generation& generation, const Speed& speed);

struct AnswerContext {
  std::string model_name;
  double load_s = 0.0;
  const ModelInfo* model = nullptr;
  const Request* request = nullptr;
};
Json answer_json(const Generation& generation, const Speed& speed, const AnswerContext& context);

}  // namespace slipstream

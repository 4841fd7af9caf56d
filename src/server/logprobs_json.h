// Log-probabilities as OpenAI's two APIs write them, and vLLM's prompt_logprobs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/call.h"
#include "server/json_writer.h"

namespace slipstream {

// The text of one token on its own. Part of a code point is "bytes:\xe2\x80", so that different
// tokens have different names; "token_id:42" when ids are asked for or there is no tokenizer.
std::string token_name(const CallState& call, int32_t token_id);

// What `token_id` adds to a visible text: nothing for special tokens that are skipped.
std::string_view visible_bytes(const CallState& call, int32_t token_id);

// [{token,logprob,bytes,top_logprobs}]
void write_token_logprobs(const CallState& call, const std::vector<TokenLogprobs>& tokens,
                          JsonWriter& json);
// Chat: {"content":[{token,logprob,bytes,top_logprobs}],"refusal":null}, of the choice's tokens.
void write_chat_logprobs(const CallState& call, const Choice& choice, JsonWriter& json);

// Completions: {"tokens","token_logprobs","top_logprobs","text_offset"}.
struct CompletionLogprobsPart {
  bool with_prompt = false;        // the prompt's tokens come first
  int64_t* text_offset = nullptr;  // code points before this part; moves on
};
void write_completion_logprobs(const CallState& call, const Choice& choice,
                               const CompletionLogprobsPart& part, JsonWriter& json);

// [null, {"42": {"logprob","rank","decoded_token"}, ...}, ...], one entry per prompt token.
void write_prompt_logprobs(const CallState& call, const Choice& choice, JsonWriter& json);

void write_token_ids(const std::vector<int32_t>& ids, JsonWriter& json);

}  // namespace slipstream

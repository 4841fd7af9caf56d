#include "server/logprobs_json.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/strings.h"
#include "base/utf8.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

// What OpenAI reports for a probability of zero; JSON has no -inf.
constexpr float kSmallestLogprob = -9999.0f;

float finite(float logprob) { return std::isfinite(logprob) ? logprob : kSmallestLogprob; }

void write_bytes(std::string_view bytes, JsonWriter& json) {
  json.begin_array();
  for (const char byte : bytes) json.integer(static_cast<unsigned char>(byte));
  json.end_array();
}

void write_chat_token(const CallState& call, int32_t token_id, float logprob, JsonWriter& json) {
  json.field("token", token_name(call, token_id));
  json.key("logprob").number(finite(logprob));
  json.key("bytes");
  if (call.tokenizer != nullptr) {
    write_bytes(call.tokenizer->token_bytes(token_id), json);
  } else {
    json.null();
  }
}

int64_t num_code_points(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(),
                       [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; });
}

// The alternatives, and the token itself when it is not among them.
void write_top_dict(const CallState& call, const TokenLogprobs& token, JsonWriter& json) {
  json.begin_object();
  bool has_token = false;
  for (const auto& [id, logprob] : token.top) {
    has_token = has_token || id == token.id;
    json.key(token_name(call, id)).number(finite(logprob));
  }
  if (!has_token) json.key(token_name(call, token.id)).number(finite(token.logprob));
  json.end_object();
}

// The tokens that one legacy object is about: ids, and log-probabilities from `first_scored` on.
struct ScoredTokens {
  std::vector<int32_t> ids;
  std::vector<const TokenLogprobs*> scores;  // parallel; null: the first token of a prompt
};

ScoredTokens scored_tokens(const CallState& call, const Choice& choice, bool with_prompt) {
  ScoredTokens tokens;
  if (with_prompt) {
    tokens.ids = call.spec.prompts[static_cast<size_t>(choice.prompt_idx)];
    tokens.scores.push_back(nullptr);
    for (const TokenLogprobs& score : choice.prompt_logprobs) tokens.scores.push_back(&score);
    tokens.scores.resize(tokens.ids.size(), nullptr);
  }
  tokens.ids.insert(tokens.ids.end(), choice.token_ids.begin(), choice.token_ids.end());
  for (const TokenLogprobs& score : choice.logprobs) tokens.scores.push_back(&score);
  tokens.scores.resize(tokens.ids.size(), nullptr);
  return tokens;
}

}  // namespace

std::string token_name(const CallState& call, int32_t token_id) {
  if (call.spec.tokens_as_ids || call.tokenizer == nullptr) return str("token_id:", token_id);
  const std::string_view bytes = call.tokenizer->token_bytes(token_id);
  if (utf8_valid(bytes)) return std::string(bytes);
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string name = "bytes:";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    name += "\\x";
    name += kDigits[byte >> 4];
    name += kDigits[byte & 15];
  }
  return name;
}

std::string_view visible_bytes(const CallState& call, int32_t token_id) {
  if (call.tokenizer == nullptr) return {};
  if (call.spec.sampling.skip_special_tokens && call.tokenizer->is_special(token_id)) return {};
  return call.tokenizer->token_bytes(token_id);
}

void write_token_logprobs(const CallState& call, const std::vector<TokenLogprobs>& tokens,
                          JsonWriter& json) {
  json.begin_array();
  for (const TokenLogprobs& token : tokens) {
    json.begin_object();
    write_chat_token(call, token.id, token.logprob, json);
    json.key("top_logprobs").begin_array();
    for (const auto& [id, logprob] : token.top) {
      json.begin_object();
      write_chat_token(call, id, logprob, json);
      json.end_object();
    }
    json.end_array().end_object();
  }
  json.end_array();
}

void write_chat_logprobs(const CallState& call, const Choice& choice, JsonWriter& json) {
  json.begin_object().key("content");
  write_token_logprobs(call, choice.logprobs, json);
  json.key("refusal").null().end_object();
}

void write_completion_logprobs(const CallState& call, const Choice& choice,
                               const CompletionLogprobsPart& part, JsonWriter& json) {
  const ScoredTokens tokens = scored_tokens(call, choice, part.with_prompt);
  json.begin_object().key("tokens").begin_array();
  for (const int32_t id : tokens.ids) json.string(token_name(call, id));
  json.end_array().key("token_logprobs").begin_array();
  for (const TokenLogprobs* score : tokens.scores) {
    if (score == nullptr) {
      json.null();
    } else {
      json.number(finite(score->logprob));
    }
  }
  json.end_array().key("top_logprobs").begin_array();
  for (const TokenLogprobs* score : tokens.scores) {
    if (score == nullptr) {
      json.null();
    } else {
      write_top_dict(call, *score, json);
    }
  }
  json.end_array().key("text_offset").begin_array();
  for (const int32_t id : tokens.ids) {
    json.integer(*part.text_offset);
    *part.text_offset += num_code_points(visible_bytes(call, id));
  }
  json.end_array().end_object();
}

void write_prompt_logprobs(const CallState& call, const Choice& choice, JsonWriter& json) {
  json.begin_array().null();
  for (const TokenLogprobs& token : choice.prompt_logprobs) {
    json.begin_object();
    const auto write = [&](int32_t id, float logprob, int64_t rank) {
      json.key(std::to_string(id)).begin_object();
      json.key("logprob").number(finite(logprob));
      if (rank > 0) json.field("rank", rank);
      json.field("decoded_token", token_name(call, id)).end_object();
    };
    bool has_token = false;
    int64_t rank = 0;
    for (const auto& [id, logprob] : token.top) {
      has_token = has_token || id == token.id;
      write(id, logprob, ++rank);
    }
    if (!has_token) write(token.id, token.logprob, 0);
    json.end_object();
  }
  json.end_array();
}

void write_token_ids(const std::vector<int32_t>& ids, JsonWriter& json) {
  json.begin_array();
  for (const int32_t id : ids) json.integer(id);
  json.end_array();
}

}  // namespace slipstream

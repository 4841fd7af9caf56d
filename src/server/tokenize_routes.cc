#include "server/tokenize_routes.h"

#include <functional>
#include <string>
#include <utility>

#include "base/strings.h"
#include "server/generation_route.h"
#include "server/json_route.h"
#include "server/json_writer.h"
#include "server/logprobs_json.h"
#include "server/prompt.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

// A boolean member; absent and null give `fallback`.
ApiResult<bool> flag(const Json& body, const char* name, bool fallback) {
  Result<bool> value = json_bool(body, name, fallback);
  if (!value.ok()) return invalid_request(value.status().message(), name);
  return value.value();
}

ApiError missing_tokenizer() {
  return invalid_request("the tokenizer is not loaded, so there is no text");
}

// What both shapes of /tokenize do with their text.
struct TextToEncode {
  RenderedPrompt prompt;
  bool add_special = true;
  bool parse_special = true;
};

ApiResult<std::vector<int32_t>> encode(const TextToEncode& text, const PromptEnv& env) {
  if (std::ssize(text.prompt.text) > env.limits->max_prompt_bytes) {
    return payload_too_large(str("the text has ", text.prompt.text.size(), " bytes; at most ",
                                 env.limits->max_prompt_bytes));
  }
  EncodeOptions options;
  options.add_special = text.add_special;
  options.parse_special = text.parse_special;
  options.plain_ranges = text.prompt.plain_ranges;
  Result<std::vector<int32_t>> ids = env.tokenizer->encode(text.prompt.text, options);
  if (!ids.ok()) return invalid_request(ids.status().message());
  return std::move(ids).value();
}

// {"content", "add_special", "parse_special", "with_pieces"} -> {"tokens"}.
ApiResult<std::string> tokenize_content(const Json& body, const Json& content,
                                        const PromptEnv& env) {
  if (!content.is_string()) return invalid_request("content must be a string", "content");
  const ApiResult<bool> add_special = flag(body, "add_special", false);
  if (!add_special.ok()) return add_special.error();
  const ApiResult<bool> parse_special = flag(body, "parse_special", true);
  if (!parse_special.ok()) return parse_special.error();
  const ApiResult<bool> with_pieces = flag(body, "with_pieces", false);
  if (!with_pieces.ok()) return with_pieces.error();
  TextToEncode text;
  text.prompt.text = content.get<std::string>();
  text.add_special = add_special.value();
  text.parse_special = parse_special.value();
  const ApiResult<std::vector<int32_t>> ids = encode(text, env);
  if (!ids.ok()) return ids.error();
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("tokens");
  if (!with_pieces.value()) {
    write_token_ids(ids.value(), json);
  } else {
    json.begin_array();
    for (const int32_t id : ids.value()) {
      json.begin_object().field("id", int64_t{id});
      json.field("piece", env.tokenizer->token_bytes(id)).end_object();
    }
    json.end_array();
  }
  json.end_object();
  return out;
}

// The text of {"prompt"} or of {"messages"}.
ApiResult<TextToEncode> text_of(const Json& body, const PromptEnv& env) {
  TextToEncode text;
  if (const Json* messages = member_of(body, "messages")) {
    PromptSpec spec;
    const ApiResult<bool> open = flag(body, "add_generation_prompt", true);
    if (!open.ok()) return open.error();
    const ApiResult<bool> goes_on = flag(body, "continue_final_message", false);
    if (!goes_on.ok()) return goes_on.error();
    spec.add_generation_prompt = open.value() && !goes_on.value();
    spec.continue_final_message = goes_on.value();
    ApiResult<RenderedPrompt> rendered = render_chat(*messages, spec, env);
    if (!rendered.ok()) return rendered.error();
    text.prompt = std::move(rendered).value();
    text.add_special = false;  // the template wrote them
  } else if (const Json* prompt = member_of(body, "prompt")) {
    if (!prompt->is_string()) return invalid_request("prompt must be a string", "prompt");
    text.prompt.text = prompt->get<std::string>();
  } else {
    return invalid_request("send prompt, messages or content", "prompt");
  }
  const ApiResult<bool> add_special = flag(body, "add_special_tokens", text.add_special);
  if (!add_special.ok()) return add_special.error();
  text.add_special = add_special.value();
  return text;
}

ApiResult<std::string> tokenize(const Json& body, const PromptEnv& env) {
  if (env.tokenizer == nullptr) return missing_tokenizer();
  if (!body.is_object()) return invalid_request("the body must be a JSON object");
  if (const Json* content = member_of(body, "content"))
    return tokenize_content(body, *content, env);
  const ApiResult<bool> with_texts = flag(body, "return_token_strs", false);
  if (!with_texts.ok()) return with_texts.error();
  const ApiResult<TextToEncode> text = text_of(body, env);
  if (!text.ok()) return text.error();
  const ApiResult<std::vector<int32_t>> ids = encode(text.value(), env);
  if (!ids.ok()) return ids.error();
  std::string out;
  JsonWriter json(out);
  json.begin_object().field("count", std::ssize(ids.value()));
  json.field("max_model_len", env.model->max_model_len).key("tokens");
  write_token_ids(ids.value(), json);
  json.key("token_strs");
  if (with_texts.value()) {
    json.begin_array();
    for (const int32_t id : ids.value()) json.string(env.tokenizer->token_text(id));
    json.end_array();
  } else {
    json.null();
  }
  json.end_object();
  return out;
}

// {"tokens"} -> {"prompt", "content"}: vLLM's name and llama.cpp's.
ApiResult<std::string> detokenize(const Json& body, const PromptEnv& env) {
  if (env.tokenizer == nullptr) return missing_tokenizer();
  const Json* tokens = body.is_object() ? member_of(body, "tokens") : nullptr;
  if (tokens == nullptr || !tokens->is_array()) {
    return invalid_request("tokens must be an array of token ids", "tokens");
  }
  std::vector<int32_t> ids;
  ids.reserve(tokens->size());
  for (const Json& item : *tokens) {
    const bool in_range = item.is_number_integer() && item >= 0 && item < env.model->vocab_size;
    if (!in_range) {
      return invalid_request(str("tokens holds ", dump_json(item).substr(0, 40),
                                 "; the model has tokens 0 to ", env.model->vocab_size - 1),
                             "tokens");
    }
    ids.push_back(item.get<int32_t>());
  }
  DecodeOptions options;
  options.skip_special = false;  // nothing a client sent is hidden from it
  const std::string text = env.tokenizer->decode(ids, options);
  std::string out;
  JsonWriter json(out);
  json.begin_object().field("prompt", text).field("content", text).end_object();
  return out;
}

// {"messages"} -> {"prompt"}: what the model would see.
ApiResult<std::string> apply_template(const Json& body, const PromptEnv& env) {
  if (!body.is_object() || member_of(body, "messages") == nullptr) {
    return invalid_request("messages is missing", "messages");
  }
  const ApiResult<TextToEncode> text = text_of(body, env);
  if (!text.ok()) return text.error();
  std::string out;
  JsonWriter json(out);
  json.begin_object().field("prompt", text->prompt.text).end_object();
  return out;
}

std::string tokenizer_info(const PromptEnv& env) {
  const Tokenizer& tokenizer = *env.tokenizer;
  const SpecialTokens& special = tokenizer.special_tokens();
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  const auto token = [&](const char* name, const std::optional<int32_t>& id) {
    json.key(name);
    if (id) {
      json.string(tokenizer.token_text(*id));
    } else {
      json.null();
    }
    json.key(std::string(name) + "_id");
    if (id) {
      json.integer(*id);
    } else {
      json.null();
    }
  };
  token("bos_token", special.bos_id);
  token("eos_token", special.eos_id);
  token("unk_token", special.unk_id);
  token("pad_token", special.pad_id);
  json.field("vocab_size", int64_t{tokenizer.vocab_size()});
  json.key("add_bos_token").boolean(tokenizer.adds_bos());
  json.field("model_max_length", env.model->max_model_len).key("chat_template");
  if (tokenizer.chat_template() != nullptr) {
    json.string(*tokenizer.chat_template());
  } else {
    json.null();
  }
  json.end_object();
  return out;
}

}  // namespace

std::vector<Route> tokenize_routes(ServerContext& context,
                                   const std::shared_ptr<const ParamTable>& table) {
  std::vector<Route> routes;
  const auto add = [&](const char* path, auto function) {
    Route route;
    route.method = "POST";
    route.path = path;
    route.handler = json_handler(context, [&context, table, function](const Json& body) {
      return function(body, front_end(context, *table).prompt);
    });
    routes.push_back(std::move(route));
  };
  add("/tokenize", tokenize);
  add("/detokenize", detokenize);
  add("/apply-template", apply_template);
  Route info;
  info.method = "GET";
  info.path = "/tokenizer_info";
  info.handler = [&context, table](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    const PromptEnv env = front_end(context, *table).prompt;
    if (env.tokenizer == nullptr) return writer->send(error_response(missing_tokenizer()));
    HttpResponse response;
    response.body = tokenizer_info(env);
    writer->send(std::move(response));
  };
  routes.push_back(std::move(info));
  return routes;
}

}  // namespace slipstream

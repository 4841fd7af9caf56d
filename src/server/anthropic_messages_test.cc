// What /v1/messages and its token count make of requests, and the bytes they answer with.
#include "server/anthropic_messages.h"

#include <gtest/gtest.h>

#include "server/api_routes.h"
#include "server/api_test_util.h"
#include "server/auth.h"
#include "server/gate.h"
#include "server/router.h"

namespace slipstream {
namespace {

const Json kHi = {{"max_tokens", 50},
                  {"messages", Json::array({{{"role", "user"}, {"content", "hi"}}})}};

Json hi_with(const char* name, const Json& value) {
  Json body = kHi;
  body[name] = value;
  return body;
}

class MessagesTest : public ApiFixture {
 public:
  ApiResult<PreparedCall> prepare(const Json& body) {
    return ApiFixture::prepare(messages_dialect(), body);
  }
  std::shared_ptr<RecordingWriter> start(const Json& body) {
    return ApiFixture::start(messages_dialect(), body,
                             [](PreparedCall& call) { call.spec.id = "msg"; });
  }
  std::string prompt_of(const Json& body) {
    return ApiFixture::prompt_of(messages_dialect(), body);
  }

  std::shared_ptr<RecordingWriter> count(const Json& body) {
    auto writer = std::make_shared<RecordingWriter>();
    HttpRequest http;
    http.request_id = "r";
    http.body = dump_json(body);
    count_tokens_route(context, std::make_shared<const ParamTable>(context.limits))
        .handler(std::move(http), writer);
    return writer;
  }

  // The last answer of a request that ends as `event` says.
  Json answer_to(const Json& body, TokenEvent event) {
    const auto writer = start(body);
    event.request = engine.requests.size();
    step({event});
    return Json::parse(writer->bytes);
  }
};

std::string event(const char* type, const std::string& members) {
  return str("event: ", type, "\ndata: {\"type\":\"", type, "\"", members.empty() ? "" : ",",
             members, "}\n\n");
}

std::string usage(size_t num_computed, int num_cached, int num_output) {
  return str(R"({"input_tokens":)", num_computed,
             R"(,"cache_creation_input_tokens":0,"cache_read_input_tokens":)", num_cached,
             R"(,"output_tokens":)", num_output, "}");
}

TEST_F(MessagesTest, StreamIsAnthropicsEventsInTheirOrder) {
  const auto writer = start(hi_with("stream", true));
  ASSERT_EQ(engine.requests.size(), 1u);
  const size_t num_prompt = engine.requests[0].prompt_token_ids.size();
  TokenEvent first = token(1, "A", true);
  first.num_cached_tokens = 3;
  step({first});
  EXPECT_EQ(
      writer->bytes,
      event("message_start",
            R"("message":{"id":"msg","type":"message","role":"assistant","model":"m",)"
            R"("content":[],"stop_reason":null,"stop_sequence":null,"usage":)" +
                usage(num_prompt - 3, 3, 1) + "}") +
          event("content_block_start", R"("index":0,"content_block":{"type":"text","text":""})") +
          event("ping", "") +
          event("content_block_delta", R"("index":0,"delta":{"type":"text_delta","text":"A"})"));
  EXPECT_EQ(writer->num_writes, 1);
  EXPECT_EQ(writer->header("request-id"), "r");
  writer->bytes.clear();
  step({token(1, "")});  // held back: nothing to show
  EXPECT_EQ(writer->bytes, "");
  step({last(1, "B\n", FinishReason::kStop)});
  EXPECT_EQ(
      writer->bytes,
      event("content_block_delta", R"("index":0,"delta":{"type":"text_delta","text":"B\n"})") +
          event("content_block_stop", R"("index":0)") +
          event("message_delta",
                R"("delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":)" +
                    usage(num_prompt - 3, 3, 3)) +
          event("message_stop", ""));
  EXPECT_TRUE(writer->ended);
}

TEST_F(MessagesTest, PingIsAnEventOnceTheMessageHasBegunAndACommentBefore) {
  const auto writer = start(hi_with("stream", true));
  loop.advance_ms(context.limits.ping_interval_ms);
  EXPECT_EQ(writer->bytes, ": ping\n\n");
  step({token(1, "A", true)});
  loop.advance_ms(context.limits.ping_interval_ms);
  writer->bytes.clear();
  loop.advance_ms(context.limits.ping_interval_ms);
  EXPECT_EQ(writer->bytes, event("ping", ""));
}

TEST_F(MessagesTest, WholeAnswerHasAnthropicsFields) {
  const auto writer = start(kHi);
  step({token(1, "A", true)});
  step({last(1, "B", FinishReason::kStop)});
  const Json message = Json::parse(writer->bytes);
  EXPECT_EQ(message["id"], "msg");
  EXPECT_EQ(message["type"], "message");
  EXPECT_EQ(message["role"], "assistant");
  EXPECT_EQ(message["model"], "m");
  EXPECT_EQ(message["content"], Json::parse(R"([{"type":"text","text":"AB"}])"));
  EXPECT_EQ(message["stop_reason"], "end_turn");
  EXPECT_TRUE(message["stop_sequence"].is_null());
  EXPECT_EQ(message["usage"]["output_tokens"], 2);
  EXPECT_EQ(writer->header("request-id"), "r");
}

TEST_F(MessagesTest, StopReasonSaysWhatEndedTheAnswer) {
  EXPECT_EQ(answer_to(kHi, last(0, "A", FinishReason::kLength))["stop_reason"], "max_tokens");
  TokenEvent stopped = last(0, "A", FinishReason::kStop);
  const Json body = hi_with("stop_sequences", {"###", "END"});
  EXPECT_EQ(answer_to(body, stopped)["stop_reason"], "end_turn");
  EXPECT_EQ(engine.requests.back().sampling.stop, (std::vector<std::string>{"###", "END"}));
  stopped.stop_idx = 1;
  const Json message = answer_to(body, stopped);
  EXPECT_EQ(message["stop_reason"], "stop_sequence");
  EXPECT_EQ(message["stop_sequence"], "END");
}

TEST_F(MessagesTest, MoreTokensThanTheContextLeavesRoomForCountAsTheRestOfIt) {
  const Json message =
      answer_to(hi_with("max_tokens", 100'000), last(0, "A", FinishReason::kLength));
  EXPECT_EQ(message["stop_reason"], "model_context_window_exceeded");
  const Request& request = engine.requests.back();
  EXPECT_EQ(request.sampling.max_tokens,
            engine.model_.max_model_len - std::ssize(request.prompt_token_ids));
  Json full = kHi;
  full["messages"][0]["content"] = std::string(2000, 'x');
  const auto refused = prepare(full);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, "context_length_exceeded");
}

TEST_F(MessagesTest, ErrorsHaveAnthropicsShapeBeforeAndAfterTheFirstByte) {
  engine.refusal = failed("the queue is full");
  const auto refused = start(kHi);
  EXPECT_EQ(refused->head->status, 429);
  EXPECT_EQ(refused->header("retry-after"), "1");
  EXPECT_EQ(refused->header("request-id"), "r");
  EXPECT_EQ(refused->bytes,
            R"({"type":"error","error":{"type":"rate_limit_error","message":"the queue is full"},)"
            R"("request_id":"r"})");
  engine.refusal.reset();
  const auto writer = start(hi_with("stream", true));
  step({token(1, "A", true)});
  writer->bytes.clear();
  TokenEvent failure = last(1, "", FinishReason::kError);
  failure.error = "broke";
  step({failure});
  EXPECT_EQ(writer->bytes,
            "event: error\ndata: "
            R"({"type":"error","error":{"type":"api_error",)"
            R"("message":"the request failed: broke"},"request_id":"r"})"
            "\n\n");
  EXPECT_TRUE(writer->ended);
}

TEST_F(MessagesTest, ErrorTypesFollowTheStatus) {
  const auto type = [](const ApiError& error) {
    return Json::parse(messages_error(error, "r").body)["error"]["type"].get<std::string>();
  };
  EXPECT_EQ(type(invalid_request("x")), "invalid_request_error");
  EXPECT_EQ(type(authentication_error("x")), "authentication_error");
  EXPECT_EQ(type(model_not_found("x")), "not_found_error");
  EXPECT_EQ(type(payload_too_large("x")), "request_too_large");
  EXPECT_EQ(type(unsupported_media_type("x")), "invalid_request_error");
  EXPECT_EQ(type(rate_limited("x", 1)), "rate_limit_error");
  EXPECT_EQ(type(server_error("x")), "api_error");
  EXPECT_EQ(type(service_unavailable("x", 1)), "overloaded_error");
  EXPECT_EQ(type(deadline_exceeded("x")), "timeout_error");
}

TEST_F(MessagesTest, RefusalsOfTheGateHaveTheShapeOfTheirRoute) {
  KeyRing keys;
  ASSERT_TRUE(keys.add("secret-0123456789").ok());
  context.keys = &keys;
  Router router;
  for (Route& route : api_routes(context)) router.add(std::move(route));
  Gate gate(context, router, {});
  const auto refusal = [&gate](const char* path) {
    HttpRequest http;
    http.method = "POST";
    http.path = path;
    http.request_id = "r";
    const HeadDecision decision = gate.decide(http);
    EXPECT_TRUE(decision.refusal.has_value());
    EXPECT_EQ(decision.refusal->status, 401);
    return Json::parse(decision.refusal->body);
  };
  for (const char* path : {"/v1/messages", "/v1/messages/count_tokens"}) {
    EXPECT_EQ(refusal(path)["type"], "error") << path;
    EXPECT_EQ(refusal(path)["error"]["type"], "authentication_error") << path;
    EXPECT_EQ(refusal(path)["request_id"], "r") << path;
  }
  EXPECT_FALSE(refusal("/v1/chat/completions").contains("type"));
  EXPECT_FALSE(refusal("/v1/responses").contains("type"));
}

TEST_F(MessagesTest, SystemComesFirstTurnsOfOneRoleAreOneAndAnAssistantTurnAtTheEndGoesOn) {
  const std::string hi = "<|im_start|>user\nhi<|im_end|>\n";
  EXPECT_EQ(prompt_of(kHi), hi + "<|im_start|>assistant\n");
  EXPECT_EQ(prompt_of(hi_with("system", "sys")),
            "<|im_start|>system\nsys<|im_end|>\n" + hi + "<|im_start|>assistant\n");
  EXPECT_EQ(prompt_of(hi_with("system", Json::parse(R"([{"type":"text","text":"a"},
      {"type":"text","text":"b","cache_control":{"type":"ephemeral"}}])"))),
            "<|im_start|>system\na\nb<|im_end|>\n" + hi + "<|im_start|>assistant\n");
  EXPECT_EQ(prompt_of(hi_with("messages", Json::parse(R"([
      {"role":"user","content":"a"},{"role":"user","content":[{"type":"text","text":"b"}]},
      {"role":"assistant","content":"The answer is ("}])"))),
            "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\nThe answer is (");
}

TEST_F(MessagesTest, WhatItCannotDoIsRefusedByName) {
  const auto param_of = [this](const Json& body) {
    const ApiResult<PreparedCall> call = prepare(body);
    EXPECT_FALSE(call.ok()) << dump_json(body);
    return call.ok() ? std::string() : call.error().param;
  };
  Json no_length = kHi;
  no_length.erase("max_tokens");
  EXPECT_EQ(param_of(no_length), "max_tokens");
  EXPECT_EQ(param_of(hi_with("max_tokens", 0)), "max_tokens");
  EXPECT_EQ(param_of({{"max_tokens", 5}}), "messages");
  EXPECT_EQ(param_of(hi_with("messages", Json::array())), "messages");
  EXPECT_EQ(param_of(hi_with("messages", "hi")), "messages");
  EXPECT_EQ(param_of(hi_with("tools", Json::array({{{"name", "f"}}}))), "tools");
  EXPECT_EQ(param_of(hi_with("tool_choice", {{"type", "any"}})), "tool_choice");
  EXPECT_EQ(param_of(hi_with("thinking", {{"type", "enabled"}, {"budget_tokens", 1024}})),
            "thinking");
  EXPECT_EQ(param_of(hi_with("output_config", {{"format", {{"type", "json_schema"}}}})),
            "output_config.format");
  EXPECT_EQ(param_of(hi_with("stop_sequences", {""})), "stop_sequences");
  EXPECT_EQ(param_of(hi_with("metadata", {{"user_id", 3}})), "metadata.user_id");
  EXPECT_EQ(param_of(hi_with("system", 3)), "system");
  EXPECT_EQ(param_of(hi_with("system", Json::parse(R"([{"type":"image"}])"))), "system[0]");
  const auto messages = [](const char* text) { return hi_with("messages", Json::parse(text)); };
  EXPECT_EQ(param_of(messages(R"([{"role":"user","content":[{"type":"image","source":{}}]}])")),
            "messages[0].content[0]");
  EXPECT_EQ(param_of(messages(R"([{"role":"tool","content":"x"}])")), "messages[0].role");
  EXPECT_EQ(param_of(messages(R"([{"role":"user"}])")), "messages[0].content");
  const auto accepted = prepare(Json::parse(R"({"max_tokens":5,"system":"","temperature":0.5,
      "messages":[{"role":"user","content":"hi"}],"top_k":5,"top_p":0.9,"tools":[],
      "thinking":{"type":"disabled"},"tool_choice":{"type":"auto"},"stop_sequences":[],
      "metadata":{"user_id":null},"output_config":{"effort":"low"},"service_tier":"auto"})"));
  ASSERT_TRUE(accepted.ok()) << accepted.error().message;
  EXPECT_EQ(accepted.value().spec.num_unknown_fields, 0);
}

TEST_F(MessagesTest, TokenCountIsThePromptThatTheMessageWouldHave) {
  const Json body = hi_with("system", "sys");
  const auto call = prepare(body);
  ASSERT_TRUE(call.ok());
  Json question = body;
  question.erase("max_tokens");
  EXPECT_EQ(count(question)->bytes,
            str(R"({"input_tokens":)", call.value().spec.prompts[0].size(), "}"));
  const auto refused = count(Json::object());
  EXPECT_EQ(refused->head->status, 400);
  EXPECT_EQ(Json::parse(refused->bytes)["type"], "error");
  EXPECT_EQ(Json::parse(refused->bytes)["request_id"], "r");
}

}  // namespace
}  // namespace slipstream

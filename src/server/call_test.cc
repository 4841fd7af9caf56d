// What a call sends for the events of an engine: bytes of streams, bodies, refusals, and what
// happens when either side leaves.
#include "server/call.h"

#include <gtest/gtest.h>

#include "server/api_test_util.h"
#include "server/auth.h"
#include "server/generation_route.h"
#include "server/ledger.h"
#include "server/openai_chat.h"
#include "server/openai_completions.h"

namespace slipstream {
namespace {

class FakeLedger final : public Ledger {
 public:
  Status record(std::span<const LedgerEntry> rows) override {
    if (broken) return failed("disk full");
    entries.insert(entries.end(), rows.begin(), rows.end());
    return {};
  }
  Result<std::vector<UsageRow>> usage(const UsageQuery&) override {
    return std::vector<UsageRow>();
  }
  std::vector<LedgerEntry> entries;
  bool broken = false;
};

class CallTest : public ApiFixture {
 public:
  CallTest() { context.ledger = &ledger; }

  // Starts a call on a body; the id and the time of its answer are fixed.
  std::shared_ptr<RecordingWriter> start(const std::string& body, bool chat = true) {
    return ApiFixture::start(
        chat ? chat_dialect() : completions_dialect(), Json::parse(body),
        [](PreparedCall& call) {
          call.spec.id = "id";
          call.spec.route = "/route";
        },
        key);
  }
  std::shared_ptr<RecordingWriter> complete(const std::string& more) {
    return start(R"({"prompt":"ab",)" + more + "}", false);
  }

  FakeLedger ledger;
  const ApiKey* key = nullptr;
};

const char* const kHi = R"({"messages":[{"role":"user","content":"hi"}],"stream":true)";

std::string chat_chunk(const std::string& choice, const std::string& more = "") {
  return R"(data: {"id":"id","object":"chat.completion.chunk","created":5,"model":"m",)"
         R"("system_fingerprint":"fp","choices":[)" +
         choice + "]" + more + "}\n\n";
}

std::string delta(int index, const std::string& members, const std::string& finish = "null") {
  return str(R"({"index":)", index, R"(,"delta":{)", members,
             R"(},"logprobs":null,"finish_reason":)", finish, "}");
}

const char* const kRole = R"("role":"assistant","content":"")";

TEST_F(CallTest, ChatStreamIsRoleContentFinishDone) {
  const auto writer = start(std::string(kHi) + "}");
  ASSERT_EQ(engine.requests.size(), 1u);
  EXPECT_FALSE(writer->answered());  // headers go out with the first token
  step({token(1, "A", true)});
  EXPECT_EQ(writer->bytes, chat_chunk(delta(0, kRole)) + chat_chunk(delta(0, R"("content":"A")")));
  EXPECT_EQ(writer->num_writes, 1);
  EXPECT_EQ(writer->head->content_type, "text/event-stream; charset=utf-8");
  EXPECT_EQ(writer->header("cache-control"), "no-cache");
  EXPECT_EQ(writer->header("x-slipstream-seed"), "7");
  writer->bytes.clear();
  step({token(1, "")});  // held back: nothing to show
  EXPECT_EQ(writer->bytes, "");
  step({last(1, "B\"\n", FinishReason::kStop)});
  EXPECT_EQ(writer->bytes, chat_chunk(delta(0, R"("content":"B\"\n")")) +
                               chat_chunk(delta(0, "", "\"stop\"")) + "data: [DONE]\n\n");
  EXPECT_TRUE(writer->ended);
  EXPECT_EQ(loop.num_timers(), 0u);
}

TEST_F(CallTest, UsageChunkComesLastAndOnlyWhenAsked) {
  const auto writer = start(std::string(kHi) + R"(,"stream_options":{"include_usage":true}})");
  const auto num_prompt = engine.requests[0].prompt_token_ids.size();
  TokenEvent event = token(1, "A", true);
  event.num_cached_tokens = 3;
  step({event});
  EXPECT_NE(writer->bytes.find(R"(],"usage":null})"), std::string::npos);
  writer->bytes.clear();
  step({last(1, "", FinishReason::kLength)});
  const std::string usage =
      str(R"({"prompt_tokens":)", num_prompt, R"(,"completion_tokens":2,"total_tokens":)",
          num_prompt + 2, R"(,"prompt_tokens_details":{"cached_tokens":3},)",
          R"("completion_tokens_details":{"reasoning_tokens":0}})");
  EXPECT_EQ(writer->bytes, chat_chunk(delta(0, "", "\"length\""), R"(,"usage":null)") +
                               chat_chunk("", R"(,"usage":)" + usage) + "data: [DONE]\n\n");
}

TEST_F(CallTest, EveryChoiceHasItsRoleAndItsFinishReasonAndAStepIsOneWrite) {
  const auto writer = start(std::string(kHi) + R"(,"n":2,"seed":9})");
  ASSERT_EQ(engine.requests.size(), 2u);
  EXPECT_EQ(engine.requests[0].sampling.choice_idx, 0u);
  EXPECT_EQ(engine.requests[1].sampling.choice_idx, 1u);
  EXPECT_EQ(engine.requests[1].sampling.seed, 9u);
  step({token(1, "A", true), token(2, "B", true)});
  EXPECT_EQ(writer->num_writes, 1);
  EXPECT_EQ(writer->bytes, chat_chunk(delta(0, kRole)) + chat_chunk(delta(0, R"("content":"A")")) +
                               chat_chunk(delta(1, kRole)) +
                               chat_chunk(delta(1, R"("content":"B")")));
  step({last(2, "", FinishReason::kStop)});
  EXPECT_FALSE(writer->ended);
  writer->bytes.clear();
  step({last(1, "", FinishReason::kLength)});
  EXPECT_EQ(writer->bytes, chat_chunk(delta(0, "", "\"length\"")) + "data: [DONE]\n\n");
}

TEST_F(CallTest, StreamIntervalHoldsTokensButNeitherTheFirstNorTheLast) {
  const auto writer = complete(R"("stream":true,"stream_interval":3)");
  step({token(1, "a", true)});
  EXPECT_NE(writer->bytes.find(R"("text":"a")"), std::string::npos);
  writer->bytes.clear();
  step({token(1, "b")});
  step({token(1, "c")});
  EXPECT_EQ(writer->bytes, "");
  step({token(1, "d")});
  EXPECT_NE(writer->bytes.find(R"("text":"bcd")"), std::string::npos);
  step({last(1, "e", FinishReason::kStop)});
  EXPECT_NE(writer->bytes.find(R"("text":"e","logprobs":null,"finish_reason":"stop")"),
            std::string::npos);
}

TEST_F(CallTest, WholeChatAnswerHasOpenAisFields) {
  const auto writer = start(R"({"messages":[{"role":"user","content":"hi"}]})");
  const auto num_prompt = engine.requests[0].prompt_token_ids.size();
  step({token(1, "A", true)});
  EXPECT_FALSE(writer->answered());
  step({last(1, "é", FinishReason::kStop)});
  ASSERT_TRUE(writer->ended);
  EXPECT_EQ(writer->head->status, 200);
  const Json body = Json::parse(writer->bytes);
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(body["choices"][0]["message"]["content"], "Aé");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(body["usage"]["prompt_tokens"], num_prompt);
  EXPECT_EQ(body["usage"]["completion_tokens"], 2);
  EXPECT_FALSE(body.contains("timings"));
}

TokenEvent with_logprobs(TokenEvent event, float logprob,
                         std::vector<std::pair<int32_t, float>> top) {
  event.has_logprobs = true;
  event.logprobs = {event.token_id, logprob, std::move(top)};
  return event;
}

TEST_F(CallTest, ChatLogprobsCarryTokensBytesAndAlternatives) {
  const auto writer =
      start(R"({"messages":[{"role":"user","content":"hi"}],"logprobs":true,"top_logprobs":2})");
  EXPECT_EQ(engine.requests[0].sampling.logprobs, 2);
  TokenEvent event = with_logprobs(token(1, "A", true), -0.5f, {{'B', -0.25f}, {0xC3, -1e30f}});
  event.finish = FinishReason::kStop;
  step({event});
  const Json content = Json::parse(writer->bytes)["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 1u);
  EXPECT_EQ(content[0]["token"], "A");
  EXPECT_EQ(content[0]["logprob"], -0.5);
  EXPECT_EQ(content[0]["bytes"], Json::array({65}));
  ASSERT_EQ(content[0]["top_logprobs"].size(), 2u);
  // Half a character has a name of its own and its byte.
  EXPECT_EQ(content[0]["top_logprobs"][1]["token"], "bytes:\\xc3");
  EXPECT_EQ(content[0]["top_logprobs"][1]["bytes"], Json::array({195}));
}

TEST_F(CallTest, CompletionLogprobsAddTheSampledTokenAndCountOffsets) {
  const auto writer = complete(R"("logprobs":1)");
  step({with_logprobs(token(1, "A", true), -2.0f, {{'B', -1.0f}})});
  TokenEvent event = with_logprobs(token(1, "B"), -1.0f, {{'B', -1.0f}});
  event.finish = FinishReason::kLength;
  step({event});
  const Json choice = Json::parse(writer->bytes)["choices"][0];
  EXPECT_EQ(choice["text"], "AB");
  EXPECT_EQ(choice["logprobs"]["tokens"], (Json{"A", "B"}));
  EXPECT_EQ(choice["logprobs"]["token_logprobs"], (Json{-2.0, -1.0}));
  EXPECT_EQ(choice["logprobs"]["top_logprobs"][0].size(), 2u);
  EXPECT_EQ(choice["logprobs"]["top_logprobs"][0]["A"], -2.0);
  EXPECT_EQ(choice["logprobs"]["top_logprobs"][1].size(), 1u);
  EXPECT_EQ(choice["logprobs"]["text_offset"], (Json{0, 1}));
}

TEST_F(CallTest, EchoScoresThePromptAsEvaluationHarnessesAskFor) {
  const auto writer = complete(R"("echo":true,"max_tokens":1,"logprobs":1)");
  EXPECT_EQ(engine.requests[0].sampling.prompt_logprobs, 1);
  TokenEvent event = with_logprobs(token(1, "c", true), -1.0f, {{'c', -1.0f}});
  event.prompt_logprobs = {{'b', -3.0f, {{'x', -0.5f}}}};
  event.finish = FinishReason::kLength;
  step({event});
  const Json choice = Json::parse(writer->bytes)["choices"][0];
  EXPECT_EQ(choice["text"], "abc");
  EXPECT_EQ(choice["logprobs"]["tokens"], (Json{"a", "b", "c"}));
  EXPECT_EQ(choice["logprobs"]["token_logprobs"], (Json{nullptr, -3.0, -1.0}));
  EXPECT_TRUE(choice["logprobs"]["top_logprobs"][0].is_null());
  EXPECT_EQ(choice["logprobs"]["top_logprobs"][1]["b"], -3.0);
  EXPECT_EQ(choice["logprobs"]["text_offset"], (Json{0, 1, 2}));
}

TEST_F(CallTest, MaxTokensZeroWithEchoOnlyScores) {
  const auto writer = complete(R"("echo":true,"max_tokens":0)");
  EXPECT_EQ(engine.requests[0].sampling.max_tokens, 0);
  EXPECT_EQ(engine.requests[0].sampling.prompt_logprobs, 0);
  TokenEvent event = last(1, "", FinishReason::kLength);
  event.token_id = -1;
  event.first = true;
  step({event});
  const Json body = Json::parse(writer->bytes);
  EXPECT_EQ(body["choices"][0]["text"], "ab");
  EXPECT_EQ(body["usage"]["completion_tokens"], 0);
}

TEST_F(CallTest, PromptsTimesNChoicesAreInterleavedByPrompt) {
  const auto writer = start(R"({"prompt":["ab","cde"],"n":2})", false);
  ASSERT_EQ(engine.requests.size(), 4u);
  EXPECT_EQ(engine.requests[1].prompt_token_ids.size(), 2u);
  EXPECT_EQ(engine.requests[2].prompt_token_ids.size(), 3u);
  for (RequestId id = 1; id <= 4; ++id) step({last(id, str(id), FinishReason::kStop)});
  const Json body = Json::parse(writer->bytes);
  ASSERT_EQ(body["choices"].size(), 4u);
  EXPECT_EQ(body["choices"][3]["index"], 3);
  EXPECT_EQ(body["choices"][3]["text"], "4");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 5);  // each prompt once
}

TEST_F(CallTest, TokenIdsOfPromptAndAnswerComeWhenAsked) {
  const auto writer = complete(R"("stream":true,"return_token_ids":true)");
  step({token(1, "A", true)});
  EXPECT_NE(writer->bytes.find(R"("token_ids":[65],"prompt_token_ids":[97,98])"),
            std::string::npos);
  step({token(1, "B")});
  EXPECT_NE(writer->bytes.find(R"("token_ids":[66],)"), std::string::npos);
}

TEST_F(CallTest, FailureBeforeTheFirstByteHasItsStatusAndAfterItIsAnEvent) {
  const auto early = start(std::string(kHi) + "}");
  TokenEvent event = last(1, "", FinishReason::kError);
  event.error = "logits are not finite";
  step({event});
  EXPECT_EQ(early->head->status, 500);
  EXPECT_EQ(Json::parse(early->bytes)["error"]["type"], "server_error");

  const auto late = start(std::string(kHi) + "}");
  step({token(2, "A", true)});
  late->bytes.clear();
  event.request = 2;
  step({event});
  EXPECT_EQ(late->bytes.find("data: {\"error\":"), 0u);
  EXPECT_TRUE(late->bytes.ends_with("data: [DONE]\n\n"));
  EXPECT_TRUE(late->ended);
}

TEST_F(CallTest, DeadlineIs504BeforeTheFirstByteAndAnEventAfterIt) {
  const auto early = complete(R"("stream":true)");
  EXPECT_GT(engine.requests[0].deadline_ns, 0);
  step({last(1, "", FinishReason::kDeadline)});
  EXPECT_EQ(early->head->status, 504);
  const auto late = complete(R"("stream":true)");
  step({token(2, "A", true)});
  step({last(2, "", FinishReason::kDeadline)});
  EXPECT_EQ(late->head->status, 200);
  EXPECT_TRUE(late->bytes.ends_with("data: [DONE]\n\n"));
}

TEST_F(CallTest, OneChoiceThatFailsCancelsTheOthers) {
  const auto writer = complete(R"("n":3)");
  step({last(2, "", FinishReason::kError)});
  EXPECT_EQ(writer->head->status, 500);
  EXPECT_EQ(engine.cancelled, (std::vector<RequestId>{1, 3}));
  step({token(1, "late", true)});  // ignored
  EXPECT_EQ(bridge.num_open(), 0);
}

TEST_F(CallTest, ClientThatLeavesCancelsEveryChoiceAndIsAccounted) {
  const auto writer = complete(R"("n":2,"stream":true)");
  step({token(1, "A", true), token(2, "B", true)});
  writer->close(CloseReason::kClientGone);
  EXPECT_EQ(engine.cancelled, (std::vector<RequestId>{1, 2}));
  EXPECT_EQ(bridge.num_open(), 0);
  EXPECT_EQ(loop.num_timers(), 0u);
  ASSERT_EQ(ledger.entries.size(), 1u);
  EXPECT_EQ(ledger.entries[0].finish, "abort");
  EXPECT_EQ(ledger.entries[0].output_tokens, 2);
  const int num_writes = writer->num_writes;
  step({token(1, "C")});
  EXPECT_EQ(writer->num_writes, num_writes);
}

TEST_F(CallTest, ShutdownTellsStreamsAndWaitersApart) {
  const auto waiting = complete(R"("stream":true)");
  const auto streaming = complete(R"("stream":true)");
  step({token(2, "A", true)});
  waiting->close(CloseReason::kShutdown);
  streaming->close(CloseReason::kShutdown);
  EXPECT_EQ(waiting->head->status, 503);
  EXPECT_TRUE(streaming->bytes.ends_with("data: [DONE]\n\n"));
  EXPECT_NE(streaming->bytes.find("data: {\"error\":"), std::string::npos);
  EXPECT_EQ(engine.cancelled.size(), 2u);
}

TEST_F(CallTest, PingsKeepALongPrefillOpenAndStopWhileTokensFlow) {
  const auto writer = complete(R"("stream":true)");
  loop.advance_ms(context.limits.ping_interval_ms);
  EXPECT_EQ(writer->bytes, ": ping\n\n");
  step({token(1, "A", true)});
  writer->bytes.clear();
  loop.advance_ms(context.limits.ping_interval_ms);  // something was sent meanwhile
  EXPECT_EQ(writer->bytes, "");
  loop.advance_ms(context.limits.ping_interval_ms);
  EXPECT_EQ(writer->bytes, ": ping\n\n");
  const auto whole = complete(R"("stream":false)");
  loop.advance_ms(context.limits.ping_interval_ms);
  EXPECT_FALSE(whole->answered());
}

TEST_F(CallTest, FullQueueIs429WithRetryAfterAndBadRequestsAre400) {
  engine.refusal = failed("the queue is full: 3 requests are unfinished");
  const auto full = complete(R"("stream":true)");
  EXPECT_EQ(full->head->status, 429);
  EXPECT_EQ(full->header("retry-after"), "1");
  engine.refusal = bad_usage("stop_token_ids names token 900; the model has tokens 0 to 99");
  const auto bad = complete(R"("stream":true)");
  EXPECT_EQ(bad->head->status, 400);
  EXPECT_EQ(Json::parse(bad->bytes)["error"]["param"], "stop_token_ids");
}

TEST_F(CallTest, AccountingComesBeforeTheLastBytesAndABrokenLedgerStopsNothing) {
  const auto writer = complete(R"("stream":true)");
  step({token(1, "A", true)});
  step({last(1, "B", FinishReason::kStop)});
  ASSERT_EQ(ledger.entries.size(), 1u);
  const LedgerEntry& entry = ledger.entries[0];
  EXPECT_EQ(entry.request_id, "r");
  EXPECT_EQ(entry.route, "/route");
  EXPECT_EQ(entry.model, "m");
  EXPECT_EQ(entry.input_tokens, 2);
  EXPECT_EQ(entry.output_tokens, 2);
  EXPECT_EQ(entry.finish, "stop");
  ledger.broken = true;
  const auto other = complete(R"("stream":true)");
  step({last(2, "B", FinishReason::kStop)});
  EXPECT_TRUE(other->ended);
  EXPECT_NE(metrics.text().find("slipstream:ledger_failures_total 1"), std::string::npos);
}

TEST_F(CallTest, KeysDoNotShareCachedPrefixesUnlessTheServerSaysSo) {
  ApiKey first;
  first.hash[0] = 1;
  ApiKey second;
  second.hash[0] = 2;
  for (const ApiKey* who : {&first, &first, &second}) {
    key = who;
    complete(R"("cache_salt":"s")");
  }
  EXPECT_EQ(engine.requests[0].cache_salt, engine.requests[1].cache_salt);
  EXPECT_NE(engine.requests[0].cache_salt, engine.requests[2].cache_salt);
  context.share_prefix_cache = true;
  complete(R"("cache_salt":"s")");
  EXPECT_EQ(engine.requests[3].cache_salt, "s");
}

TEST_F(CallTest, DefaultLengthGivesWayToALongPrompt) {
  engine.model_.max_model_len = 10;
  start(R"({"prompt":"abcdefg"})", false);
  EXPECT_EQ(engine.requests[0].sampling.max_tokens, 3);
}

TEST_F(CallTest, TimingsSayTheShareOfTheRoof) {
  const auto writer = complete(R"("stream":true,"timings":true)");
  step({token(1, "A", true)});
  TokenEvent event = last(1, "B", FinishReason::kStop);
  event.time_ns = 3'000'000;  // one token in 1 ms: 1,000 tok/s; the roof is 10 GB/s over 1 MB
  step({event});
  const size_t at = writer->bytes.find(R"("timings":)");
  ASSERT_NE(at, std::string::npos);
  const std::string rest = writer->bytes.substr(at + 10);
  const Json timings = Json::parse(rest.substr(0, rest.find('}') + 1));
  EXPECT_DOUBLE_EQ(timings["predicted_per_second"].get<double>(), 1000.0);
  EXPECT_DOUBLE_EQ(timings["roof_fraction"].get<double>(), 0.1);
  EXPECT_DOUBLE_EQ(timings["ttft_ms"].get<double>(), 1.5);
  EXPECT_EQ(timings["predicted_n"], 2);
  EXPECT_EQ(timings["executor"], "eager");
}

TEST_F(CallTest, TimingsNameTheGearThatMadeMostTokens) {
  engine.model_.latency_executor = "megakernel";
  const auto writer = complete(R"("stream":true,"timings":true)");
  step({token(1, "A", true)});
  for (const char* text : {"B", "C"}) {
    TokenEvent event = token(1, text);
    event.of_run = true;
    step({event});
  }
  step({last(1, "D", FinishReason::kStop)});
  EXPECT_EQ(writer->bytes.find(R"("executor":"megakernel")"), std::string::npos);
  const auto other = complete(R"("stream":true,"timings":true)");
  step({token(2, "A", true)});
  for (const char* text : {"B", "C"}) {
    TokenEvent event = token(2, text);
    event.of_run = true;
    step({event});
  }
  TokenEvent event = last(2, "D", FinishReason::kStop);
  event.of_run = true;
  step({event});
  EXPECT_NE(other->bytes.find(R"("executor":"megakernel")"), std::string::npos);
}

}  // namespace
}  // namespace slipstream

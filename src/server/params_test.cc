// The rows of the parameter table: ranges, types, nulls, and fields that must agree with others.
#include "server/params.h"

#include <gtest/gtest.h>

#include <set>

#include "server/api_test_util.h"

namespace slipstream {
namespace {

class ParamsTest : public ApiFixture {
 public:
  ApiResult<ParsedParams> parse(const std::string& members, ApiEndpoint endpoint = kChatApi) {
    bodies_.push_back(Json::parse("{" + members + "}"));
    return table.parse(bodies_.back(), endpoint, param_env());
  }
  CallSpec spec(const std::string& members, ApiEndpoint endpoint = kChatApi) {
    const ApiResult<ParsedParams> parsed = parse(members, endpoint);
    EXPECT_TRUE(parsed.ok()) << members << ": " << parsed.error().message;
    return parsed.ok() ? parsed->spec : CallSpec();
  }
  void expect_400(const std::string& members, const std::string& param,
                  ApiEndpoint endpoint = kChatApi) {
    const ApiResult<ParsedParams> parsed = parse(members, endpoint);
    ASSERT_FALSE(parsed.ok()) << members;
    EXPECT_EQ(parsed.error().status, 400) << members;
    EXPECT_EQ(parsed.error().param, param) << members;
    EXPECT_FALSE(parsed.error().message.empty());
  }
  // The same value refused under one name.
  void expect_all_400(const std::string& name, std::initializer_list<const char*> values,
                      ApiEndpoint endpoint = kChatApi) {
    for (const char* value : values) {
      expect_400(str("\"", name, "\":", value), name, endpoint);
    }
  }

 private:
  std::deque<Json> bodies_;  // what was parsed points into them
};

TEST_F(ParamsTest, P1CountsOfAnswersAreBetweenOneAndTheCap) {
  expect_all_400("n", {"0", "-1", "129", "2147483648", "18446744073709551616", "1.5", "\"3\""});
  expect_all_400("best_of", {"0", "-1", "129", "1e3", "\"3\""}, kCompletionsApi);
  EXPECT_EQ(spec(R"("n":128)").n, 128);
  expect_400(R"("n":2,"best_of":3)", "best_of", kCompletionsApi);
  EXPECT_EQ(spec(R"("n":2,"best_of":2)", kCompletionsApi).n, 2);
}

TEST_F(ParamsTest, P2LengthsAreCheckedAndTheTwoNamesMustAgree) {
  expect_all_400("max_tokens", {"0", "-1", "9223372036854775808", "1.5", "\"5\"", "2147483648"});
  expect_all_400("max_completion_tokens", {"0", "-1"});
  expect_400(R"("max_tokens":5,"max_completion_tokens":6)", "max_tokens");
  EXPECT_EQ(spec(R"("max_tokens":5,"max_completion_tokens":5)").sampling.max_tokens, 5);
  EXPECT_EQ(spec(R"("max_completion_tokens":6)").sampling.max_tokens, 6);
  EXPECT_FALSE(spec("").sampling.max_tokens);
  EXPECT_EQ(spec("", kCompletionsApi).sampling.max_tokens, 16);
  EXPECT_EQ(spec(R"("max_tokens":0,"echo":true)", kCompletionsApi).sampling.max_tokens, 0);
}

TEST_F(ParamsTest, P2PromptAndAnswerMustFitTheContext) {
  CallSpec call = spec(R"("max_tokens":901)");
  call.prompts = {std::vector<int32_t>(100, 1)};
  const auto error = check_lengths(call, param_env(), "messages");
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code, "context_length_exceeded");
  EXPECT_EQ(error->param, "max_tokens");
  for (const char* number : {"1000", "100", "901"}) {
    EXPECT_NE(error->message.find(number), std::string::npos) << error->message;
  }
  call.sampling.max_tokens = 900;
  EXPECT_FALSE(check_lengths(call, param_env(), "messages"));
  call.sampling.max_tokens = INT64_MAX;
  EXPECT_TRUE(check_lengths(call, param_env(), "messages"));
  CallSpec open = spec("");  // no length asked for: what is left
  open.prompts = {std::vector<int32_t>(999, 1)};
  EXPECT_FALSE(check_lengths(open, param_env(), "messages"));
  open.prompts = {std::vector<int32_t>(1000, 1)};
  ASSERT_TRUE(check_lengths(open, param_env(), "messages"));
  EXPECT_EQ(check_lengths(open, param_env(), "messages")->param, "messages");
}

TEST_F(ParamsTest, PromptsTimesAnswersAreBounded) {
  CallSpec call = spec(R"("n":128)", kCompletionsApi);
  call.prompts.assign(3, {1});
  const auto error = check_lengths(call, param_env(), "prompt");
  ASSERT_TRUE(error);
  EXPECT_EQ(error->param, "n");
}

TEST_F(ParamsTest, P3FewestTokensStayBelowMost) {
  expect_400(R"("min_tokens":6,"max_tokens":5)", "min_tokens");
  expect_all_400("min_tokens", {"-1", "1.5"});
  EXPECT_EQ(spec(R"("min_tokens":20)", kCompletionsApi).sampling.max_tokens, 20);
  CallSpec call = spec(R"("min_tokens":950)");  // with no max_tokens: what the context leaves
  call.prompts = {std::vector<int32_t>(100, 1)};
  const auto error = check_lengths(call, param_env(), "messages");
  ASSERT_TRUE(error);
  EXPECT_EQ(error->param, "min_tokens");
}

TEST_F(ParamsTest, P4SharesAndTemperatureHaveRanges) {
  expect_all_400("temperature", {"-0.1", "1e30", "\"0.7\"", "true", "[]"});
  expect_all_400("top_p", {"-0.1", "1.1", "\"1\""});
  expect_all_400("min_p", {"-0.1", "1.1"});
  EXPECT_EQ(spec(R"("temperature":-0.0)").sampling.temperature, 0.0f);
  EXPECT_EQ(spec(R"("temperature":1)").sampling.temperature, 1.0f);
  EXPECT_GE(spec(R"("temperature":1e-45)").sampling.temperature, 0.0f);
  EXPECT_GT(spec(R"("top_p":0)").sampling.top_p, 0.0f);
}

TEST_F(ParamsTest, P5TopKOfMinusOneAndZeroKeepAll) {
  expect_all_400("top_k", {"-2", "2147483648", "1.5"});
  EXPECT_EQ(spec(R"("top_k":-1)").sampling.top_k, 0);
  EXPECT_EQ(spec(R"("top_k":0)").sampling.top_k, 0);
  EXPECT_EQ(spec(R"("top_k":100000)").sampling.top_k, 100000);
}

TEST_F(ParamsTest, P6PenaltiesHaveRanges) {
  expect_all_400("presence_penalty", {"1e30", "-1e30", "2.1"});
  expect_all_400("frequency_penalty", {"1e30", "-2.1"});
  expect_all_400("repetition_penalty", {"0", "-1", "1e30"});
}

TEST_F(ParamsTest, P8LogitBiasNamesTokensOfTheModel) {
  expect_all_400("logit_bias",
                 {R"({"260":1})", R"({"-1":1})", R"({"4294967296":1})", R"({"x":1})", R"({"1x":1})",
                  R"({"":1})", R"({"1":101})", R"({"1":-101})", R"({"1":"5"})", R"({"1":true})",
                  "5", R"("a")", "[[1]]", "[[1,2,3]]", R"([["a",1]])", "[5]"});
  const SamplingParams object = spec(R"("logit_bias":{"5":-100,"6":2.5})").sampling;
  ASSERT_EQ(object.logit_bias.size(), 2u);
  EXPECT_EQ(object.logit_bias[1], (std::pair<int32_t, float>(6, 2.5f)));
  const SamplingParams pairs = spec(R"("logit_bias":[[5,1],[6,false]])").sampling;
  EXPECT_EQ(pairs.logit_bias.size(), 1u);
  EXPECT_EQ(pairs.bad_token_ids, (std::vector<std::vector<int32_t>>{{6}}));
  Json many = Json::object();
  for (int id = 0; id < 1025; ++id) many[std::to_string(id)] = 1;
  expect_400("\"logit_bias\":" + dump_json(many), "logit_bias");
}

TEST_F(ParamsTest, P9TokenIdsAreWithinTheLogits) {
  for (const char* name : {"stop_token_ids", "allowed_token_ids"}) {
    expect_all_400(name, {"[260]", "[-1]", "[4294967296]", "[1.5]", R"(["a"])", "5", "[null]"});
  }
  EXPECT_EQ(spec(R"("stop_token_ids":[259])").sampling.stop_token_ids, (std::vector<int32_t>{259}));
  expect_all_400("bad_words", {"[5]", R"([""])", R"("a")"});
  EXPECT_EQ(spec(R"("bad_words":["ab"])").sampling.bad_token_ids,
            (std::vector<std::vector<int32_t>>{{'a', 'b'}, {' ', 'a', 'b'}}));
}

TEST_F(ParamsTest, P10StopStringsAreFewShortAndNotEmpty) {
  expect_all_400("stop", {R"("")", R"(["a",""])", "[5]", "5", R"({"a":1})", "[null]"});
  EXPECT_EQ(spec(R"("stop":"x")").sampling.stop, (std::vector<std::string>{"x"}));
  EXPECT_EQ(spec(R"("stop":["a","ab","</s>"])").sampling.stop.size(), 3u);
  Json stops = Json::array();
  for (int idx = 0; idx < 10'000; ++idx) stops.push_back("s");
  expect_400("\"stop\":" + dump_json(stops), "stop");
  expect_400("\"stop\":\"" + std::string(1 << 20, 'a') + "\"", "stop");
}

TEST_F(ParamsTest, P11LogprobsAreAtMostTwenty) {
  expect_all_400("logprobs", {"21", "-1", "1.5", "\"1\""}, kCompletionsApi);
  expect_all_400("logprobs", {"1", "\"true\""});
  expect_all_400("prompt_logprobs", {"21", "-1"});
  expect_400(R"("logprobs":true,"top_logprobs":21)", "top_logprobs");
  expect_400(R"("top_logprobs":2)", "top_logprobs");
  EXPECT_EQ(spec(R"("logprobs":true,"top_logprobs":0)").sampling.logprobs, 0);
  EXPECT_FALSE(spec(R"("logprobs":false)").sampling.logprobs);
  EXPECT_EQ(spec(R"("logprobs":0)", kCompletionsApi).sampling.logprobs, 0);
}

TEST_F(ParamsTest, P12SeedsAreSigned64BitNumbers) {
  expect_all_400("seed", {"18446744073709551616", "9223372036854775808", "1.5", "\"1\""});
  EXPECT_EQ(spec(R"("seed":-1)").sampling.seed, UINT64_MAX);
  EXPECT_EQ(spec(R"("seed":9223372036854775807)").sampling.seed, uint64_t{INT64_MAX});
}

TEST_F(ParamsTest, P16P15FormatsAndToolsThatAreNotServedAreRefused) {
  EXPECT_EQ(spec(R"("response_format":{"type":"text"},"tools":[],"tool_choice":"none")").n, 1);
  for (const char* format :
       {R"({"type":"json_object"})", R"({"type":"json_schema","json_schema":{}})",
        R"({"type":"x"})", "{}"}) {
    expect_400(str("\"response_format\":", format), "response_format.type");
  }
  expect_400(R"("response_format":5)", "response_format");
  expect_all_400("tools", {R"([{"type":"function"}])", "5"});
  expect_all_400("tool_choice", {R"("required")", R"({"type":"function"})"});
  for (const char* name : {"guided_json", "grammar", "structured_outputs", "chat_template"}) {
    expect_400(str("\"", name, "\":\"x\""), name);
  }
  expect_400(R"("suffix":"x")", "suffix", kCompletionsApi);
  expect_400(R"("chat_template_kwargs":{"a":1})", "chat_template_kwargs");  // T7
}

TEST_F(ParamsTest, T7TemplateVariablesNeedTheServersLeaveAndReplaceNoneOfItsOwn) {
  context.allow_template_kwargs = true;
  EXPECT_EQ(spec(R"("chat_template_kwargs":{"enable_thinking":false})").prompt.template_kwargs,
            R"({"enable_thinking":false})");
  for (const char* name : {"messages", "tools", "bos_token", "add_generation_prompt"}) {
    expect_400(str("\"chat_template_kwargs\":{\"", name, "\":1}"), "chat_template_kwargs");
  }
}

TEST_F(ParamsTest, P17ModelsThatAreNotServedAre404) {
  for (const char* name : {"\"gpt-4\"", "\"\"", "\"../m\"", "\"/etc/passwd\""}) {
    const ApiResult<ParsedParams> parsed = parse(str("\"model\":", name));
    ASSERT_FALSE(parsed.ok());
    EXPECT_EQ(parsed.error().status, 404);
    EXPECT_EQ(parsed.error().code, "model_not_found");
  }
  EXPECT_EQ(spec(R"("model":"alias")").model, "alias");
  expect_400(R"("model":5)", "model");
}

TEST_F(ParamsTest, P18StreamOptionsNeedAStream) {
  expect_400(R"("stream_options":{"include_usage":true})", "stream_options");
  expect_400(R"("stream":true,"stream_options":5)", "stream_options");
  expect_400(R"("stream":true,"stream_options":{"include_usage":1})",
             "stream_options.include_usage");
  const CallSpec call = spec(
      R"("stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":null})");
  EXPECT_TRUE(call.include_usage);
  EXPECT_FALSE(call.continuous_usage);
}

TEST_F(ParamsTest, P20LabelsAreShortAndPlain) {
  for (const char* name : {"user", "cache_salt"}) {
    expect_400(str("\"", name, "\":\"", std::string(257, 'a'), "\""), name);
    expect_all_400(name, {R"("a\nb")", R"("\u0000")", "5", "{}"});
  }
  EXPECT_EQ(spec(R"("cache_salt":"é")").cache_salt, "é");
  Json metadata = Json::object();
  for (int idx = 0; idx < 17; ++idx) metadata[str("k", idx)] = "v";
  expect_400("\"metadata\":" + dump_json(metadata), "metadata");
  expect_all_400("metadata", {R"({"a":5})", "5", "[]"});
}

TEST_F(ParamsTest, P22DeadlinesAreMillisecondsWithinADay) {
  EXPECT_EQ(parse_deadline_ms("").value(), 0);
  EXPECT_EQ(parse_deadline_ms("1500").value(), 1500);
  for (const char* bad : {"0", "-5", "1000000000000", "1.5", "x", "5 ", "99999999999999999999"}) {
    const ApiResult<int64_t> parsed = parse_deadline_ms(bad);
    ASSERT_FALSE(parsed.ok()) << bad;
    EXPECT_EQ(parsed.error().param, "x-request-timeout-ms");
  }
}

TEST_F(ParamsTest, NullIsAbsentInEveryField) {
  for (const ApiEndpoint endpoint : {kChatApi, kCompletionsApi}) {
    std::string members;
    for (const ParamRow& row : table.rows()) {
      if ((row.endpoints & endpoint) == 0) continue;
      members += str(members.empty() ? "" : ",", "\"", row.name, "\":null");
    }
    const CallSpec call = spec(members, endpoint);
    EXPECT_EQ(call.num_unknown_fields, 0);
    EXPECT_EQ(call.n, 1);
  }
}

TEST_F(ParamsTest, H17WrongTypesAre400AndNameTheField) {
  for (const ApiEndpoint endpoint : {kChatApi, kCompletionsApi}) {
    for (const ParamRow& row : table.rows()) {
      if ((row.endpoints & endpoint) == 0) continue;
      if (row.name == "messages" || row.name == "prompt") continue;  // prompt.h's
      const bool wants_object = row.schema.contains("type") && row.schema["type"] == "object";
      const ApiResult<ParsedParams> parsed =
          parse(str("\"", row.name, "\":", wants_object ? "true" : R"({"a":{}})"), endpoint);
      ASSERT_FALSE(parsed.ok()) << row.name;
      EXPECT_EQ(parsed.error().status, 400) << row.name;
      EXPECT_EQ(parsed.error().param, row.name);
    }
  }
}

TEST_F(ParamsTest, UnknownFieldsAreIgnoredAndCounted) {
  const CallSpec call = spec(R"("frobnicate":{"a":[1]},"echo":true,"stream":true)");
  EXPECT_EQ(call.num_unknown_fields, 2);  // echo belongs to completions
  EXPECT_TRUE(call.stream);
}

TEST_F(ParamsTest, DefaultsAreTheModels) {
  engine.model_.default_sampling.temperature = 0.25f;
  EXPECT_EQ(spec("").sampling.temperature, 0.25f);
  EXPECT_EQ(spec(R"("temperature":null)").sampling.temperature, 0.25f);
  EXPECT_FALSE(spec("").prompt.add_special_tokens);
  EXPECT_TRUE(spec("", kCompletionsApi).prompt.add_special_tokens);
}

TEST_F(ParamsTest, H15H16BodiesThatAreNoStrictJsonAre400) {
  const ServerLimits limits;
  std::string deep(129, '[');
  deep += std::string(129, ']');
  std::string wide = "[0";
  for (int idx = 0; idx < 1'000'001; ++idx) wide += ",0";
  wide += "]";
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("{\"a\":1,}"), std::string("{\"a\":NaN}"),
        std::string("{\"a\":1e999}"), std::string("\xEF\xBB\xBF{}"),
        std::string("{\"a\":1,\"a\":2}"), std::string("{/**/}"), std::string("{\"a\":\"\\ud800\"}"),
        std::string("{\"a\":\"\xC0\xAF\"}"), deep, wide, std::string(1'000'000, '['),
        "[1" + std::string(1000, '0') + "e400]"}) {
    const ApiResult<Json> parsed = parse_body(body, limits);
    ASSERT_FALSE(parsed.ok()) << body.substr(0, 40);
    EXPECT_EQ(parsed.error().status, 400);
  }
  std::string crowded = "{\"k\":0";
  for (int idx = 0; idx < 100'000; ++idx) crowded += str(",\"", idx, "\":0");
  EXPECT_EQ(parse_body(crowded + "}", limits).error().status, 400);
  // Commas in text are no values; U+0000 is a character.
  EXPECT_TRUE(parse_body("{\"a\":\"" + std::string(1'100'000, ',') + "\\u0000\"}", limits).ok());
  const Json list = Json::array();
  EXPECT_EQ(table.parse(list, kChatApi, param_env()).error().status, 400);
}

TEST_F(ParamsTest, EveryRowHasADocumentedSchemaAndNamesAreUniquePerEndpoint) {
  for (const ApiEndpoint endpoint : {kChatApi, kCompletionsApi}) {
    std::set<std::string> names;
    for (const ParamRow& row : table.rows()) {
      EXPECT_FALSE(row.doc.empty()) << row.name;
      EXPECT_FALSE(row.group.empty()) << row.name;
      if ((row.endpoints & endpoint) != 0) {
        EXPECT_TRUE(names.insert(row.name).second) << row.name;
      }
    }
    EXPECT_EQ(table.schema(endpoint)["properties"].size(), names.size());
  }
}

}  // namespace
}  // namespace slipstream

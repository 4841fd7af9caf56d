// The routes that do not generate, through their handlers; and what the tables say about the API.
#include "server/api_routes.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "metrics/metrics_lint_for_test.h"
#include "server/api_test_util.h"
#include "server/ledger.h"
#include "server/openapi.h"

namespace slipstream {
namespace {

class FakeLedger final : public Ledger {
 public:
  Status record(std::span<const LedgerEntry>) override { return {}; }
  Result<std::vector<UsageRow>> usage(const UsageQuery& query) override {
    asked = query;
    return std::vector<UsageRow>{{"k", "m", 2, 10, 4, 30}};
  }
  UsageQuery asked;
};

class ApiRoutesTest : public ApiFixture {
 public:
  ApiRoutesTest() : routes(api_routes(context)) {}

  struct Reply {
    int status = 0;
    Json body;
    std::string text;
  };
  Reply call(const std::string& method, const std::string& path, const std::string& body = "",
             HttpRequest request = {}) {
    auto writer = std::make_shared<RecordingWriter>();
    for (const Route& route : routes) {
      if (route.method != method || route.path != path) continue;
      request.body = body;
      route.handler(request, writer);
      loop.run();
    }
    Reply reply;
    EXPECT_TRUE(writer->answered()) << method << " " << path;
    if (!writer->answered()) return reply;
    reply.status = writer->head->status;
    reply.text = writer->bytes;
    if (writer->head->content_type == "application/json") reply.body = Json::parse(writer->bytes);
    return reply;
  }

  std::vector<Route> routes;
};

TEST_F(ApiRoutesTest, ModelsListEveryNameAndUnknownIdsAre404) {
  const Reply list = call("GET", "/v1/models");
  EXPECT_EQ(list.body["object"], "list");
  ASSERT_EQ(list.body["data"].size(), 2u);
  EXPECT_EQ(list.body["data"][0]["id"], "m");
  EXPECT_EQ(list.body["data"][1]["root"], "m");
  EXPECT_EQ(list.body["data"][0]["max_model_len"], 1000);
  HttpRequest request;
  request.path_tail = "alias";
  EXPECT_EQ(call("GET", "/v1/models/{id}", "", request).body["id"], "alias");
  request.path_tail = "other";
  const Reply missing = call("GET", "/v1/models/{id}", "", request);
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(missing.body["error"]["code"], "model_not_found");
}

TEST_F(ApiRoutesTest, TokenizeAnswersInTheShapeOfTheQuestion) {
  const Reply vllm = call("POST", "/tokenize", R"({"prompt":"ab","return_token_strs":true})");
  EXPECT_EQ(vllm.body["tokens"], (Json{97, 98}));
  EXPECT_EQ(vllm.body["count"], 2);
  EXPECT_EQ(vllm.body["max_model_len"], 1000);
  EXPECT_EQ(vllm.body["token_strs"], (Json{"a", "b"}));
  const Reply chat =
      call("POST", "/tokenize", R"({"messages":[{"role":"user","content":"<|im_end|>"}]})");
  const auto ids = chat.body["tokens"].get<std::vector<int32_t>>();
  EXPECT_EQ(std::count(ids.begin(), ids.end(), kImEnd), 1);
  const Reply llama =
      call("POST", "/tokenize", R"({"content":"a<|im_end|>","parse_special":false})");
  EXPECT_EQ(llama.body["tokens"].size(), 11u);
  EXPECT_EQ(call("POST", "/tokenize", R"({"content":"a<|im_end|>"})").body["tokens"],
            (Json{97, 257}));
  const Reply pieces = call("POST", "/tokenize", R"({"content":"a","with_pieces":true})");
  EXPECT_EQ(pieces.body["tokens"][0], (Json{{"id", 97}, {"piece", "a"}}));
  for (const char* bad : {"{}", "[]", R"({"prompt":5})", R"({"content":5})",
                          R"({"prompt":"a","add_special_tokens":5})", "", "{"}) {
    EXPECT_EQ(call("POST", "/tokenize", bad).status, 400) << bad;
  }
}

TEST_F(ApiRoutesTest, DetokenizeTakesIdsOfTheModelOnly) {
  EXPECT_EQ(call("POST", "/detokenize", R"({"tokens":[97,257]})").body["prompt"], "a<|im_end|>");
  for (const char* bad : {R"({"tokens":[260]})", R"({"tokens":[-1]})", R"({"tokens":["a"]})",
                          R"({"tokens":5})", "{}", R"({"tokens":[18446744073709551615]})"}) {
    EXPECT_EQ(call("POST", "/detokenize", bad).status, 400) << bad;
  }
}

TEST_F(ApiRoutesTest, ApplyTemplateShowsWhatTheModelSees) {
  EXPECT_EQ(call("POST", "/apply-template", R"({"messages":[{"role":"user","content":"a"}]})")
                .body["prompt"],
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(call("POST", "/apply-template", "{}").status, 400);
}

TEST_F(ApiRoutesTest, TokenizerInfoNamesSpecialTokens) {
  const Reply info = call("GET", "/tokenizer_info");
  EXPECT_TRUE(info.body.contains("eos_token"));
  EXPECT_TRUE(info.body.contains("chat_template"));
}

TEST_F(ApiRoutesTest, UsageIsTheCallersOwnWithItsPrice) {
  FakeLedger ledger;
  context.ledger = &ledger;
  context.price_per_million_tokens = 2.0;
  ApiKey key;
  key.label = "k";
  HttpRequest request;
  request.key = &key;
  request.query = "from=1000&to=2026-01-02";
  const Reply reply = call("GET", "/usage", "", request);
  EXPECT_EQ(ledger.asked.key_label, "k");
  EXPECT_TRUE(ledger.asked.only_key);
  EXPECT_EQ(ledger.asked.from_unix_ms, 1'000'000);
  EXPECT_EQ(ledger.asked.to_unix_ms, 1'767'312'000'000);
  EXPECT_EQ(reply.body["total"]["total_tokens"], 40);
  EXPECT_DOUBLE_EQ(reply.body["total"]["price"].get<double>(), 40 * 2.0 / 1e6);
  request.query = "from=yesterday";
  EXPECT_EQ(call("GET", "/usage", "", request).status, 400);
  context.ledger = nullptr;
  EXPECT_EQ(call("GET", "/usage").status, 404);
}

TEST_F(ApiRoutesTest, MetricsPassTheLintAndCarryVllmsNames) {
  metrics.count_http({"/v1/models", "GET", 200, 0.001, 0, 100});
  metrics.count_http({"/v1/models", "GET", 404, 0.001, 0, 100});
  engine.engine_stats.num_running = 3;
  engine.engine_stats.num_prompt_tokens = 42;
  const Reply reply = call("GET", "/metrics");
  const MetricsLint lint(reply.text);
  EXPECT_TRUE(lint.problems().empty()) << lint.problems().front();
  EXPECT_EQ(lint.value("vllm:num_requests_running", {{"model_name", "m"}, {"engine", "0"}}), 3);
  EXPECT_EQ(lint.value("vllm:prompt_tokens_total"), 42);
  EXPECT_EQ(lint.value("http_requests_total", {{"handler", "/v1/models"}, {"status", "4xx"}}), 1);
  EXPECT_EQ(lint.value("slipstream:roof_tokens_per_second"), 10'000);
  for (const char* name :
       {"vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds",
        "vllm:request_time_per_output_token_seconds", "vllm:e2e_request_latency_seconds",
        "vllm:request_queue_time_seconds", "vllm:request_prefill_time_seconds",
        "vllm:request_decode_time_seconds", "vllm:request_inference_time_seconds",
        "vllm:request_prompt_tokens", "vllm:request_generation_tokens",
        "vllm:iteration_tokens_total", "http_request_duration_seconds"}) {
    EXPECT_EQ(lint.types().count(name), 1u) << name;
  }
  for (const char* bound : {"0.001", "0.0025", "0.005", "0.0075"}) {
    EXPECT_FALSE(std::isnan(lint.value("vllm:inter_token_latency_seconds_bucket", {{"le", bound}})))
        << bound;
  }
}

TEST_F(ApiRoutesTest, DescriptionNamesEveryRouteAndEveryField) {
  const Json document = call("GET", "/openapi.json").body;
  for (const Route& route : routes) {
    EXPECT_TRUE(document["paths"].contains(route.path)) << route.path;
  }
  const Json& chat = document["components"]["schemas"]["ChatCompletionRequest"]["properties"];
  EXPECT_EQ(chat["temperature"]["minimum"], 0.0);
  EXPECT_EQ(chat["n"]["maximum"], context.limits.max_n);
  EXPECT_TRUE(chat["top_k"]["x-group"].is_string());
}

TEST(ApiDocument, PageIsWhatTheTablesSay) {
  std::ifstream file(SLIPSTREAM_SOURCE_DIR "/docs/api.md");
  std::stringstream page;
  page << file.rdbuf();
  EXPECT_TRUE(page.str() == api_markdown())
      << "docs/api.md is not what the tables say; run: slipstream openapi --markdown > docs/api.md";
}

}  // namespace
}  // namespace slipstream

// Prompts and arrivals: the same seed gives the same load, lengths and shares are exact, and a bad
// line of a file is named.
#include "bench/load_prompts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/strings.h"
#include "base/temp_folder_for_test.h"
#include "bench/arrivals.h"
#include "bench/serve.h"
#include "bench/serve_requests.h"

namespace slipstream {
namespace {

std::vector<LoadPrompt> prompts_of(const PromptOptions& options, size_t count, uint64_t seed) {
  TokenCounter counter({}, "m");  // not asked
  auto prompts =
      make_load_prompts(options, std::vector<PromptLengths>(count, {100, 7}), seed, counter);
  EXPECT_TRUE(prompts.ok()) << prompts.status().message();
  return prompts.ok() ? prompts.value() : std::vector<LoadPrompt>();
}

TEST(LoadPrompts, IdsHaveTheirLengthAndTheirShare) {
  PromptOptions options;
  options.vocab_size = 1000;
  for (const double share : {0.0, 0.5, 0.9}) {
    options.prefix_share = share;
    const auto prompts = prompts_of(options, 8, 3);
    ASSERT_EQ(prompts.size(), 8u);
    for (const LoadPrompt& prompt : prompts) {
      EXPECT_EQ(prompt.ids.size(), 100u);
      EXPECT_EQ(prompt.output_len, 7);
      const auto first_differing =
          std::mismatch(prompt.ids.begin(), prompt.ids.end(), prompts[0].ids.begin()).first -
          prompt.ids.begin();
      if (&prompt == &prompts[0]) continue;
      EXPECT_GE(first_differing, std::lround(share * 100));
      EXPECT_LE(first_differing, std::lround(share * 100) + 3);  // chance
    }
  }
  EXPECT_EQ(prompts_of(options, 2, 3)[1].ids, prompts_of(options, 2, 3)[1].ids);
  EXPECT_NE(prompts_of(options, 2, 3)[1].ids, prompts_of(options, 2, 4)[1].ids);
}

TEST(LoadPrompts, FilesAreReadAndBadLinesNamed) {
  const TempFolder folder;
  PromptOptions options;
  options.source = PromptSource::kGsm8k;
  options.path = folder.write("a.jsonl", "{\"question\":\"q1\"}\n{\"question\":\"q2\"}\n");
  const auto prompts = prompts_of(options, 5, 1);
  ASSERT_EQ(prompts.size(), 5u) << "over again when there are too few";
  EXPECT_EQ(prompts[0].turns, prompts[2].turns);
  EXPECT_NE(prompts[0].turns, prompts[1].turns);
  options.source = PromptSource::kMtBench;
  options.path = folder.write("b.jsonl", "{\"turns\":[\"one\",\"two\"]}\n");
  EXPECT_EQ(prompts_of(options, 1, 1)[0].turns, (std::vector<std::string>{"one", "two"}));
  options.path = folder.write("c.jsonl", "{\"turns\":[\"one\"]}\n\n{\"turns\":[]}\n");
  TokenCounter counter({}, "m");
  const auto bad = make_load_prompts(options, {{1, 1}}, 1, counter);
  ASSERT_FALSE(bad.ok());
  EXPECT_NE(bad.status().message().find("c.jsonl:2: "), std::string::npos)
      << bad.status().message();
}

TEST(ServeRequests, LaterTurnsRepeatWhatWasSaid) {
  std::vector<LoadPrompt> prompts(1);
  prompts[0].turns = {"one", "two"};
  prompts[0].output_len = 5;
  const RequestShape shape{.model = "m", .is_chat = true, .extra_body = Json{{"top_k", 1}}};
  const ServeRequests requests(shape, prompts, {0}, 1);
  EXPECT_EQ(requests.sessions().at(0).num_turns, 2);
  const Json body = parse_json(requests.next_body(0, {"answer"}), "body").value();
  ASSERT_EQ(body.at("messages").size(), 3u);
  EXPECT_EQ(body.at("messages")[1].at("content"), "answer");
  EXPECT_EQ(body.at("messages")[2].at("content"), "two");
  EXPECT_EQ(body.at("max_tokens"), 5);
  EXPECT_EQ(body.at("top_k"), 1);
  EXPECT_EQ(body.at("stream"), true);
}

TEST(Arrivals, RatesAreMetAndSeedsAreKept) {
  constexpr int64_t kNum = 20'000;
  for (const ArrivalKind kind :
       {ArrivalKind::kConstant, ArrivalKind::kPoisson, ArrivalKind::kBursts}) {
    const Arrivals arrivals{.kind = kind, .rate = 50.0, .burst_size = 20};
    const auto times = arrival_times_ns(arrivals, kNum, 9);
    EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
    EXPECT_EQ(times.front(), 0);
    EXPECT_NEAR(static_cast<double>(kNum) / (static_cast<double>(times.back()) * 1e-9), 50.0, 1.0);
    EXPECT_EQ(times, arrival_times_ns(arrivals, kNum, 9));
  }
  const auto poisson = arrival_times_ns({.kind = ArrivalKind::kPoisson, .rate = 50.0}, kNum, 9);
  double squares = 0.0;  // gaps of a Poisson process deviate as much as they measure
  for (size_t i = 1; i < poisson.size(); ++i) {
    const double gap_s = static_cast<double>(poisson[i] - poisson[i - 1]) * 1e-9 - 0.02;
    squares += gap_s * gap_s;
  }
  EXPECT_NEAR(std::sqrt(squares / kNum), 0.02, 0.001);
  const auto bursts =
      arrival_times_ns({.kind = ArrivalKind::kBursts, .rate = 50.0, .burst_size = 20}, 60, 1);
  EXPECT_EQ(std::count(bursts.begin(), bursts.end(), 0), 20);
  EXPECT_EQ(std::count(bursts.begin(), bursts.end(), 400'000'000), 20);
}

TEST(Arrivals, ATraceIsReadAsAzureWritesIt) {
  const TempFolder folder;
  const std::string head = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n";
  const auto rows =
      read_trace(folder.write("t.csv", head + "2023-11-16 23:59:59.9000000,374,44\r\n"
                                              "2023-11-17 00:00:00.4000000,396,109\r\n"),
                 10);
  ASSERT_TRUE(rows.ok()) << rows.status().message();
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_NEAR(static_cast<double>((*rows.value().begin()).at_ns), 0.0, 1.0);
  EXPECT_NEAR(static_cast<double>(rows.value()[1].at_ns), 5e8, 1000.0);
  EXPECT_EQ(rows.value()[1].input_len, 396);
  EXPECT_EQ(rows.value()[1].output_len, 109);
  for (const char* bad : {"x,1,2\n", "2023-11-16 18:15:46,1\n", "2023-11-16 18:15:46,1,-2\n",
                          "2023-11-16 18:15:46,1,2\n2023-11-16 18:15:45,1,2\n"}) {
    const auto refused = read_trace(folder.write("bad.csv", head + bad), 10);
    ASSERT_FALSE(refused.ok()) << bad;
    EXPECT_NE(refused.status().message().find("bad.csv:"), std::string::npos);
  }
  EXPECT_FALSE(read_trace(folder.write("none.csv", "a,b\n"), 10).ok());
}

TEST(ServeOptions, ContradictionsAreRefused) {
  const auto refused = [](const std::function<void(ServeBenchOptions&)>& change) {
    ServeBenchOptions options;
    change(options);
    return !check_serve_options(options).ok();
  };
  EXPECT_FALSE(refused([](ServeBenchOptions&) {}));
  EXPECT_TRUE(refused([](ServeBenchOptions& o) { o.prompts.source = PromptSource::kSonnet; }));
  EXPECT_TRUE(refused([](ServeBenchOptions& o) { o.prompts.path = "x"; }));
  EXPECT_TRUE(refused([](ServeBenchOptions& o) { o.prompts.num_turns = 2; }));
  EXPECT_FALSE(refused([](ServeBenchOptions& o) {
    o.prompts.num_turns = 2;
    o.endpoint = "/v1/chat/completions";
  }));
  EXPECT_TRUE(refused([](ServeBenchOptions& o) { o.find_rate = true; }));
  EXPECT_TRUE(refused([](ServeBenchOptions& o) {
    o.prompts.source = PromptSource::kGsm8k;
    o.prompts.path = "x";
    o.prompts.prefix_share = 0.5;
  }));
}

}  // namespace
}  // namespace slipstream

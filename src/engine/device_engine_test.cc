// Requests that a device draws for, against the same ones drawn by the host from the device's
// logits: a GPU, skipped where there is none, and the executor that behaves like one.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/random.h"
#include "base/temp_folder_for_test.h"
#include "base/trace.h"
#include "engine/engine_test_util.h"
#include "ops/ops.h"

namespace slipstream {
namespace {

constexpr const char* kConfig = R"({"architectures":["LlamaForCausalLM"],"model_type":"llama",
  "hidden_size":512,"head_dim":64,"intermediate_size":1024,"num_hidden_layers":2,
  "num_attention_heads":8,"num_key_value_heads":4,"vocab_size":VOCAB,"rms_norm_eps":1e-5,
  "rope_theta":10000.0,"max_position_embeddings":2048,"tie_word_embeddings":false,
  "hidden_act":"silu"})";
// What the fake executor's answers are made of is all of the vocabulary: tokens are to come again.
constexpr int32_t kFakeVocabSize = 96;
constexpr int32_t kGpuVocabSize = 4096;
// K and V of 2 layers with 4 heads of 64, 16 positions in bf16.
constexpr int64_t kBytesPerBlock = 2 * 2 * 4 * 64 * 16 * 2;

// Answers of few tokens, which penalties then change.
Request make_request(size_t idx, int32_t vocab_size, SplitMix64& random) {
  const auto any_id = [&] {
    return static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab_size)));
  };
  Request request;
  for (uint64_t num = 1 + random.below(90); num > 0; --num) {
    request.prompt_token_ids.push_back(num % 2 == 0 ? static_cast<int32_t>(num % 12) : any_id());
  }
  SamplingParams& sampling = request.sampling;
  sampling.seed = random.next();
  sampling.max_tokens = 60 + static_cast<int64_t>(random.below(90));
  sampling.temperature = idx % 3 == 0 ? 0.0f : 0.6f;
  if (idx % 5 == 0) return request;
  if (idx % 4 == 1) {
    sampling.repetition_penalty = idx % 8 == 1 ? 1.4f : 60.0f;
    sampling.frequency_penalty = 0.3f;
  }
  if (idx % 4 == 2) {
    sampling.repetition_penalty = 60.0f;
    sampling.presence_penalty = 1.1f;
  }
  if (idx % 3 == 1) sampling.frequency_penalty = -0.2f;
  if (idx % 2 == 1) {
    for (int32_t id = 0; id < 12; ++id)
      sampling.logit_bias.emplace_back(id, id % 3 == 0 ? 3.5f : 2.5f);
  }
  if (idx % 7 < 2) {
    sampling.stop_token_ids = {0, 3, 4};
    sampling.min_tokens = 15;
  }
  if (idx % 3 == 2) sampling.logprobs = static_cast<int32_t>(5 * (idx % 5));
  if (idx % 6 == 1) sampling.top_k = 30;
  return request;
}

// Tokens that the host has to mask are drawn there; this sequence of tokens never comes.
void leave_to_host(Request& request) {
  request.sampling.bad_token_ids = {std::vector<int32_t>(128, kFakeVocabSize - 1)};
}

class DeviceEngine : public testing::TestWithParam<bool> {
 protected:
  bool on_gpu() const { return GetParam(); }
  int32_t vocab_size() const { return on_gpu() ? kGpuVocabSize : kFakeVocabSize; }
  void SetUp() override {
    std::string why;
    if (on_gpu() && cuda_ops(&why) == nullptr) GTEST_SKIP() << why;
    std::string config = kConfig;
    config.replace(config.find("VOCAB"), 5, std::to_string(vocab_size()));
    options_.model = folder_.write("config.json", config);
    options_.load_format = "dummy";
    options_.device = on_gpu() ? "cuda" : "cpu";
    if (!on_gpu()) options_.executor = "fake";
    options_.skip_tokenizer_init = true;
    options_.num_threads = 2;
    options_.seed = 5;
    options_.deterministic = true;
    options_.max_num_seqs = 12;
    options_.max_model_len = 256;
  }
  std::vector<Request> make_requests() const {
    SplitMix64 random(11);
    std::vector<Request> requests;
    for (size_t idx = 0; idx < 60; ++idx) {
      requests.push_back(make_request(idx, vocab_size(), random));
    }
    return requests;
  }
  std::vector<std::vector<TokenEvent>> answers(const std::vector<Request>& requests) {
    Recorder recorder;
    const auto engine = open_engine(options_, recorder);
    std::vector<RequestId> ids;
    for (const Request& request : requests) ids.push_back(engine->submit(request).value());
    std::vector<std::vector<TokenEvent>> all;
    for (const RequestId id : ids) all.push_back(recorder.wait(id));
    num_preemptions_ = engine->stats().num_preemptions;
    return all;
  }

  TempFolder folder_;
  EngineOptions options_;
  int64_t num_preemptions_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Devices, DeviceEngine, testing::Bool(), [](const auto& device) {
  return std::string(device.param ? "Gpu" : "Fake");
});

void expect_same(const std::vector<std::vector<TokenEvent>>& wanted,
                 const std::vector<std::vector<TokenEvent>>& got) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t idx = 0; idx < got.size(); ++idx) {
    SCOPED_TRACE(testing::Message() << "request " << idx);
    EXPECT_EQ(token_ids(got[idx]), token_ids(wanted[idx]));
    EXPECT_EQ(got[idx].back().finish, wanted[idx].back().finish);
    if (got[idx].size() != wanted[idx].size()) continue;
    for (size_t i = 0; i < got[idx].size(); ++i) {
      const TokenLogprobs& a = wanted[idx][i].logprobs;
      const TokenLogprobs& b = got[idx][i].logprobs;
      EXPECT_EQ(got[idx][i].has_logprobs, wanted[idx][i].has_logprobs);
      EXPECT_EQ(b.id, a.id);
      EXPECT_NEAR(b.logprob, a.logprob, 1e-4f);
      ASSERT_EQ(b.top.size(), a.top.size());
      for (size_t best = 0; best < a.top.size(); ++best) {
        EXPECT_EQ(b.top[best].first, a.top[best].first);
        EXPECT_NEAR(b.top[best].second, a.top[best].second, 1e-4f);
      }
    }
  }
}

TEST_P(DeviceEngine, DrawsWhatTheHostDraws) {
  std::vector<Request> left_to_host = make_requests();
  for (Request& request : left_to_host) leave_to_host(request);
  const auto wanted = answers(left_to_host);
  std::vector<Request> plain = make_requests();
  for (Request& request : plain) {
    SamplingParams& sampling = request.sampling;
    sampling.repetition_penalty = 1.0f;
    sampling.frequency_penalty = sampling.presence_penalty = 0.0f;
  }
  size_t num_changed = 0;
  const auto without = answers(plain);
  for (size_t idx = 0; idx < plain.size(); ++idx) {
    if (token_ids(without[idx]) != token_ids(wanted[idx])) ++num_changed;
  }
  EXPECT_GT(num_changed, plain.size() / 5) << "penalties change many answers";
  for (const bool one_ahead : {true, false}) {
    SCOPED_TRACE(testing::Message() << "one ahead " << one_ahead);
    options_.one_ahead = one_ahead;
    expect_same(wanted, answers(make_requests()));
    std::vector<Request> mixed = make_requests();
    for (size_t idx = 0; idx < mixed.size(); idx += 9) leave_to_host(mixed[idx]);
    expect_same(wanted, answers(mixed));
  }
}

// A token that was drawn and dropped is drawn again: had it stayed counted, it would not be.
TEST_P(DeviceEngine, CountsAgainAfterPreemption) {
  std::vector<Request> requests = make_requests();
  for (Request& request : requests) {
    request.sampling.repetition_penalty = 60.0f;
    request.sampling.min_tokens = 50;
  }
  std::vector<Request> left_to_host = requests;
  for (Request& request : left_to_host) leave_to_host(request);
  const auto wanted = answers(left_to_host);
  EXPECT_EQ(num_preemptions_, 0);
  options_.kv_cache_bytes = 24 * kBytesPerBlock;
  for (const bool one_ahead : {true, false}) {
    SCOPED_TRACE(testing::Message() << "one ahead " << one_ahead);
    options_.one_ahead = one_ahead;
    expect_same(wanted, answers(requests));
    EXPECT_GT(num_preemptions_, 10);
  }
}

TEST_P(DeviceEngine, StepsAreNotWaitedForUntilTheHostHasToDraw) {
  const std::string path = (folder_ / "trace.json").string();
  const auto drawn_on_host = [&](const std::vector<Request>& requests) {
    auto trace = TraceWriter::open(path);
    options_.trace = trace.value().get();
    (void)answers(requests);
    options_.trace = nullptr;
    trace.value().reset();
    return read_file(path).find("\"sample\"") != std::string::npos;
  };
  std::vector<Request> requests = make_requests();
  EXPECT_FALSE(drawn_on_host(requests));
  leave_to_host(requests[7]);
  EXPECT_TRUE(drawn_on_host(requests));
}

}  // namespace
}  // namespace slipstream

// Penalties, biases, early masks and log-probabilities on the GPU against LogitsPipeline and
// Sampler. Skipped without a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "engine/device_sampling_test_util.h"
#include "sampling/sampler.h"

namespace slipstream {
namespace {

// A request as the host knows it, and its state on the device.
struct Talk {
  SamplingParams params;
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> answer_ids;
  std::vector<int32_t> early_ids;
  std::unique_ptr<LogitsPipeline> pipeline;
  uint64_t seed = 0;
  int32_t state = -1;

  int64_t position() const { return std::ssize(prompt_ids) + std::ssize(answer_ids); }
  SampleState filled() const {
    SampleState start;
    if (params.repetition_penalty != 1.0f) start.prompt_ids = prompt_ids;
    if (pipeline->counts_tokens()) start.answer_ids = answer_ids;
    start.biases = params.logit_bias;
    start.early_ids = early_ids;
    return start;
  }
  SampleRow row(int32_t logits_row) const {
    return {.row = logits_row,
            .temperature = params.temperature,
            .seed = seed,
            .position = static_cast<uint32_t>(position()),
            .top_k = params.top_k,
            .top_p = params.top_p,
            .min_p = params.min_p,
            .state = state,
            .repetition_penalty = params.repetition_penalty,
            .frequency_penalty = params.frequency_penalty,
            .presence_penalty = params.presence_penalty,
            .masks_early_ids = std::ssize(answer_ids) < params.min_tokens && !early_ids.empty(),
            .num_logprobs = params.logprobs.value_or(-1)};
  }
};

class DeviceSampleStates : public testing::TestWithParam<int64_t> {
 protected:
  // Of the rows that keep their logits more than have room at once.
  static constexpr int32_t kNumTalks = 120;
  static constexpr int32_t kNumStates = 110;
  static constexpr int32_t kNumSteps = 40;

  void SetUp() override {
    std::string why;
    if (!gpu_.open(kNumTalks, GetParam(), kNumStates, &why)) GTEST_SKIP() << why;
    // Few tokens make up most of every answer, so that they come again.
    for (int i = 0; i < 48; ++i) hot_ids_.push_back(any_id());
    std::sort(hot_ids_.begin(), hot_ids_.end());
    hot_ids_.erase(std::unique(hot_ids_.begin(), hot_ids_.end()), hot_ids_.end());
    for (int32_t row = 0; row < kNumTalks; ++row) {
      std::vector<float> made = make_row(GetParam(), row % 3, random_);
      for (const int32_t id : hot_ids_) made[static_cast<size_t>(id)] += 6.0f;
      logits_.insert(logits_.end(), made.begin(), made.end());
    }
    for (int32_t i = 0; i < kNumTalks; ++i) talks_.push_back(make_talk(i));
  }
  int32_t any_id() {
    return static_cast<int32_t>(random_.below(static_cast<uint64_t>(GetParam())));
  }
  int32_t hot_id() { return hot_ids_[random_.below(hot_ids_.size())]; }

  std::unique_ptr<Talk> make_talk(int32_t i) {
    constexpr std::array kRepetition = {1.0f, 1.3f, 0.7f, 2.0f, 1.0f};
    constexpr std::array kFrequency = {0.0f, 0.5f, -0.01f, 1.5f};
    constexpr std::array kPresence = {0.0f, 0.8f, -1.5f};
    constexpr std::array kTopK = {0, 0, 40, 3};
    constexpr std::array kTopP = {1.0f, 1.0f, 0.9f};
    constexpr std::array kTemperature = {1.0f, 0.0f, 0.7f, 2.0f};
    constexpr std::array kNumLogprobs = {20, 5, 0, 20, -1};
    constexpr std::array kNumAnswered = {0, 3, 500, 3000};
    auto talk = std::make_unique<Talk>();
    const auto idx = static_cast<size_t>(i);
    SamplingParams& params = talk->params;
    if (i < kNumStates) {
      talk->state = i;
      params.repetition_penalty = kRepetition[idx % kRepetition.size()];
      params.frequency_penalty = kFrequency[idx / 2 % kFrequency.size()];
      params.presence_penalty = kPresence[idx / 3 % kPresence.size()];
      if (i % 3 == 0) add_biases(params, i);
    }
    params.top_k = kTopK[idx / 5 % kTopK.size()];
    params.top_p = kTopP[idx / 7 % kTopP.size()];
    params.min_p = i % 11 == 3 ? 0.05f : 0.0f;
    params.temperature = kTemperature[idx / 4 % kTemperature.size()];
    if (const int num = kNumLogprobs[idx / 3 % kNumLogprobs.size()]; num >= 0) {
      params.logprobs = num;
    }
    talk->seed = 1000 + idx;
    for (uint64_t num = random_.below(i % 2 == 0 ? 5000 : 50); num > 0; --num) {
      talk->prompt_ids.push_back(num % 4 == 0 ? hot_id() : any_id());
    }
    for (int num = kNumAnswered[idx % kNumAnswered.size()]; num > 0; --num) {
      talk->answer_ids.push_back(num % 8 == 0 ? any_id() : hot_id());
    }
    if (i < kNumStates && i % 4 == 1) {
      params.min_tokens = std::ssize(talk->answer_ids) + kNumSteps / 2;
      for (int num = 0; num < 12; ++num) talk->early_ids.push_back(hot_id());
    }
    talk->pipeline = std::make_unique<LogitsPipeline>(params, talk->prompt_ids);
    talk->pipeline->forbid_early(talk->early_ids);
    for (const int32_t id : talk->answer_ids) talk->pipeline->append(id);
    return talk;
  }
  void add_biases(SamplingParams& params, int32_t i) {
    constexpr std::array kBiases = {-100.0f, 2.5f, -3.0f, 0.125f, -100.0f};
    for (size_t num = 0; num < 20; ++num) {
      const int32_t id = hot_ids_[(num + static_cast<size_t>(i)) % hot_ids_.size()];
      const auto has = [&](const auto& entry) { return entry.first == id; };
      if (std::none_of(params.logit_bias.begin(), params.logit_bias.end(), has)) {
        params.logit_bias.emplace_back(id, kBiases[num % kBiases.size()]);
      }
    }
    if (i % 30 == 0) params.logit_bias.front().second = 100.0f;
  }
  void fill_states() {
    for (const auto& talk : talks_) {
      if (talk->state >= 0) gpu_.set_state(talk->state, talk->filled());
    }
  }
  std::span<const float> logits_of(int32_t row) const {
    const auto size = static_cast<size_t>(GetParam());
    return std::span(logits_).subspan(static_cast<size_t>(row) * size, size);
  }

  GpuDraws gpu_;
  SplitMix64 random_{static_cast<uint64_t>(GetParam())};
  std::vector<int32_t> hot_ids_;
  std::vector<float> logits_;
  std::vector<std::unique_ptr<Talk>> talks_;
};

INSTANTIATE_TEST_SUITE_P(Vocabularies, DeviceSampleStates,
                         testing::Values(105, 4099, 49'152, 151'936));

void expect_logprobs(const TokenLogprobs& wanted, const SampledLogprobs& got) {
  EXPECT_NEAR(got.drawn, wanted.logprob, 1e-4f);
  ASSERT_EQ(static_cast<size_t>(got.num_best), wanted.top.size());
  for (size_t i = 0; i < wanted.top.size(); ++i) {
    EXPECT_EQ(got.ids[i], wanted.top[i].first) << "place " << i;
    EXPECT_NEAR(got.logprobs[i], wanted.top[i].second, 1e-4f);
  }
}

TEST_P(DeviceSampleStates, GiveWhatThePipelineAndTheSamplerGive) {
  fill_states();
  Sampler sampler;
  std::vector<float> copy;
  int num_moved = 0;
  int num_changed = 0;
  for (int32_t step = 0; step < kNumSteps; ++step) {
    std::vector<SampleRow> rows;
    for (int32_t i = 0; i < kNumTalks; ++i) {
      rows.push_back(talks_[static_cast<size_t>(i)]->row((i + 7 * step) % kNumTalks));
    }
    std::vector<int32_t> got = gpu_.draw(logits_, rows);
    ASSERT_EQ(got.size(), rows.size());
    if (step % 9 == 4) {
      // As if every token had been dropped: the states have counted them.
      fill_states();
      const std::vector<int32_t> again = gpu_.draw(logits_, rows);
      EXPECT_EQ(again, got);
    }
    const std::vector<SampledLogprobs> logprobs = gpu_.logprobs();
    for (size_t i = 0; i < rows.size(); ++i) {
      Talk& talk = *talks_[i];
      SCOPED_TRACE(testing::Message() << "request " << i << ", step " << step);
      const std::span<const float> raw = logits_of(rows[i].row);
      copy.assign(raw.begin(), raw.end());
      auto wanted = sampler.sample(copy, {.params = talk.params,
                                          .pipeline = *talk.pipeline,
                                          .seed = talk.seed,
                                          .position = talk.position(),
                                          .choice_idx = 0});
      ASSERT_TRUE(wanted.ok());
      ASSERT_GE(got[i], 0);
      if (talk.pipeline->active()) {
        copy.assign(raw.begin(), raw.end());
        const SamplingParams plain;
        const LogitsPipeline no_pipeline(plain, {});
        const auto unchanged = sampler.sample(copy, {.params = talk.params,
                                                     .pipeline = no_pipeline,
                                                     .seed = talk.seed,
                                                     .position = talk.position(),
                                                     .choice_idx = 0});
        if (unchanged.value().token_id != wanted.value().token_id) ++num_changed;
      }
      if (got[i] != wanted.value().token_id) {
        // Rounding of a sum of probabilities may move the end of what top-p keeps by one token.
        EXPECT_LT(talk.params.top_p, 1.0f) << got[i] << ", not " << wanted.value().token_id;
        ++num_moved;
      } else if (wanted.value().logprobs) {
        expect_logprobs(*wanted.value().logprobs, logprobs[i]);
      }
      talk.answer_ids.push_back(got[i]);
      talk.pipeline->append(got[i]);
    }
    if (HasFailure()) return;
  }
  EXPECT_LE(num_moved, 2);
  EXPECT_GT(num_changed, kNumTalks * kNumSteps / 8) << "states decide about many of these tokens";
}

// Bit for bit: a row's log-probabilities have nothing to do with the rows around it.
TEST_P(DeviceSampleStates, LogprobsDoNotDependOnTheBatch) {
  fill_states();
  std::vector<SampleRow> rows;
  for (int32_t i = 0; i < kNumTalks; ++i) {
    rows.push_back(talks_[static_cast<size_t>(i)]->row(i));
    rows.back().num_logprobs = kMostLogprobs;
  }
  const std::vector<int32_t> ids = gpu_.draw(logits_, rows);
  const std::vector<SampledLogprobs> together = gpu_.logprobs();
  fill_states();
  for (size_t i = 0; i < rows.size(); i += 17) {
    const std::span<const float> raw = logits_of(rows[i].row);
    SampleRow row = rows[i];
    row.row = 1;
    std::vector<float> alone(static_cast<size_t>(GetParam()), 0.0f);
    alone.insert(alone.end(), raw.begin(), raw.end());
    EXPECT_EQ(gpu_.draw(alone, std::span(&row, 1)), std::vector<int32_t>{ids[i]});
    const SampledLogprobs got = gpu_.logprobs().front();
    EXPECT_EQ(got.drawn, together[i].drawn);
    EXPECT_TRUE(std::equal(std::begin(got.ids), std::end(got.ids), std::begin(together[i].ids)));
    EXPECT_TRUE(std::equal(std::begin(got.logprobs), std::end(got.logprobs),
                           std::begin(together[i].logprobs)));
  }
}

TEST_P(DeviceSampleStates, MasksThatLeaveNothingAndLogitsThatAreNoNumbers) {
  const auto size = static_cast<size_t>(GetParam());
  std::vector<float> logits(3 * size, -kInfinity);
  const std::vector<int32_t> early_ids = {3, 9, 100};
  for (const int32_t id : early_ids) logits[static_cast<size_t>(id)] = 1.0f;
  for (size_t id = size; id < 3 * size; ++id) logits[id] = 0.5f;
  logits[size + 9] = std::numeric_limits<float>::quiet_NaN();
  logits[2 * size + 3] = kInfinity;
  std::vector<SampleRow> rows;
  for (int32_t i = 0; i < 3; ++i) {
    gpu_.set_state(i, {.early_ids = early_ids});
    rows.push_back(
        {.row = i, .temperature = 1.0f, .state = i, .masks_early_ids = true, .num_logprobs = 2});
  }
  EXPECT_EQ(gpu_.draw(logits, rows), (std::vector<int32_t>{kNoTokenLeft, kBadLogits, kBadLogits}));
  for (SampleRow& row : rows) row.masks_early_ids = false;
  const std::vector<int32_t> unmasked = gpu_.draw(logits, rows);
  EXPECT_TRUE(std::count(early_ids.begin(), early_ids.end(), unmasked[0]) == 1) << unmasked[0];
  EXPECT_EQ(unmasked[1], kBadLogits);
}

}  // namespace
}  // namespace slipstream

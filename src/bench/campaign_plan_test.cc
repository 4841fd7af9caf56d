// What a campaign's files become: the engines' commands, the loads, and what filters select.
#include "bench/campaign_plan.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/strings.h"
#include "base/temp_folder_for_test.h"
#include "bench/almanac_config.h"

namespace slipstream {
namespace {

const std::string kAlmanac = SLIPSTREAM_SOURCE_DIR "/almanac";

const std::string kCampaign = R"(kind = "campaign"
name = "new-campaign"
description = "two models"
device = "cuda"
configurations = ["slipstream", "vllm-many-seqs"]
repeats = 2
warmup_requests = 4
sweep = { rates = 3, arrival = "poisson", max_requests = 500 }
[[models]]
name = "big"
huggingface = "org/big"
weights = "fp8"
num_devices = 2
configurations = ["vllm-many-seqs"]
[[models]]
name = "shape"
huggingface = "org/shape"
weights = "bf16"
dummy_weights = true
[[shapes]]
tokens_in = 128
tokens_out = 16
[[shapes]]
tokens_in = 1024
tokens_out = 8
prefix_share = 0.5
)";

Result<CampaignPlan> plan_of(const std::string& text) {
  const TempFolder folder;
  SLIPSTREAM_ASSIGN_OR_RETURN(const AlmanacFile file,
                              check_almanac_file(folder.write("new.toml", text), kAlmanac));
  if (!file.problems.empty()) return failed(file.problems.front());
  return make_campaign_plan(file.value, kAlmanac, [](const auto& format, const auto& model) {
    return Result<std::string>(str("/", format, "/", model));
  });
}

std::string command_text(const EngineSetup& setup) {
  std::string text;
  for (const std::string& word : setup.command) text += (text.empty() ? "" : " ") + word;
  return text;
}

TEST(CampaignPlan, CommandsHaveWhatEngineConfigurationAndModelSay) {
  const auto plan = plan_of(kCampaign);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  ASSERT_EQ(plan->setups.size(), 3u);
  EXPECT_EQ(command_text(plan->setups[0]),
            "slipstream serve /huggingface/org/shape --host {host} --port {port} --device cuda"
            " --load-format dummy");
  EXPECT_EQ(command_text(plan->setups[1]),
            "vllm serve /huggingface/org/big --host {host} --port {port} --quantization fp8"
            " --max-num-batched-tokens 16384 --max-num-seqs 1024 --no-enable-prefix-caching"
            " --tensor-parallel-size 2");
  EXPECT_EQ(command_text(plan->setups[2]),
            "vllm serve /huggingface/org/shape --host {host} --port {port} --dtype bfloat16"
            " --max-num-batched-tokens 16384 --max-num-seqs 1024 --no-enable-prefix-caching"
            " --load-format dummy");
  EXPECT_EQ(plan->setups[1].engine, "vllm");
  EXPECT_EQ(plan->setups[1].num_devices, 2);
  EXPECT_TRUE(plan->setups[2].dummy_weights);
  EXPECT_TRUE(plan->setups[0].ignore_eos && plan->setups[0].extra_body.empty());
  EXPECT_EQ(plan->sweep->num_rates, 3);
  EXPECT_EQ(plan->sweep->arrival, "poisson");
  EXPECT_EQ(plan->sweep->min_requests, 32);
  EXPECT_EQ(plan->sweep->max_requests, 500);
  EXPECT_EQ(plan->sweep->seconds, 60.0);
  EXPECT_EQ(shape_text(plan->shapes[1]), "1024x8+50%");
}

TEST(CampaignPlan, EveryShippedCampaignHasAPlan) {
  for (const auto& entry : std::filesystem::directory_iterator(kAlmanac + "/campaigns")) {
    const auto plan = plan_of(read_file(entry.path()));
    ASSERT_TRUE(plan.ok()) << entry.path() << plan.status().message();
    EXPECT_FALSE(plan->setups.empty());
  }
}

TEST(CampaignPlan, AnEngineWithoutIgnoreEosGetsABiasAndTextWhereItTakesNoIds) {
  const auto plan = plan_of(read_file(kAlmanac + "/campaigns/cpu-smollm2.toml"));
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  const EngineSetup& setup = plan->setups.back();
  EXPECT_EQ(setup.engine, "llama-cpp-python");
  EXPECT_TRUE(setup.text_prompts);
  EXPECT_FALSE(setup.ignore_eos);
  EXPECT_EQ(dump_json(setup.extra_body), R"({"logit_bias":{"0":-100,"2":-100}})");
  EXPECT_FALSE(plan->setups.front().text_prompts);
}

TEST(CampaignPlan, FiltersSelectByPartAndNameWhatThereIs) {
  const auto plan = plan_of(kCampaign);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  const auto filter = [](const std::string& text) { return parse_campaign_filter(text).value(); };
  const EngineSetup& ours = plan->setups[0];
  const CampaignShape& shape = plan->shapes[0];
  for (const char* text : {"slipstream", "*", "slipstream/shape", "*/*/128x16", "*/*/*/burst"}) {
    EXPECT_TRUE(selects(filter(text), ours, shape, "burst")) << text;
    EXPECT_TRUE(check_filters({filter(text)}, plan.value()).ok()) << text;
  }
  for (const char* text : {"vllm", "slip", "slipstream/big", "*/*/128x1", "*/*/*/closed"}) {
    EXPECT_FALSE(selects(filter(text), ours, shape, "burst")) << text;
  }
  EXPECT_TRUE(selects(std::vector<CampaignFilter>(), ours, shape, "burst"));
  // Both names are there, but not together; and a good filter does not excuse a bad one.
  const Status status = check_filters({filter("*"), filter("slipstream/big")}, plan.value());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.message(),
            "--only 'slipstream/big' selects nothing of campaign 'new-campaign'; it has"
            " slipstream/shape, vllm-many-seqs/big, vllm-many-seqs/shape; shapes 128x16,"
            " 1024x8+50%; arrivals burst, closed, poisson");
  for (const char* text : {"", "a/b/c/d/e", "a//b", "a/"}) {
    EXPECT_FALSE(parse_campaign_filter(text).ok()) << text;
  }
}

}  // namespace
}  // namespace slipstream

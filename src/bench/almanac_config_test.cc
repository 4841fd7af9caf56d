// Rules of the almanac's files: every one that is shipped is valid, and each fault is named with
// its line and the fix.
#include "bench/almanac_config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>

#include "base/strings.h"
#include "base/temp_folder_for_test.h"

namespace slipstream {
namespace {

const std::string kAlmanac = SLIPSTREAM_SOURCE_DIR "/almanac";

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

std::string problems_of(const std::string& text) {
  const TempFolder folder;
  const auto file = check_almanac_file(folder.write("new.toml", text), kAlmanac);
  EXPECT_TRUE(file.ok()) << file.status().message();
  return file.ok() ? joined(file->problems) : "";
}

// A valid file with one text replaced by another.
std::string with(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

struct Fault {
  std::string from, to, says;
};

void expect_faults(const std::string& valid, const std::vector<Fault>& faults) {
  EXPECT_EQ(problems_of(valid), "");
  for (const Fault& fault : faults) {
    const std::string problems = problems_of(with(valid, fault.from, fault.to));
    EXPECT_NE(problems.find(fault.says), std::string::npos) << fault.to << "\n" << problems;
  }
}

const std::string kEngine = R"(kind = "engine"
name = "new-engine"
licence = "MIT"
devices = ["cuda"]
model_formats = ["huggingface"]
version_command = ["new", "--version"]
command = ["new", "{model}", "--port", "{port}"]
health_route = "/health"
completions_route = "/v1/completions"
ready_timeout_s = 60
[settings]
seed = { flags = ["--seed", "{value}"], means = "the seed" }
prefix_caching = { flags = ["--cache"], means = "prefixes are kept" }
[weights]
bf16 = { flags = [], means = "as stored" }
)";

const std::string kConfiguration = R"(kind = "configuration"
name = "vllm-new"
engine = "vllm"
description = "tuned"
kv = "fp8"
extra_flags = ["--enforce-eager"]
[settings]
max_num_seqs = 512
no_prefix_caching = true
)";

const std::string kCampaign = R"(kind = "campaign"
name = "new-campaign"
description = "one model"
device = "cuda"
configurations = ["vllm", "vllm-many-seqs"]
repeats = 3
warmup_requests = 0
[[models]]
name = "qwen3-8b"
huggingface = "Qwen/Qwen3-8B"
weights = "fp8"
[[shapes]]
tokens_in = 128
tokens_out = 1024
[[loads]]
arrival = "closed"
concurrency = 8
requests = 64
[[loads]]
arrival = "poisson"
request_rate = 2
requests = 64
)";

TEST(AlmanacConfig, EveryShippedFileIsValidAndNamedForItself) {
  int num_files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kAlmanac)) {
    if (entry.path().extension() != ".toml") continue;
    ++num_files;
    const auto file = check_almanac_file(entry.path().string(), kAlmanac);
    ASSERT_TRUE(file.ok()) << file.status().message();
    EXPECT_EQ(joined(file->problems), "");
    EXPECT_EQ(file->name, entry.path().stem().string());
    EXPECT_EQ(file->kind + "s", entry.path().parent_path().filename().string());
  }
  EXPECT_GE(num_files, 9);
}

TEST(AlmanacConfig, AnEngineIsSaidWhatIsWrongWithIt) {
  expect_faults(
      kEngine,
      {{"licence = \"MIT\"\n", "", "new.toml:1: key 'licence' is missing; add licence = "},
       {"licence", "license", "new.toml:3: unknown key 'license'"},
       {"60", "\"60\"", "new.toml:10: 'ready_timeout_s' must be a whole number, such as 900"},
       {"60", "0", "new.toml:10: ready_timeout_s must be from 1 to"},
       {"\"engine\"", "\"motor\"", "new.toml:1: kind must be"},
       {"new-engine", "../escape", "new.toml:2: name '../escape' must be"},
       {"\"cuda\"", "\"tpu\"", "new.toml:4: 'tpu' is not one of cpu, cuda"},
       {"[\"cuda\"]", "[]", "new.toml:4: 'devices' is empty"},
       {"\"{model}\", ", "", "new.toml:7: command lacks {model}"},
       {"{port}", "{prot}", "new.toml:7: '{prot}' is unknown"},
       {"{port}", "{port}{", "new.toml:7: '{' is unknown"},
       {"\"/health\"", "\"health\"", "new.toml:8: health_route 'health' must begin with '/'"},
       {"ready_timeout_s = 60", "ready_timeout_s = 60\nprompts = \"words\"",
        "new.toml:11: 'words' is not one of ids, text"},
       {"ready_timeout_s = 60", "ready_timeout_s = 60\nstop_timeout_s = 0",
        "new.toml:11: stop_timeout_s must be from 1 to"},
       {"seed =", "sede =", "new.toml:12: unknown setting 'sede'"},
       {"[\"--seed\", \"{value}\"]", "[\"--seed\"]", "new.toml:12: 'seed' takes a value"},
       {"[\"--cache\"]", "[\"--cache\", \"{value}\"]", "new.toml:13: 'prefix_caching' takes no"},
       {"[\"--cache\"]", "[\"--port\"]", "new.toml:13: --port is in command as well"},
       {", means = \"as stored\"", "", "new.toml:15: key 'weights.bf16.means' is missing"},
       {"{ flags = [], means = \"as stored\" }", "3", "new.toml:15: 'weights.bf16' must be a"}});
}

TEST(AlmanacConfig, AConfigurationAgreesWithItsEngine) {
  expect_faults(
      kConfiguration,
      {{"\"vllm\"", "\"vlm\"", "new.toml:3: unknown engine 'vlm'; known: llama-cpp-python"},
       {"vllm-new", "sglang", "new.toml:2: name 'sglang' is an engine's"},
       {"\"fp8\"", "\"int3\"", "new.toml:5: vllm has no kv format 'int3'; it has auto, fp8"},
       {"--enforce-eager", "--max-num-seqs=3", "new.toml:6: --max-num-seqs is given by"},
       {"512", "\"many\"", "new.toml:8: 'max_num_seqs' must be a number"},
       {"max_num_seqs", "threads", "new.toml:8: vllm has no setting 'threads'; it has"},
       {"max_num_seqs = 512", "prefix_caching = true", "contradict each other"},
       {"no_prefix_caching = true", "no_prefix_caching = 1", "new.toml:9: 'no_prefix_caching' is"},
       {"max_num_seqs = 512", "memory_fraction = 1.5", "memory_fraction must be at most 1"}});
}

TEST(AlmanacConfig, ACampaignAgreesWithItsEnginesAndItself) {
  expect_faults(
      kCampaign,
      {{"\"vllm-many-seqs\"", "\"none\"", "new.toml:5: unknown engine or configuration 'none'"},
       {"\"vllm-many-seqs\"", "\"llama-server\"", "'llama-server' reads gguf only"},
       {"\"cuda\"", "\"cpu\"", "new.toml:5: 'vllm-many-seqs' does not run on cpu"},
       {"\"fp8\"", "\"Q8_0\"", "new.toml:11: 'vllm' has no weights format 'Q8_0'"},
       {"huggingface = \"Qwen/Qwen3-8B\"\n", "", "new.toml:8: a model needs huggingface"},
       {"tokens_in = 128", "tokens_in = 0", "new.toml:13: tokens_in must be from 1 to"},
       {"tokens_out = 1024", "tokens_out = 1.5", "new.toml:14: 'shapes[0].tokens_out' must be a"},
       {"concurrency = 8\n", "", "new.toml:15: arrival 'closed' needs concurrency"},
       {"request_rate = 2", "request_rate = 2\nconcurrency = 3",
        "new.toml:22: arrival 'poisson' and concurrency contradict each other"},
       {"\"poisson\"", "\"burst\"", "new.toml:21: arrival 'burst' and request_rate contradict"},
       {"\"poisson\"", "\"random\"", "new.toml:20: 'random' is not one of closed, constant"},
       {"concurrency = 8", "concurrency = 80", "new.toml:18: fewer requests than concurrency"},
       {"repeats = 3", "repeats = 0", "new.toml:6: repeats must be from 1"},
       {"warmup_requests = 0", "warmup_requests = 0\npoint_timeout_s = 0",
        "new.toml:8: point_timeout_s must be from 1 to"},
       {"warmup_requests = 0", "sweep = { min_requests = 2000 }\nwarmup_requests = 0",
        "new.toml:7: min_requests is above max_requests"},
       {"warmup_requests = 0", "sweep = { rates = 11 }\nwarmup_requests = 0",
        "new.toml:7: rates must be from 0 to 10"},
       {"\"fp8\"", "\"fp8\"\neos_ids = [\"</s>\"]",
        "'models[0].eos_ids' must be an array of whole"},
       {"\"fp8\"", "\"fp8\"\naccuracy = 0.5", "accuracy and accuracy_task belong together"},
       {"[[shapes]]", "[[shapes]]\ntokens_in = 128\ntokens_out = 1024\n[[shapes]]",
        "new.toml:15: shapes[1] is there twice"}});
}

TEST(AlmanacConfig, ACampaignNeedsLoadsAndModelsThatItsEnginesCanBeGiven) {
  std::string campaign = kCampaign;
  campaign.resize(campaign.find("[[loads]]"));
  EXPECT_NE(problems_of(campaign).find("new.toml:1: a campaign needs sweep or loads"),
            std::string::npos);
  EXPECT_EQ(problems_of(with(campaign, "repeats", "sweep = {}\nrepeats")), "");
  const std::string model = "huggingface = \"Qwen/Qwen3-8B\"\nweights = \"fp8\"";
  campaign = with(campaign, "repeats", "sweep = {}\nrepeats");
  campaign = with(campaign, "\"vllm\", \"vllm-many-seqs\"", "\"llama-server\"");
  campaign = with(campaign, "\"cuda\"", "\"cpu\"");
  campaign = with(campaign, model, "gguf = \"m.gguf\"\nweights = \"Q8_0\"");
  EXPECT_EQ(problems_of(campaign), "");
  for (const char* key : {"num_devices = 2", "dummy_weights = true"}) {
    const std::string wanting = with(campaign, "weights =", str(key, "\nweights ="));
    EXPECT_NE(problems_of(wanting).find("'llama-server' has no setting "), std::string::npos);
  }
  const std::string python = with(campaign, "llama-server", "llama-cpp-python");
  EXPECT_NE(problems_of(python).find("does not know ignore_eos; give the model's eos_ids"),
            std::string::npos);
}

TEST(AlmanacConfig, AFileThatIsNotTomlNamesItsLine) {
  const TempFolder folder;
  const auto file =
      check_almanac_file(folder.write("new.toml", "kind = \"engine\"\nname =\n"), kAlmanac);
  ASSERT_FALSE(file.ok());
  EXPECT_NE(file.status().message().find("new.toml: line 2"), std::string::npos)
      << file.status().message();
  EXPECT_FALSE(check_almanac_file((folder / "none").string(), kAlmanac).ok());
}

TEST(AlmanacConfig, AddingCopiesOnceAndNeverReplaces) {
  const TempFolder folder;
  const std::string path = folder.write("new.toml", kEngine);
  const auto file = check_almanac_file(path, folder.path());
  ASSERT_TRUE(file.ok() && file->problems.empty());
  const auto added = add_almanac_file(path, file.value(), folder.path());
  ASSERT_TRUE(added.ok()) << added.status().message();
  EXPECT_FALSE(added->was_there);
  EXPECT_EQ(added->path, folder.path() + "/engines/new-engine.toml");
  EXPECT_EQ(read_file(added->path), kEngine);
  EXPECT_TRUE(add_almanac_file(path, file.value(), folder.path())->was_there);
  const std::string other = folder.write("other.toml", with(kEngine, "MIT", "BSD-3-Clause"));
  const auto refused = add_almanac_file(other, file.value(), folder.path());
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("another file of this name"), std::string::npos);
  EXPECT_EQ(read_file(added->path), kEngine);
}

}  // namespace
}  // namespace slipstream

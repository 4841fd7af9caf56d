// The prompts of a load: random ids or words of an exact length, sonnets, or the lines of a file;
// with a share that all have in common, and with several turns.
//
// The same options and seed give the same prompts. Exact lengths of text are the server's own
// count.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "bench/token_counter.h"

namespace slipstream {

enum class PromptSource : uint8_t { kRandom, kSonnet, kGsm8k, kHumanEval, kMtBench, kCustom };
// "random", "sonnet", "gsm8k", "humaneval", "mt-bench", "custom"
const std::vector<std::string>& prompt_source_names();

struct PromptOptions {
  PromptSource source = PromptSource::kRandom;
  std::string path;           // of every source but kRandom
  bool is_chat = false;       // text, counted with the chat template
  bool as_ids = true;         // of kRandom without chat: ids, else words
  int64_t vocab_size = 256;   // ids are below this
  double prefix_share = 0.0;  // of each prompt, common to all; kRandom and kSonnet
  int num_turns = 1;          // kRandom and kSonnet; the conversations of kMtBench have their own
};

// One conversation; every turn is ids or a text, as all of the load are.
struct LoadPrompt {
  std::vector<int32_t> ids = {};
  std::vector<std::string> turns = {};
  int64_t output_len = 0;
};

struct PromptLengths {
  int64_t input_len = 0, output_len = 0;
};

// One prompt per element of `lengths`; a source with its own lengths ignores input_len. `counter`
// is asked where text needs a length.
Result<std::vector<LoadPrompt>> make_load_prompts(const PromptOptions& options,
                                                  const std::vector<PromptLengths>& lengths,
                                                  uint64_t seed, TokenCounter& counter);

}  // namespace slipstream

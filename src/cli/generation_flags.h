// The flags that shape an answer, from one table: `run` takes them as flags, `chat` also by /set.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/flag.h"
#include "slipstream/request.h"

namespace slipstream {

// Only what was given; the rest comes from the model's defaults.
struct GenerationFlags {
  std::optional<int64_t> max_tokens, min_tokens;
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty,
      frequency_penalty;
  std::optional<int64_t> top_k;
  std::vector<std::string> stop;
  bool ignore_eos = false;

  // `defaults` with what was given in its place.
  SamplingParams apply(SamplingParams defaults) const;
};

std::vector<Flag> generation_flags(GenerationFlags& flags);

}  // namespace slipstream

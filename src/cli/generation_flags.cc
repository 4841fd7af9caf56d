#include "cli/generation_flags.h"

namespace slipstream {

SamplingParams GenerationFlags::apply(SamplingParams defaults) const {
  SamplingParams params = std::move(defaults);
  if (max_tokens) params.max_tokens = *max_tokens;
  if (min_tokens) params.min_tokens = *min_tokens;
  if (temperature) params.temperature = static_cast<float>(*temperature);
  if (top_p) params.top_p = static_cast<float>(*top_p);
  if (top_k) params.top_k = static_cast<int32_t>(*top_k);
  if (min_p) params.min_p = static_cast<float>(*min_p);
  if (repetition_penalty) params.repetition_penalty = static_cast<float>(*repetition_penalty);
  if (presence_penalty) params.presence_penalty = static_cast<float>(*presence_penalty);
  if (frequency_penalty) params.frequency_penalty = static_cast<float>(*frequency_penalty);
  if (!stop.empty()) params.stop = stop;
  params.ignore_eos = ignore_eos;
  return params;
}

std::vector<Flag> generation_flags(GenerationFlags& f) {
  const char* model = "the model's, else ";
  const auto from_model = [model](const char* value) { return std::string(model) + value; };
  Flag stop = text_flag(
      {"stop", "", "TEXT", "", "text that ends the answer and is not part of it; repeats"},
      [&f](const std::string& value) { f.stop.push_back(value); });
  stop.repeats = true;
  return {
      int_flag({"max-tokens", "n", "TOKENS", "the rest of the context", "longest answer"},
               {1, INT32_MAX}, [&f](int64_t value) { f.max_tokens = value; }),
      int_flag({"min-tokens", "", "TOKENS", "0", "no end-of-sequence token or stop text before"},
               {0, INT32_MAX}, [&f](int64_t value) { f.min_tokens = value; }),
      number_flag({"temperature", "", "T", from_model("1"), "0 is greedy"},
                  {.min = 0.0, .max = 100.0}, [&f](double value) { f.temperature = value; }),
      number_flag(
          {"top-p", "", "P", from_model("1"), "the smallest set of tokens with this probability"},
          {.min = 0.0, .max = 1.0, .min_excluded = true}, [&f](double value) { f.top_p = value; }),
      int_flag({"top-k", "", "N", from_model("0"), "the N likeliest tokens; 0 is all"},
               {-1, INT32_MAX}, [&f](int64_t value) { f.top_k = value; }),
      number_flag({"min-p", "", "P", from_model("0"),
                   "no token below this share of the likeliest one's probability"},
                  {.min = 0.0, .max = 1.0}, [&f](double value) { f.min_p = value; }),
      number_flag({"repetition-penalty", "", "X", from_model("1"),
                   "divides the logits of tokens seen before"},
                  {.min = 0.0, .max = 100.0, .min_excluded = true},
                  [&f](double value) { f.repetition_penalty = value; }),
      number_flag({"presence-penalty", "", "X", "0", "subtracted once per generated token id"},
                  {.min = -2.0, .max = 2.0}, [&f](double value) { f.presence_penalty = value; }),
      number_flag({"frequency-penalty", "", "X", "0", "subtracted per occurrence"},
                  {.min = -2.0, .max = 2.0}, [&f](double value) { f.frequency_penalty = value; }),
      std::move(stop),
      switch_flag({"ignore-eos", "", "", "", "go on after the end-of-sequence token"},
                  [&f] { f.ignore_eos = true; }),
  };
}

}  // namespace slipstream

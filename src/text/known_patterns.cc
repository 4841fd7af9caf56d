#include "text/known_patterns.h"

#include <algorithm>

namespace slipstream {
namespace {

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kO200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDeepSeek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kCjkRun = "[一-龥぀-ゟ゠-ヿ]+";
constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kDigits = R"(\p{N}+)";
constexpr std::string_view kDigitsUpTo3 = R"(\p{N}{1,3})";
constexpr std::string_view kThreeDigits = "[0-9][0-9][0-9]";
constexpr std::string_view kPunctuationRun = R"([\p{P}\$\+<=>\^~\|]+)";

const std::vector<std::string_view>& known_patterns() {
  static const std::vector<std::string_view> patterns = {
      kGpt2,   kLlama3, kQwen2,  kO200k,       kTekken,      kDeepSeek3,
      kCjkRun, kDigit,  kDigits, kDigitsUpTo3, kThreeDigits, kPunctuationRun,
  };
  return patterns;
}

const std::vector<GgufPreTokenizer>& gguf_pre_tokenizers() {
  static const std::vector<GgufPreTokenizer> rows = {
      {.name = "default", .patterns = {kPunctuationRun, kGpt2, kDigits, kThreeDigits}},
      {.name = "gpt-2", .patterns = {kGpt2}},
      {.name = "phi-2", .patterns = {kGpt2}},
      {.name = "mpt", .patterns = {kGpt2}},
      {.name = "olmo", .patterns = {kGpt2}},
      {.name = "jais", .patterns = {kGpt2}},
      {.name = "smollm", .patterns = {kDigit, kGpt2}},
      {.name = "starcoder", .patterns = {kDigit, kGpt2}},
      {.name = "refact", .patterns = {kDigit, kGpt2}},
      {.name = "command-r", .patterns = {kDigit, kGpt2}},
      {.name = "codeshell", .patterns = {kDigit, kGpt2}},
      {.name = "exaone", .patterns = {kDigit, kGpt2}},
      {.name = "llama3", .patterns = {kLlama3}, .ignore_merges = true, .add_bos = true},
      {.name = "llama-v3", .patterns = {kLlama3}, .ignore_merges = true, .add_bos = true},
      {.name = "llama-bpe", .patterns = {kLlama3}, .ignore_merges = true, .add_bos = true},
      {.name = "falcon3", .patterns = {kLlama3}, .ignore_merges = true, .add_bos = true},
      {.name = "dbrx", .patterns = {kLlama3}},
      {.name = "smaug-bpe", .patterns = {kLlama3}},
      {.name = "qwen2", .patterns = {kQwen2}, .nfc = true},
      {.name = "deepseek-r1-qwen", .patterns = {kQwen2}, .nfc = true},
      {.name = "stablelm2", .patterns = {kQwen2}},
      {.name = "deepseek-v3", .patterns = {kDigitsUpTo3, kCjkRun, kDeepSeek3}},
      {.name = "gpt-4o", .patterns = {kO200k}},
      {.name = "tekken", .patterns = {kTekken}, .ignore_merges = true, .add_bos = true},
  };
  return rows;
}

}  // namespace

bool is_known_pattern(std::string_view pattern) {
  const std::vector<std::string_view>& known = known_patterns();
  return std::find(known.begin(), known.end(), pattern) != known.end();
}

std::string_view gpt2_pattern() { return kGpt2; }

const GgufPreTokenizer* find_gguf_pre_tokenizer(std::string_view name) {
  for (const GgufPreTokenizer& row : gguf_pre_tokenizers()) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

std::string gguf_pre_tokenizer_names() {
  std::string names;
  for (const GgufPreTokenizer& row : gguf_pre_tokenizers()) {
    if (!names.empty()) names += ", ";
    names += row.name;
  }
  return names;
}

}  // namespace slipstream

#include "bench/load_prompts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/random.h"
#include "base/strings.h"
#include "bench/dataset_file.h"
#include "bench/decode.h"

namespace slipstream {
namespace {

constexpr int kMaxFits = 24;  // corrections of one text's length
constexpr uint64_t kPrefixSeed = 0x5eed;

// Words that most vocabularies hold whole, with the space in front.
constexpr std::array kWords = {
    "the", "of",   "and",  "to",   "in",  "a",   "is",   "that", "for",  "it",   "was",
    "on",  "with", "as",   "be",   "at",  "by",  "not",  "are",  "from", "or",   "this",
    "but", "had",  "his",  "they", "she", "you", "we",   "all",  "one",  "were", "there",
    "can", "time", "more", "if",   "out", "so",  "up",   "said", "what", "its",  "about",
    "who", "them", "some", "when", "day", "her", "him",  "new",  "now",  "way",  "may",
    "two", "like", "my",   "see",  "did", "get", "made", "over", "how"};

int64_t shared_len(const PromptOptions& options, int64_t input_len) {
  return std::llround(options.prefix_share * static_cast<double>(input_len));
}

std::vector<LoadPrompt> make_id_prompts(const PromptOptions& options,
                                        const std::vector<PromptLengths>& lengths, uint64_t seed) {
  int64_t longest = 0;
  for (const PromptLengths& length : lengths) longest = std::max(longest, length.input_len);
  const std::vector<int32_t> prefix =
      random_token_ids(shared_len(options, longest), options.vocab_size, seed ^ kPrefixSeed);
  SplitMix64 random(seed);
  std::vector<LoadPrompt> prompts;
  for (const PromptLengths& length : lengths) {
    LoadPrompt prompt{.output_len = length.output_len};
    const int64_t shared = shared_len(options, length.input_len);
    prompt.ids.assign(prefix.begin(), prefix.begin() + shared);
    const auto rest =
        random_token_ids(length.input_len - shared, options.vocab_size, random.next());
    prompt.ids.insert(prompt.ids.end(), rest.begin(), rest.end());
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

// Texts of words that are a token each, of exactly the length asked for.
class WordWriter {
 public:
  WordWriter(bool is_chat, TokenCounter& counter) : is_chat_(is_chat), counter_(counter) {}

  Status find_words() {
    SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t base, count("the"));
    overhead_ = base - 1;
    for (const char* word : kWords) {
      SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t with_word, count(str("the ", word)));
      if (with_word == base + 1) words_.emplace_back(word);
    }
    if (!words_.empty()) return {};
    return failed(
        "the server's vocabulary has none of the common English words, so no text of an"
        " exact length can be made; use random ids on --endpoint /v1/completions");
  }

  // Words for about so many tokens of text.
  std::vector<std::string> draw(int64_t num_words, SplitMix64& random) const {
    std::vector<std::string> words(static_cast<size_t>(std::max<int64_t>(0, num_words)));
    for (std::string& word : words) word = words_[random.below(words_.size())];
    return words;
  }

  // `prefix` and more words: `input_len` tokens in all, by the server's count.
  Result<std::string> write(const std::vector<std::string>& prefix, int64_t input_len,
                            SplitMix64& random) {
    std::vector<std::string> words = prefix;
    int64_t missing = input_len - overhead_ - static_cast<int64_t>(words.size());
    for (int fit_idx = 0; fit_idx < kMaxFits; ++fit_idx) {
      for (std::string& word : draw(missing, random)) words.push_back(std::move(word));
      for (; missing < 0 && words.size() > prefix.size(); ++missing) words.pop_back();
      if (words.empty() || missing < 0) break;
      const std::string text = joined(words);
      SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t num_tokens, count(text));
      missing = input_len - num_tokens;
      if (missing == 0) return text;
    }
    return failed(str("no text of exactly ", input_len, " tokens can be made: ", overhead_,
                      " of them are the ", is_chat_ ? "chat template's" : "tokenizer's own",
                      "; give another --input-len"));
  }

  static std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
    return text;
  }

 private:
  Result<int64_t> count(const std::string& text) {
    return is_chat_ ? counter_.count_chat(text) : counter_.count_text(text);
  }

  bool is_chat_;
  TokenCounter& counter_;
  int64_t overhead_ = 0;  // tokens that no word makes: bos, the template
  std::vector<std::string> words_;
};

Result<std::vector<LoadPrompt>> make_word_prompts(const PromptOptions& options,
                                                  const std::vector<PromptLengths>& lengths,
                                                  uint64_t seed, TokenCounter& counter) {
  WordWriter writer(options.is_chat, counter);
  SLIPSTREAM_RETURN_IF_ERROR(writer.find_words());
  SplitMix64 prefix_random(seed ^ kPrefixSeed);
  SplitMix64 random(seed);
  std::vector<std::string> prefix;
  std::vector<LoadPrompt> prompts;
  for (const PromptLengths& length : lengths) {
    const int64_t shared = shared_len(options, length.input_len);
    const int64_t more = shared - static_cast<int64_t>(prefix.size());
    for (std::string& word : writer.draw(more, prefix_random)) prefix.push_back(std::move(word));
    LoadPrompt prompt{.output_len = length.output_len};
    SLIPSTREAM_ASSIGN_OR_RETURN(
        std::string text,
        writer.write({prefix.begin(), prefix.begin() + shared}, length.input_len, random));
    prompt.turns.push_back(std::move(text));
    for (int turn = 1; turn < options.num_turns; ++turn) {
      prompt.turns.push_back(WordWriter::joined(writer.draw(length.input_len, random)));
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

std::string draw_lines(const std::vector<std::string>& lines, int64_t count, SplitMix64& random) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text += lines[random.below(lines.size())] + "\n";
  return text;
}

// Lines of the file at random, about as many as the length takes; the first ones are shared.
Result<std::vector<LoadPrompt>> make_sonnets(const PromptOptions& options,
                                             const std::vector<PromptLengths>& lengths,
                                             uint64_t seed, TokenCounter& counter) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<std::string> lines,
                              read_dataset_lines(options.path));
  SplitMix64 random(seed);
  constexpr int64_t kSampleLines = 64;
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t sample_tokens,
                              counter.count_text(draw_lines(lines, kSampleLines, random)));
  const double tokens_per_line = static_cast<double>(sample_tokens) / kSampleLines;
  const auto num_lines = [&](int64_t num_tokens) {
    return std::llround(static_cast<double>(num_tokens) / tokens_per_line);
  };
  std::vector<LoadPrompt> prompts;
  for (const PromptLengths& length : lengths) {
    const int64_t shared = num_lines(shared_len(options, length.input_len));
    const int64_t all = std::max<int64_t>(1, num_lines(length.input_len));
    SplitMix64 prefix_random(seed ^ kPrefixSeed);
    LoadPrompt prompt{.output_len = length.output_len};
    prompt.turns.push_back(draw_lines(lines, shared, prefix_random) +
                           draw_lines(lines, all - shared, random));
    for (int turn = 1; turn < options.num_turns; ++turn) {
      prompt.turns.push_back(draw_lines(lines, all, random));
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

// The turns of one line of a file.
Result<std::vector<std::string>> turns_of(const Json& line, PromptSource source) {
  if (source == PromptSource::kMtBench) {
    const auto turns = line.find("turns");
    const bool is_list = turns != line.end() && turns->is_array() && !turns->empty() &&
                         std::all_of(turns->begin(), turns->end(),
                                     [](const Json& turn) { return turn.is_string(); });
    if (!is_list) return failed("\"turns\", a list of texts, is expected");
    return turns->get<std::vector<std::string>>();
  }
  const char* key = source == PromptSource::kGsm8k ? "question" : "prompt";
  const Result<std::string> text = json_string(line, key, "");
  if (!text.ok() || text->empty()) return failed(str("\"", key, "\", a text, is expected"));
  return std::vector{text.value()};
}

// The lines of a JSONL file in an order of the seed; over again when there are too few.
Result<std::vector<LoadPrompt>> read_prompts(const PromptOptions& options,
                                             const std::vector<PromptLengths>& lengths,
                                             uint64_t seed) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<std::string> lines,
                              read_dataset_lines(options.path));
  std::vector<std::vector<std::string>> all;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string where = str(options.path, ":", i + 1);
    const Result<Json> line = parse_json(lines[i], "line");
    if (!line.ok()) return line.status().in(where);
    if (!line->is_object()) return failed(str(where, ": a JSON object is expected"));
    auto turns = turns_of(line.value(), options.source);
    if (!turns.ok()) return turns.status().in(where);
    all.push_back(std::move(turns).value());
  }
  SplitMix64 random(seed);
  for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[random.below(i)]);
  std::vector<LoadPrompt> prompts;
  for (size_t i = 0; i < lengths.size(); ++i) {
    prompts.push_back(
        {.ids = {}, .turns = all[i % all.size()], .output_len = lengths[i].output_len});
  }
  return prompts;
}

}  // namespace

const std::vector<std::string>& prompt_source_names() {
  static const std::vector<std::string> names = {"random",    "sonnet",   "gsm8k",
                                                 "humaneval", "mt-bench", "custom"};
  return names;
}

Result<std::vector<LoadPrompt>> make_load_prompts(const PromptOptions& options,
                                                  const std::vector<PromptLengths>& lengths,
                                                  uint64_t seed, TokenCounter& counter) {
  switch (options.source) {
    case PromptSource::kRandom:
      if (options.as_ids && !options.is_chat) return make_id_prompts(options, lengths, seed);
      return make_word_prompts(options, lengths, seed, counter);
    case PromptSource::kSonnet:
      return make_sonnets(options, lengths, seed, counter);
    default:
      return read_prompts(options, lengths, seed);
  }
}

}  // namespace slipstream

// slipstream check fidelity: fast kernels against the float32 reference on real text and prompts.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "bench/fidelity.h"
#include "cli/chat_prompt.h"
#include "cli/command.h"
#include "cli/line_io.h"
#include "cli/model_path.h"
#include "cli/shared_flags.h"
#include "engine/engine_options.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

constexpr uint64_t kMaxTextBytes = 1u << 30;

// Facts, lists, code, arithmetic, translation, stories, dialogue: what a small model meets.
constexpr const char* kPrompts[] = {
    "What is the capital of Japan?",
    "List the months of the year.",
    "Convert 10 kilometres to metres.",
    "Write a Python function that returns the factorial of n.",
    "Say hello to the world in French.",
    "Why is the sky blue?",
    "Write the numbers from 1 to 20 separated by commas.",
    "Who wrote Romeo and Juliet?",
    "Write one sentence about a cat.",
    "What do bees make?",
    "Explain photosynthesis in one sentence.",
    "How many days are in a week?",
    "Give me a recipe for pancakes.",
    "What is the opposite of hot?",
    "Count from one to ten.",
    "Write a haiku about the sea.",
    "What is the largest ocean on Earth?",
    "Summarise: The quick brown fox jumps over the lazy dog.",
    "What does HTTP stand for?",
    "Write a short email asking for a day off.",
    "Which animal is known as the king of the jungle?",
    "Tell me a fact about the Moon.",
    "What is the chemical symbol for gold?",
    "What is water made of?",
    "Write the first line of a fairy tale.",
    "How do I boil an egg?",
    "What is a prime number?",
    "Repeat after me: one two three four five six seven eight nine ten.",
    "Write an HTML page with a heading that says Hello.",
    "Who was the first president of the United States?",
    "Complete the sentence: The sun rises in the",
    "Give two reasons to exercise.",
};

class CheckFidelityCommand : public Command {
 public:
  std::string name() const override { return "check fidelity"; }
  std::string summary() const override {
    return "fast kernels against the float32 reference: perplexity, KL divergence, greedy tokens";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override;
  Result<int> run() override;

 private:
  Result<std::vector<std::vector<int32_t>>> read_windows(const Tokenizer& tokenizer) const;
  Result<std::vector<std::vector<int32_t>>> read_prompts(const Tokenizer& tokenizer) const;

  SharedOptions shared_;
  std::string file_;
  std::string prompts_file_;
  int64_t window_ = 512;
  int64_t max_windows_ = 4;
  bool greedy_ = false;
  int64_t max_tokens_ = 24;
  bool json_ = false;
};

std::vector<Flag> CheckFidelityCommand::flags() {
  std::vector<Flag> flags = {
      text_flag({"file", "f", "FILE", "", "text for teacher-forced windows, plain UTF-8"},
                [this](const std::string& value) { file_ = value; }),
      int_flag({"window", "", "TOKENS", "512", "tokens of a window"}, {2, 1 << 20},
               [this](int64_t value) { window_ = value; }),
      int_flag({"max-windows", "", "N", "4", "windows to score"}, {1, INT32_MAX},
               [this](int64_t value) { max_windows_ = value; }),
      switch_flag({"greedy", "", "", "", "compare greedy answers to 32 built-in prompts"},
                  [this] { greedy_ = true; }),
      text_flag({"prompts", "", "FILE", "", "compare greedy answers to these prompts, one a line"},
                [this](const std::string& value) { prompts_file_ = value; }),
      int_flag({"max-tokens", "n", "TOKENS", "24", "longest greedy answer"}, {1, 4096},
               [this](int64_t value) { max_tokens_ = value; }),
      switch_flag({"json", "", "", "", "print one JSON object"}, [this] { json_ = true; }),
  };
  constexpr std::array<std::string_view, 7> kEngineFlags = {
      "model", "device", "threads", "cpu-isa", "quantization", "kv-cache-dtype", "deterministic"};
  for (Flag& flag : engine_flags(shared_, kEngineFlags)) flags.push_back(std::move(flag));
  return flags;
}

Result<std::vector<std::vector<int32_t>>> CheckFidelityCommand::read_windows(
    const Tokenizer& tokenizer) const {
  Result<std::string> text = read_text_file(file_, kMaxTextBytes);
  if (!text.ok()) return bad_usage("--file " + text.status().message());
  SLIPSTREAM_RETURN_IF_ERROR(require_utf8(text.value(), file_));
  EncodeOptions options;
  options.add_special = false;
  options.max_bytes = kMaxTextBytes;
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto ids, tokenizer.encode(text.value(), options));
  std::vector<std::vector<int32_t>> windows;
  for (auto begin = ids.begin();
       ids.end() - begin >= window_ && static_cast<int64_t>(windows.size()) < max_windows_;
       begin += window_) {
    windows.emplace_back(begin, begin + window_);
    if (tokenizer.adds_bos() && tokenizer.special_tokens().bos_id) {
      windows.back().front() = *tokenizer.special_tokens().bos_id;
    }
  }
  if (windows.empty()) {
    return bad_usage(str(file_, ": ", ids.size(), " tokens, less than one window of ", window_));
  }
  return windows;
}

Result<std::vector<std::vector<int32_t>>> CheckFidelityCommand::read_prompts(
    const Tokenizer& tokenizer) const {
  std::vector<std::string> texts(std::begin(kPrompts), std::end(kPrompts));
  if (!prompts_file_.empty()) {
    Result<std::string> text = read_text_file(prompts_file_, kMaxTextBytes);
    if (!text.ok()) return bad_usage("--prompts " + text.status().message());
    SLIPSTREAM_RETURN_IF_ERROR(require_utf8(text.value(), prompts_file_));
    texts = split(text.value(), '\n');
    std::erase(texts, "");
    if (texts.empty()) return bad_usage(prompts_file_ + ": no prompts, expected one a line");
  }
  std::vector<std::vector<int32_t>> prompts;
  for (const std::string& text : texts) {
    PromptOptions options;
    options.allow_plain = true;
    SLIPSTREAM_ASSIGN_OR_RETURN(auto ids, prompt_ids(tokenizer, {{"user", text}}, options));
    prompts.push_back(std::move(ids));
  }
  return prompts;
}

FidelityCheck::Progress progress_of(const std::string& what) {
  const bool is_terminal = ::isatty(STDERR_FILENO) == 1;
  if (!is_terminal) write_stderr("comparing " + what + "s\n");
  return [what, is_terminal](int64_t done, int64_t total) {
    if (!is_terminal) return;
    write_stderr(done == total ? std::string("\r\033[K")
                               : str("\r", what, " ", done, " of ", total));
  };
}

Json windows_json(const WindowFidelity& result) {
  return Json{{"windows", result.num_windows},
              {"tokens", result.num_tokens},
              {"reference_perplexity", result.reference_perplexity()},
              {"fast_perplexity", result.fast_perplexity()},
              {"perplexity_error", result.perplexity_error()},
              {"mean_kl", result.mean_kl},
              {"max_kl", result.max_kl},
              {"mean_abs_logprob_error", result.mean_abs_logprob_error},
              {"top1_agreement", result.top1_agreement}};
}

Json greedy_json(const GreedyFidelity& result) {
  return Json{{"prompts", result.num_prompts},
              {"equal", result.num_equal},
              {"compared_at_least_8", result.num_compared_8},
              {"tokens_compared", result.num_tokens_compared},
              {"per_prompt", result.tokens_compared},
              {"different", result.different}};
}

std::string words(const Json& report) {
  std::string text = str("reference (float32) against ", report["fast"].get<std::string>(), "\n");
  if (report.contains("windows")) {
    const Json& w = report["windows"];
    text += str("  perplexity ", w["reference_perplexity"], " and ", w["fast_perplexity"], " over ",
                w["tokens"], " tokens: ", w["perplexity_error"].get<double>() * 100.0,
                " %\n  KL mean ", w["mean_kl"], " max ", w["max_kl"],
                "; |logprob difference| mean ", w["mean_abs_logprob_error"], "; same best token ",
                w["top1_agreement"].get<double>() * 100.0, " %\n");
  }
  if (report.contains("greedy")) {
    const Json& g = report["greedy"];
    text += str("  greedy: ", g["equal"], " of ", g["prompts"],
                " prompts equal up to the first narrow step; ", g["compared_at_least_8"],
                " compared 8 tokens or more, ", g["tokens_compared"], " tokens in all\n");
  }
  return text;
}

Result<int> CheckFidelityCommand::run() {
  const bool with_greedy = greedy_ || !prompts_file_.empty();
  if (file_.empty() && !with_greedy) {
    return bad_usage("nothing to compare: give --file FILE, --greedy or --prompts FILE");
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const ModelPath model, resolve_model(shared_.model));
  shared_.engine.model = model.path;
  SLIPSTREAM_ASSIGN_OR_RETURN(ResolvedOptions resolved, resolve_options(shared_.engine));
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(model.path));
  follow_checkpoint(shared_.engine, *checkpoint, resolved);
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::load(model.path));
  std::vector<std::vector<int32_t>> windows, prompts;
  if (!file_.empty()) {
    SLIPSTREAM_ASSIGN_OR_RETURN(windows, read_windows(*tokenizer));
  }
  if (with_greedy) {
    SLIPSTREAM_ASSIGN_OR_RETURN(prompts, read_prompts(*tokenizer));
  }
  FidelityOptions options;
  options.model = model.path;
  options.ops = resolved.ops;
  options.kv_dtype = resolved.kv_dtype;
  options.weight_dtype = resolved.weight_dtype;
  options.keep_stored_dtypes = resolved.keep_stored_dtypes;
  options.deterministic = shared_.engine.deterministic;
  options.num_threads = resolved.num_threads;
  options.max_context = window_;
  for (const std::vector<int32_t>& prompt : prompts) {
    options.max_context =
        std::max(options.max_context, static_cast<int64_t>(prompt.size()) + max_tokens_);
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto check, FidelityCheck::open(options));
  Json report{{"model", model.name}, {"fast", resolved.ops->name}};
  if (!windows.empty()) {
    report["windows"] = windows_json(check->compare_windows(windows, progress_of("window")));
  }
  if (with_greedy) {
    GreedyOptions greedy;
    greedy.max_tokens = max_tokens_;
    greedy.end_ids = tokenizer->special_tokens().end_of_generation_ids;
    report["greedy"] = greedy_json(check->compare_greedy(prompts, greedy, progress_of("prompt")));
  }
  Output output;
  output.write_now(json_ ? dump_json(report) + "\n" : words(report));
  if (!output.status().ok()) return output.status();
  const bool differs = with_greedy && report["greedy"]["equal"] != report["greedy"]["prompts"];
  return differs ? 1 : 0;
}

}  // namespace

std::unique_ptr<Command> make_check_fidelity_command() {
  return std::make_unique<CheckFidelityCommand>();
}

}  // namespace slipstream

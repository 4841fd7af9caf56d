// slipstream perplexity: how likely a model finds a text.
//
// The text is tokenised once, without bos and eos and with special tokens parsed, and cut into
// windows of N ids; a last partial window is dropped. Each window starts from an empty KV cache
// and is scored on its tokens 2..N. Where the tokenizer adds bos, bos takes the place of the first
// id of every window.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "base/json.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "cli/command.h"
#include "cli/interrupts.h"
#include "cli/line_io.h"
#include "cli/open_client.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

constexpr uint64_t kMaxTextBytes = 1u << 30;
constexpr int64_t kMaxInFlight = 4;

struct Score {
  double nll_sum = 0.0;
  int64_t num_tokens = 0;
  int64_t num_windows = 0;

  double nll() const { return nll_sum / static_cast<double>(num_tokens); }
  double perplexity() const { return std::exp(nll()); }
};

class PerplexityCommand : public Command {
 public:
  std::string name() const override { return "perplexity"; }
  std::string summary() const override {
    return "mean negative log-likelihood and perplexity of a text";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {
        text_flag({"file", "f", "FILE", "", "the text, plain UTF-8 (required)"},
                  [this](const std::string& value) { file_ = value; }),
        int_flag({"window", "", "TOKENS", "512", "tokens of a window"}, {2, 1 << 24},
                 [this](int64_t value) { window_ = value; }),
        int_flag({"max-windows", "", "N", "all", "windows to score"}, {1, INT32_MAX},
                 [this](int64_t value) { max_windows_ = value; }),
        switch_flag({"json", "", "", "", "print one JSON object"}, [this] { json_ = true; }),
    };
    for (Flag& flag : engine_flags(shared_)) flags.push_back(std::move(flag));
    return flags;
  }
  Result<int> run() override;

 private:
  Result<std::vector<std::vector<int32_t>>> cut_windows(const Tokenizer& tokenizer,
                                                        const std::string& text) const;
  Result<Score> score(EngineClient& client, std::vector<std::vector<int32_t>> windows,
                      const Interrupts& interrupts) const;

  SharedOptions shared_;
  std::string file_;
  int64_t window_ = 512;
  int64_t max_windows_ = INT32_MAX;
  bool json_ = false;
};

Result<std::vector<std::vector<int32_t>>> PerplexityCommand::cut_windows(
    const Tokenizer& tokenizer, const std::string& text) const {
  EncodeOptions options;
  options.add_special = false;
  options.max_bytes = kMaxTextBytes;
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.encode(text, options));
  const int64_t num_windows = std::min(static_cast<int64_t>(ids.size()) / window_, max_windows_);
  if (num_windows == 0) {
    return bad_usage(str(file_, ": ", ids.size(), " tokens, less than one window of ", window_,
                         "; give a longer text or a smaller --window"));
  }
  std::vector<std::vector<int32_t>> windows;
  for (int64_t window_idx = 0; window_idx < num_windows; ++window_idx) {
    const auto begin = ids.begin() + window_idx * window_;
    windows.emplace_back(begin, begin + window_);
    if (tokenizer.adds_bos() && tokenizer.special_tokens().bos_id) {
      windows.back().front() = *tokenizer.special_tokens().bos_id;
    }
  }
  return windows;
}

// A few windows are in flight at once, so the engine can fill its steps.
Result<Score> PerplexityCommand::score(EngineClient& client,
                                       std::vector<std::vector<int32_t>> windows,
                                       const Interrupts& interrupts) const {
  const bool is_terminal = ::isatty(STDERR_FILENO) == 1;
  const int64_t num_windows = static_cast<int64_t>(windows.size());
  std::map<RequestId, int64_t> in_flight;
  std::vector<double> nll_of_window(windows.size());  // summed in order: the same digits each run
  Score score;
  int64_t next_idx = 0;
  if (!is_terminal) {
    write_stderr(str("scoring ", num_windows, " windows of ", window_, " tokens\n"));
  }
  while (score.num_windows < num_windows) {
    if (interrupts.interrupted()) return failed("interrupted");
    while (next_idx < num_windows && static_cast<int64_t>(in_flight.size()) < kMaxInFlight) {
      Request request;
      request.prompt_token_ids = std::move(windows[static_cast<size_t>(next_idx)]);
      request.sampling.temperature = 0.0f;
      request.sampling.max_tokens = 0;
      request.sampling.prompt_logprobs = 0;
      SLIPSTREAM_ASSIGN_OR_RETURN(const RequestId id, client.engine().submit(std::move(request)));
      in_flight[id] = next_idx++;
    }
    for (const TokenEvent& event : client.wait(200)) {
      const auto window = in_flight.find(event.request);
      if (window == in_flight.end()) continue;
      if (event.first) {
        double& nll = nll_of_window[static_cast<size_t>(window->second)];
        for (const TokenLogprobs& token : event.prompt_logprobs) nll -= token.logprob;
        score.num_tokens += static_cast<int64_t>(event.prompt_logprobs.size());
      }
      if (event.finish == FinishReason::kNone) continue;
      if (event.finish == FinishReason::kError) return failed("scoring: " + event.error);
      in_flight.erase(window);
      ++score.num_windows;
      if (is_terminal) write_stderr(str("\rwindow ", score.num_windows, " of ", num_windows));
    }
  }
  if (is_terminal) write_stderr("\r\033[K");
  for (const double nll : nll_of_window) score.nll_sum += nll;
  return score;
}

Result<int> PerplexityCommand::run() {
  if (file_.empty()) return bad_usage("--file is required: the text to score");
  Result<std::string> text = read_text_file(file_, kMaxTextBytes);
  if (!text.ok()) return bad_usage("--file " + text.status().message());
  SLIPSTREAM_RETURN_IF_ERROR(require_utf8(text.value(), file_));
  const Interrupts interrupts([] {});
  if (shared_.engine.skip_tokenizer_init) {
    return bad_usage("--skip-tokenizer-init: perplexity needs the tokenizer");
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(OpenedModel model, open_model(shared_));
  SLIPSTREAM_ASSIGN_OR_RETURN(auto windows,
                              cut_windows(*model.client->engine().tokenizer(), text.value()));
  SLIPSTREAM_ASSIGN_OR_RETURN(const Score total,
                              score(*model.client, std::move(windows), interrupts));
  Output output;
  if (json_) {
    output.write(dump_json(Json{{"nll", total.nll()},
                                {"perplexity", total.perplexity()},
                                {"tokens", total.num_tokens},
                                {"windows", total.num_windows}}) +
                 "\n");
  } else {
    output.write(str("perplexity ", total.perplexity(), ", nll ", total.nll(), " over ",
                     total.num_tokens, " tokens in ", total.num_windows, " windows\n"));
  }
  output.flush();
  if (!output.status().ok()) return output.status();
  return 0;
}

}  // namespace

std::unique_ptr<Command> make_perplexity_command() { return std::make_unique<PerplexityCommand>(); }

}  // namespace slipstream

// slipstream tokenize, detokenize: one JSON value per stdin line in, one per line out.
//
// Lines stay in step: a line that cannot be converted gives `null` on stdout and its reason on
// stderr, and the command goes on; it then ends with exit code 1.
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/strings.h"
#include "cli/command.h"
#include "cli/line_io.h"
#include "cli/model_path.h"
#include "cli/shared_flags.h"
#include "text/tokenize_lines.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

constexpr uint64_t kMaxLineBytes = 256u << 20;

Result<int> convert_lines(const std::string& command,
                          const std::function<Result<std::string>(std::string_view)>& convert) {
  Output output;
  LineReader lines(STDIN_FILENO, kMaxLineBytes, &output);
  int exit_code = 0;
  while (!output.closed()) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::optional<std::string_view> line, lines.next());
    if (!line) break;
    Result<std::string> converted = convert(*line);
    if (!converted.ok()) {
      output.flush();
      write_stderr(str("slipstream ", command, ": error: line ", lines.line_number(), ": ",
                       converted.status().message(), "\n"));
      exit_code = 1;
    }
    output.write(converted.ok() ? converted.value() + "\n" : std::string("null\n"));
  }
  output.flush();
  if (!output.status().ok()) return output.status();
  return exit_code;
}

Result<std::shared_ptr<const Tokenizer>> load_tokenizer(const SharedOptions& shared) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const ModelPath model, resolve_model(shared.model));
  return Tokenizer::load(model.path);
}

class TokenizeCommand : public Command {
 public:
  std::string name() const override { return "tokenize"; }
  std::string summary() const override {
    return "one JSON string per stdin line in, one JSON array of token ids per line out";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override {
    return {
        model_flag(shared_),
        switch_flag({"no-add-special", "", "", "", "do not add bos and eos"},
                    [this] { options_.add_special = false; }),
        switch_flag({"no-parse-special", "", "", "",
                     "special tokens spelled in the text are ordinary text"},
                    [this] { options_.parse_special = false; }),
    };
  }
  Result<int> run() override {
    SLIPSTREAM_ASSIGN_OR_RETURN(const auto tokenizer, load_tokenizer(shared_));
    return convert_lines(
        name(), [&](std::string_view line) { return tokenize_line(*tokenizer, line, options_); });
  }

 private:
  SharedOptions shared_;
  EncodeOptions options_;
};

class DetokenizeCommand : public Command {
 public:
  std::string name() const override { return "detokenize"; }
  std::string summary() const override {
    return "one JSON array of token ids per stdin line in, one JSON string per line out";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override {
    return {
        model_flag(shared_),
        switch_flag({"skip-special", "", "", "", "leave special tokens out of the text"},
                    [this] { options_.skip_special = true; }),
    };
  }
  Result<int> run() override {
    SLIPSTREAM_ASSIGN_OR_RETURN(const auto tokenizer, load_tokenizer(shared_));
    return convert_lines(
        name(), [&](std::string_view line) { return detokenize_line(*tokenizer, line, options_); });
  }

 private:
  SharedOptions shared_;
  DecodeOptions options_{.skip_special = false};
};

}  // namespace

std::unique_ptr<Command> make_tokenize_command() { return std::make_unique<TokenizeCommand>(); }
std::unique_ptr<Command> make_detokenize_command() { return std::make_unique<DetokenizeCommand>(); }

}  // namespace slipstream

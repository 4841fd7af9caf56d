// slipstream run: one answer, streamed to stdout; the speed line to stderr.
//
// Exit codes besides the common ones: 1 when Ctrl-C ended the answer early (what was there is
// printed), 130 when a second Ctrl-C ended the process. A reader that closes stdout ends it
// quietly with 0.
#include <unistd.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "cli/answer.h"
#include "cli/chat_prompt.h"
#include "cli/command.h"
#include "cli/generation_flags.h"
#include "cli/interrupts.h"
#include "cli/line_io.h"
#include "cli/open_client.h"
#include "cli/shared_flags.h"

namespace slipstream {
namespace {

constexpr uint64_t kMaxPromptBytes = 64u << 20;

class RunCommand : public Command {
 public:
  std::string name() const override { return "run"; }
  std::string summary() const override { return "answers one prompt: -p TEXT, -f FILE, or stdin"; }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override;
  Result<int> run() override;

 private:
  Result<std::string> read_prompt() const;
  Result<Request> make_request(const std::string& prompt, EngineClient& client) const;
  Result<int> finish(EngineClient& client, const OpenedModel& model, const Request& request,
                     const Generation& generation, Output& output) const;

  SharedOptions shared_;
  GenerationFlags generation_;
  std::optional<std::string> prompt_, prompt_file_, system_;
  std::optional<int64_t> logprobs_, prompt_logprobs_;
  bool raw_ = false;
  bool json_ = false;
};

std::vector<Flag> RunCommand::flags() {
  std::vector<Flag> flags = {
      text_flag({"prompt", "p", "TEXT", "stdin", "the prompt"},
                [this](const std::string& value) { prompt_ = value; }),
      text_flag({"file", "f", "FILE", "", "the prompt from a file"},
                [this](const std::string& value) { prompt_file_ = value; }),
      text_flag({"system", "", "TEXT", "", "system message in front of the prompt"},
                [this](const std::string& value) { system_ = value; }),
      switch_flag({"raw", "", "", "", "no chat template: the prompt as it is"},
                  [this] { raw_ = true; }),
      int_flag({"logprobs", "", "K", "off", "with --json: the K likeliest tokens of each step"},
               {0, 20}, [this](int64_t value) { logprobs_ = value; }),
      int_flag({"prompt-logprobs", "", "K", "off", "with --json: the same for the prompt"}, {0, 20},
               [this](int64_t value) { prompt_logprobs_ = value; }),
      switch_flag({"json", "", "", "", "print one JSON object instead of streaming text"},
                  [this] { json_ = true; }),
  };
  for (auto& group : {generation_flags(generation_), engine_flags(shared_)}) {
    flags.insert(flags.end(), group.begin(), group.end());
  }
  return flags;
}

Result<std::string> RunCommand::read_prompt() const {
  if (prompt_ && prompt_file_) return bad_usage("--prompt and --file are both given; give one");
  std::string text;
  std::string what = "--prompt";
  if (prompt_) {
    text = *prompt_;
  } else if (prompt_file_) {
    what = "--file " + *prompt_file_;
    Result<std::string> read = read_text_file(*prompt_file_, kMaxPromptBytes);
    if (!read.ok()) return bad_usage("--file " + read.status().message());
    text = std::move(read).value();
  } else {
    what = "stdin";
    if (::isatty(STDIN_FILENO) == 1) write_stderr("prompt (Ctrl-D ends it):\n");
    SLIPSTREAM_ASSIGN_OR_RETURN(text, read_all(STDIN_FILENO, kMaxPromptBytes, what));
    if (ends_with(text, "\n")) text.pop_back();
  }
  SLIPSTREAM_RETURN_IF_ERROR(require_utf8(text, what));
  if (system_) SLIPSTREAM_RETURN_IF_ERROR(require_utf8(*system_, "--system"));
  return text;
}

// Without a tokenizer a prompt is a JSON array of ids.
Result<std::vector<int32_t>> parse_ids(const std::string& text, int64_t vocab_size) {
  const Status error = bad_usage(
      str("--skip-tokenizer-init: the prompt must be a JSON array of token ids from 0 to ",
          vocab_size - 1));
  const Result<Json> list = parse_json(text, "the prompt");
  if (!list.ok() || !list->is_array()) return error;
  std::vector<int32_t> ids;
  for (const Json& item : list.value()) {
    if (!item.is_number_integer()) return error;
    const auto id = item.get<int64_t>();
    if (id < 0 || id >= vocab_size) return error;
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

Result<Request> RunCommand::make_request(const std::string& prompt, EngineClient& client) const {
  Request request;
  request.sampling = generation_.apply(client.model().default_sampling);
  request.sampling.seed = shared_.seed;
  if (logprobs_) request.sampling.logprobs = static_cast<int32_t>(*logprobs_);
  if (prompt_logprobs_) request.sampling.prompt_logprobs = static_cast<int32_t>(*prompt_logprobs_);

  const auto& tokenizer = client.engine().tokenizer();
  if (tokenizer == nullptr) {
    SLIPSTREAM_ASSIGN_OR_RETURN(request.prompt_token_ids,
                                parse_ids(prompt, client.model().vocab_size));
  } else {
    PromptOptions options;
    options.raw = raw_;
    options.allow_plain = true;
    const bool templated = uses_template(*tokenizer, options);
    if (system_ && !templated) {
      return bad_usage(raw_ ? "--system needs the chat template that --raw turns off"
                            : "--system needs a chat template, and this model has none");
    }
    if (templated && prompt.empty()) {
      return bad_usage("the prompt is empty; give -p TEXT, -f FILE or text on stdin");
    }
    std::vector<ChatMessage> messages;
    if (system_) messages.push_back({"system", *system_});
    messages.push_back({"user", prompt});
    SLIPSTREAM_ASSIGN_OR_RETURN(request.prompt_token_ids,
                                prompt_ids(*tokenizer, messages, options));
  }
  if (request.prompt_token_ids.empty()) {
    return bad_usage("the prompt is empty and the model has no bos token; give some text");
  }
  fit_to_context(client.model(), request);
  return request;
}

Result<int> RunCommand::finish(EngineClient& client, const OpenedModel& model,
                               const Request& request, const Generation& generation,
                               Output& output) const {
  if (output.closed() && output.status().ok()) return 0;  // the reader has what it wanted
  const Speed speed = measure_speed(client, generation);
  if (json_) {
    const AnswerContext context{model.name, client.load_s(), &client.model(), &request};
    output.write_now(dump_json(answer_json(generation, speed, context)) + "\n");
  } else {
    output.write_now("\n");
  }
  if (!output.status().ok()) return output.status();
  write_stderr(speed_line(generation, speed) + "\n");
  return generation.finish == FinishReason::kAbort ? 1 : 0;
}

Result<int> RunCommand::run() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string prompt, read_prompt());
  const bool wants_logprobs = logprobs_ || prompt_logprobs_;
  if (wants_logprobs && !json_) {
    return bad_usage("--logprobs and --prompt-logprobs are part of the JSON object; add --json");
  }
  const Interrupts interrupts([] {});
  Output output;
  SLIPSTREAM_ASSIGN_OR_RETURN(OpenedModel model, open_model(shared_));
  EngineClient& client = *model.client;
  SLIPSTREAM_ASSIGN_OR_RETURN(const Request request, make_request(prompt, client));
  if (interrupts.interrupted()) return failed("interrupted while loading");
  SLIPSTREAM_ASSIGN_OR_RETURN(const Generation generation,
                              stream_answer(client, request, output, interrupts, !json_));
  return finish(client, model, request, generation, output);
}

}  // namespace

std::unique_ptr<Command> make_run_command() { return std::make_unique<RunCommand>(); }

}  // namespace slipstream

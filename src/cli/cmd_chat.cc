// slipstream chat: a conversation on the terminal, or line by line through a pipe.
//
// Ctrl-C ends the answer that is being written; at the prompt it says how to leave, and a second
// one in a row leaves at once.
#include <unistd.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "cli/answer.h"
#include "cli/chat_prompt.h"
#include "cli/command.h"
#include "cli/conversation.h"
#include "cli/generation_flags.h"
#include "cli/interrupts.h"
#include "cli/line_io.h"
#include "cli/open_client.h"
#include "cli/shared_flags.h"

namespace slipstream {
namespace {

constexpr uint64_t kMaxLineBytes = 16u << 20;

constexpr const char* kHelp =
    "/help              this list\n"
    "/system [TEXT]     set the system message; without TEXT, show it\n"
    "/set [NAME VALUE]  set a generation flag, as in `/set temperature 0`; without, list them\n"
    "/stats             speed of the last answer, and what the engine did\n"
    "/save FILE         write the conversation\n"
    "/load FILE         continue a written conversation\n"
    "/reset             forget the conversation, keep the system message\n"
    "/exit              leave (also Ctrl-D)\n"
    "Ctrl-C stops an answer. A line that starts with // is sent with one slash.\n";

// One chat on an opened model.
class ChatSession {
 public:
  ChatSession(const OpenedModel& model, GenerationFlags& generation, SharedOptions& shared,
              Interrupts& interrupts)
      : client_(*model.client), generation_(generation), shared_(shared), interrupts_(interrupts) {
    settable_ = generation_flags(generation_);
    settable_.push_back(seed_flag({"seed", "", "N", "drawn", "seed of sampling"},
                                  [this](uint64_t value) { shared_.seed = value; }));
  }

  Conversation& conversation() { return conversation_; }
  Result<int> run();

 private:
  // False: leave.
  bool take_line(const std::string& line);
  bool take_command(const std::string& name, const std::string& rest);
  void set(const std::string& rest);
  void say_stats();
  Status answer(const std::string& text);

  void say(const std::string& text) { write_stderr(text); }
  void say_error(const Status& status) { say("error: " + status.message() + "\n"); }

  EngineClient& client_;
  GenerationFlags& generation_;
  SharedOptions& shared_;
  Interrupts& interrupts_;
  std::vector<Flag> settable_;
  Conversation conversation_;
  Output output_;
  std::string last_speed_;
};

Result<int> ChatSession::run() {
  const bool is_terminal = ::isatty(STDIN_FILENO) == 1;
  if (is_terminal) say("/help lists the commands\n");
  LineReader lines(STDIN_FILENO, kMaxLineBytes, &output_);
  while (!output_.closed()) {
    if (is_terminal) say("> ");
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::optional<std::string_view> line, lines.next());
    interrupts_.reset();
    if (!line) break;
    if (!take_line(std::string(*line))) break;
    interrupts_.reset();
  }
  if (!output_.status().ok()) return output_.status();
  return 0;
}

bool ChatSession::take_line(const std::string& line) {
  const Status utf8 = require_utf8(line, "the line");
  if (!utf8.ok()) {
    say_error(utf8);
    return true;
  }
  if (line.find_first_not_of(" \t") == std::string::npos) return true;
  if (line[0] == '/' && !starts_with(line, "//")) {
    const size_t space = line.find(' ');
    const std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
    return take_command(line.substr(1, space - 1), rest);
  }
  const Status status = answer(starts_with(line, "//") ? line.substr(1) : line);
  if (!status.ok()) say_error(status);
  return true;
}

bool ChatSession::take_command(const std::string& name, const std::string& rest) {
  Status status;
  if (name == "exit" || name == "quit") return false;
  if (name == "help") {
    say(kHelp);
  } else if (name == "reset") {
    conversation_.reset();
    say("the conversation is empty\n");
  } else if (name == "system") {
    if (!rest.empty()) conversation_.set_system(rest);
    say(conversation_.system().empty() ? std::string("no system message\n")
                                       : "system: " + conversation_.system() + "\n");
  } else if (name == "set") {
    set(rest);
  } else if (name == "stats") {
    say_stats();
  } else if (name == "save" || name == "load") {
    if (rest.empty()) {
      status = bad_usage(str("/", name, " needs a file name"));
    } else {
      status = name == "save" ? conversation_.save(rest) : conversation_.load(rest);
    }
    if (status.ok()) {
      say(str(conversation_.num_turns(), " messages ",
              name == "save" ? "written to " : "read from ", rest, "\n"));
    }
  } else {
    status = bad_usage(str("no command /", name, "; /help lists them"));
  }
  if (!status.ok()) say_error(status);
  return true;
}

void ChatSession::set(const std::string& rest) {
  const size_t space = rest.find(' ');
  const std::string name = rest.substr(0, space);
  const std::string value = space == std::string::npos ? "" : rest.substr(space + 1);
  if (name.empty()) {
    for (const Flag& flag : settable_) {
      say(str("/set ", flag.text.name, " ", flag.text.value, "  ", flag.text.help, "\n"));
    }
    return;
  }
  for (const Flag& flag : settable_) {
    if (flag.text.name != name) continue;
    const Status status = flag.set(flag.is_switch() ? "true" : value);
    if (!status.ok()) say_error(status);
    return;
  }
  say_error(bad_usage(str(quote(name), " cannot be set; /set lists what can")));
}

void ChatSession::say_stats() {
  if (!last_speed_.empty()) say("last answer: " + last_speed_ + "\n");
  const EngineStats stats = client_.engine().stats();
  say(str("all answers: ", stats.num_finished, " requests, ", stats.num_prompt_tokens,
          " prompt tokens, ", stats.num_generated_tokens, " generated tokens in ", stats.num_steps,
          " steps; ", stats.kv_blocks_used, " of ", stats.kv_blocks_total, " KV blocks in use\n"));
}

// A turn that fails leaves the conversation as it was; an interrupted answer stays as far as it
// came.
Status ChatSession::answer(const std::string& text) {
  conversation_.add("user", text);
  Request request;
  request.sampling = generation_.apply(client_.model().default_sampling);
  request.sampling.seed = shared_.seed;
  Result<std::vector<int32_t>> ids =
      prompt_ids(*client_.engine().tokenizer(), conversation_.messages(), PromptOptions());
  if (!ids.ok()) {
    conversation_.drop_last();
    return ids.status();
  }
  request.prompt_token_ids = std::move(ids).value();
  fit_to_context(client_.model(), request);
  Result<Generation> generation = stream_answer(client_, request, output_, interrupts_, true);
  if (!generation.ok()) {
    conversation_.drop_last();
    return generation.status();
  }
  output_.write_now("\n");
  conversation_.add("assistant", generation->text);
  last_speed_ = speed_line(generation.value(), measure_speed(client_, generation.value()));
  return {};
}

class ChatCommand : public Command {
 public:
  std::string name() const override { return "chat"; }
  std::string summary() const override {
    return "an interactive conversation; /help inside lists its commands";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {
        text_flag({"system", "", "TEXT", "", "system message"},
                  [this](const std::string& value) { system_ = value; }),
    };
    for (auto& group : {generation_flags(generation_), engine_flags(shared_)}) {
      flags.insert(flags.end(), group.begin(), group.end());
    }
    return flags;
  }

  Result<int> run() override {
    SLIPSTREAM_RETURN_IF_ERROR(require_utf8(system_, "--system"));
    if (shared_.engine.skip_tokenizer_init) {
      return bad_usage("--skip-tokenizer-init: chat needs the tokenizer");
    }
    Interrupts interrupts([] { write_stderr("\n(/exit leaves; Ctrl-C again ends at once)\n"); });
    SLIPSTREAM_ASSIGN_OR_RETURN(OpenedModel model, open_model(shared_));
    if (!uses_template(*model.client->engine().tokenizer(), PromptOptions())) {
      return bad_usage(str("model ", quote(model.name),
                           " has no chat template; `slipstream run --raw` continues a text"));
    }
    ChatSession session(model, generation_, shared_, interrupts);
    session.conversation().set_system(system_);
    return session.run();
  }

 private:
  SharedOptions shared_;
  GenerationFlags generation_;
  std::string system_;
};

}  // namespace

std::unique_ptr<Command> make_chat_command() { return std::make_unique<ChatCommand>(); }

}  // namespace slipstream

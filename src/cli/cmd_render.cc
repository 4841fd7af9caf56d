// slipstream render: chat templates, one JSON object per stdin line in, one per line out.
//
// In: {"messages", "tools", "variables": {...}, "now": "ISO time"}. Out: {"text"}, or {"error",
// "error_type"}; a line that fails does not end the command. A model's template also sees the
// model's bos_token and eos_token unless the line gives its own.
#include <unistd.h>

#include <optional>
#include <string>
#include <utility>

#include "base/json.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "cli/command.h"
#include "cli/line_io.h"
#include "cli/model_path.h"
#include "cli/shared_flags.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

constexpr uint64_t kMaxLineBytes = 64u << 20;
constexpr uint64_t kMaxTemplateBytes = 4u << 20;

struct Source {
  std::string text;
  std::optional<std::string> bos_token, eos_token;  // none: the template came alone
};

class RenderCommand : public Command {
 public:
  std::string name() const override { return "render"; }
  std::string summary() const override {
    return "renders a chat template: one JSON object per stdin line in, one per line out";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override {
    return {
        model_flag(shared_),
        text_flag({"template", "", "FILE", "the model's", "a template file instead of a model's"},
                  [this](const std::string& value) { template_file_ = value; }),
    };
  }

  Result<int> run() override {
    SLIPSTREAM_ASSIGN_OR_RETURN(const Source source, read_source());
    SLIPSTREAM_ASSIGN_OR_RETURN(const jinja::Template compiled,
                                jinja::Template::parse(source.text));
    Output output;
    LineReader lines(STDIN_FILENO, kMaxLineBytes, &output);
    while (!output.closed()) {
      SLIPSTREAM_ASSIGN_OR_RETURN(const std::optional<std::string_view> line, lines.next());
      if (!line) break;
      const Json rendered = render(compiled, source, *line, lines.line_number());
      output.write(dump_json(rendered) + "\n");
    }
    output.flush();
    if (!output.status().ok()) return output.status();
    return 0;
  }

 private:
  Result<Source> read_source() const {
    Source source;
    if (template_file_) {
      Result<std::string> text = read_text_file(*template_file_, kMaxTemplateBytes);
      if (!text.ok()) return bad_usage("--template " + text.status().message());
      source.text = std::move(text).value();
      return source;
    }
    SLIPSTREAM_ASSIGN_OR_RETURN(const ModelPath model, resolve_model(shared_.model));
    SLIPSTREAM_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::load(model.path));
    if (tokenizer->chat_template() == nullptr) {
      return bad_usage(str(model.path, ": has no chat template; give --template FILE"));
    }
    source.text = *tokenizer->chat_template();
    source.bos_token = tokenizer->bos_token();
    source.eos_token = tokenizer->eos_token();
    return source;
  }

  static Json render(const jinja::Template& compiled, const Source& source, std::string_view text,
                     int64_t line_number) {
    Result<Json> line = parse_json(text, str("stdin line ", line_number));
    if (!line.ok()) {
      return Json{{"error", line.status().message()}, {"error_type", "JSONDecodeError"}};
    }
    if (source.bos_token && line->is_object()) {
      Json& variables = line.value()["variables"];
      if (variables.is_null()) variables = Json::object();
      if (variables.is_object()) {
        variables.emplace("bos_token", *source.bos_token);
        variables.emplace("eos_token", *source.eos_token);
      }
    }
    return render_line(compiled, line.value());
  }

  SharedOptions shared_;
  std::optional<std::string> template_file_;
};

}  // namespace

std::unique_ptr<Command> make_render_command() { return std::make_unique<RenderCommand>(); }

}  // namespace slipstream

// The template engine's public face: a sandboxed subset of Jinja2 that renders what chat templates
// need, byte for byte as Python's jinja2 does under Hugging Face's settings (trim_blocks,
// lstrip_blocks, loop controls, immutable sandbox, no autoescape, their tojson, raise_exception
// and strftime_now).
//
// A Template is immutable once parsed; any number of threads may render it at once. Templates and
// variables are untrusted: parsing and rendering are bounded by the limits below.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"
#include "text/jinja/ast.h"
#include "text/jinja/budget.h"
#include "text/jinja/error.h"
#include "text/jinja/parser.h"

namespace slipstream::jinja {

struct RenderOptions {
  RenderLimits limits;
  std::optional<std::tm> now;  // what strftime_now() shows; the local clock when absent
};

struct RenderResult {
  std::string text;
  std::optional<Error> error;  // set: `text` is empty

  bool ok() const { return !error.has_value(); }
};

// "2026-01-02T03:04:05", with a space for the T or without the time too.
Result<std::tm> parse_iso_time(std::string_view text);

class Template {
 public:
  // The status of a failure is invalid_model: "TemplateSyntaxError, line 3: ...".
  static Result<Template> parse(std::string_view source, const ParseLimits& limits = {});

  // `variables` is an object; its members are the template's variables.
  RenderResult render(const Json& variables, const RenderOptions& options = {}) const;

 private:
  explicit Template(std::shared_ptr<const Program> program) : program_(std::move(program)) {}

  std::shared_ptr<const Program> program_;  // shared: copies of a Template are cheap
};

}  // namespace slipstream::jinja

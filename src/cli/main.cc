// main: parses the command line with CLI11 and runs one command. Everything a command does is in
// its cmd_*.cc; everything a flag means is in its table.
#include <CLI/CLI.hpp>

#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "bench/build_info.h"
#include "cli/command.h"
#include "cli/config_file.h"
#include "cli/line_io.h"
#include "cli/shared_flags.h"

namespace slipstream {
namespace {

// One command as CLI11 knows it, and what was typed after each of its flags.
struct ParsedCommand {
  std::unique_ptr<Command> command;
  CLI::App* app = nullptr;
  std::vector<Flag> flags;
  std::vector<CLI::Option*> flag_options;  // parallel to `flags`
  std::vector<Positional> positionals;
  std::vector<CLI::Option*> positional_options;
};

int print_error(const std::string& where, const Status& status) {
  write_stderr(str(where, ": error: ", status.message(), "\n"));
  return status.exit_code();
}

std::string help_text(const std::string& help, const std::string& default_text) {
  return default_text.empty() ? help : str(help, " (default: ", default_text, ")");
}

void add_flag(ParsedCommand& parsed, Flag flag) {
  const FlagText& text = flag.text;
  const std::string names =
      (text.short_name.empty() ? "" : "-" + text.short_name + ",") + "--" + text.name;
  const std::string help = help_text(text.help, text.default_text);
  CLI::Option* option = nullptr;
  if (flag.is_switch()) {
    option = parsed.app->add_flag(names, help);
  } else {
    option = parsed.app->add_option(names, [](const CLI::results_t&) { return true; }, help);
    option->type_name(text.value)->type_size(1)->expected(1)->allow_extra_args(false);
    option->multi_option_policy(flag.repeats ? CLI::MultiOptionPolicy::TakeAll
                                             : CLI::MultiOptionPolicy::TakeLast);
  }
  parsed.flags.push_back(std::move(flag));
  parsed.flag_options.push_back(option);
}

void add_positional(ParsedCommand& parsed, Positional positional) {
  CLI::Option* option = parsed.app->add_option(
      positional.name, [](const CLI::results_t&) { return true; }, positional.help);
  option->type_size(1)->expected(1)->required(positional.required);
  if (positional.repeats) {
    option->expected(1, CLI::detail::expected_max_vector_size)->allow_extra_args();
  }
  parsed.positionals.push_back(std::move(positional));
  parsed.positional_options.push_back(option);
}

std::string group_summary(const std::string& group) {
  if (group == "bench") return "measures speed on this machine";
  if (group == "almanac") return "speeds of engines, models and machines: stored, shown, exported";
  return "tests this machine's results";
}

// "bench decode" becomes the subcommand `decode` of the subcommand `bench`.
CLI::App* add_app(CLI::App& root, const Command& command,
                  std::map<std::string, CLI::App*>& groups) {
  const std::vector<std::string> words = split(command.name(), ' ');
  CLI::App* parent = &root;
  if (words.size() == 2) {
    CLI::App*& group = groups[words[0]];
    if (group == nullptr) {
      group = root.add_subcommand(words[0], group_summary(words[0]));
      group->require_subcommand(1);
    }
    parent = group;
  }
  return parent->add_subcommand(words.back(), command.summary());
}

std::vector<ParsedCommand> add_commands(CLI::App& root) {
  std::vector<ParsedCommand> parsed_commands;
  std::map<std::string, CLI::App*> groups;
  for (std::unique_ptr<Command>& command : make_commands()) {
    ParsedCommand parsed;
    parsed.command = std::move(command);
    parsed.app = add_app(root, *parsed.command, groups);
    for (Positional& positional : parsed.command->positionals()) {
      add_positional(parsed, std::move(positional));
    }
    for (Flag& flag : parsed.command->flags()) add_flag(parsed, std::move(flag));
    for (Flag& flag : log_flags()) add_flag(parsed, std::move(flag));
    add_flag(parsed, text_flag({"config", "", "FILE", "",
                                "flags from a TOML or JSON file; those of the command line win"},
                               [](const std::string&) {}));
    parsed_commands.push_back(std::move(parsed));
  }
  return parsed_commands;
}

Status apply_config(const std::string& path, const ParsedCommand& parsed,
                    const std::set<std::string>& known) {
  auto entries = read_config_file(path, known);
  if (!entries.ok()) return entries.status();
  for (const auto& [name, value] : entries.value()) {
    for (size_t idx = 0; idx < parsed.flags.size(); ++idx) {
      const Flag& flag = parsed.flags[idx];
      const bool given = parsed.flag_options[idx]->count() > 0;
      if (flag.text.name != name || given) continue;
      if (flag.is_switch() && value != "true" && value != "false") {
        return bad_usage(str("--config ", path, ": ", name, " must be true or false"));
      }
      if (flag.is_switch() && value == "false") continue;
      SLIPSTREAM_RETURN_IF_ERROR(flag.set(value).in("--config " + path));
    }
  }
  return {};
}

Status apply_flags(const ParsedCommand& parsed, const std::set<std::string>& known) {
  for (size_t idx = 0; idx < parsed.flags.size(); ++idx) {
    if (parsed.flags[idx].text.name == "config" && parsed.flag_options[idx]->count() > 0) {
      SLIPSTREAM_RETURN_IF_ERROR(
          apply_config(parsed.flag_options[idx]->results().back(), parsed, known));
    }
  }
  for (size_t idx = 0; idx < parsed.flags.size(); ++idx) {
    const Flag& flag = parsed.flags[idx];
    if (parsed.flag_options[idx]->count() == 0) continue;
    if (flag.is_switch()) {
      SLIPSTREAM_RETURN_IF_ERROR(flag.set("true"));
      continue;
    }
    const std::vector<std::string> values = parsed.flag_options[idx]->results();
    for (const std::string& value : flag.repeats ? values : std::vector{values.back()}) {
      SLIPSTREAM_RETURN_IF_ERROR(flag.set(value));
    }
  }
  for (size_t idx = 0; idx < parsed.positionals.size(); ++idx) {
    for (const std::string& value : parsed.positional_options[idx]->results()) {
      SLIPSTREAM_RETURN_IF_ERROR(parsed.positionals[idx].set(value));
    }
  }
  return {};
}

// The one line for a command line CLI11 refuses, with the help to ask for.
int report_parse_error(const CLI::App& root, const CLI::ParseError& error) {
  const CLI::App* app = &root;
  std::string where = "slipstream";
  while (!app->get_subcommands().empty()) {
    app = app->get_subcommands().front();
    where += " " + app->get_name();
  }
  std::string message = error.what();
  for (char& c : message) {
    if (c == '\n') c = ' ';
  }
  return print_error(where, bad_usage(str(message, " (see `", where, " --help`)")));
}

int run_command(ParsedCommand& parsed, const std::set<std::string>& known) {
  const std::string where = "slipstream " + parsed.command->name();
  const Status flags = apply_flags(parsed, known);
  if (!flags.ok()) return print_error(where, flags);
  const Result<int> exit_code = parsed.command->run();
  return exit_code.ok() ? exit_code.value() : print_error(where, exit_code.status());
}

// CLI11 does not name a command it does not know.
Status check_command_words(const std::vector<std::string>& words,
                           const std::vector<ParsedCommand>& commands) {
  std::string prefix;  // "", then "bench "
  for (const std::string& word : words) {
    if (starts_with(word, "-")) return {};
    std::vector<std::string> choices;
    bool is_command = false;
    bool is_group = false;
    for (const ParsedCommand& parsed : commands) {
      const std::string name = parsed.command->name();
      if (!starts_with(name, prefix)) continue;
      const std::string rest = name.substr(prefix.size());
      const std::string first = rest.substr(0, rest.find(' '));
      if (choices.empty() || choices.back() != first) choices.push_back(first);
      if (word == rest) is_command = true;
      if (starts_with(rest, word + " ")) is_group = true;
    }
    if (is_command) return {};
    if (!is_group) {
      std::string list;
      for (const std::string& choice : choices) list += (list.empty() ? "" : ", ") + choice;
      return bad_usage(str("unknown command ", quote(prefix + word), "; commands: ", list));
    }
    prefix += word + " ";
  }
  return {};
}

int main_with(int argc, char** argv) {
  const Status log = init_log_from_environment();
  if (!log.ok()) return print_error("slipstream", log);

  CLI::App root("Slipstream: a language model inference engine.", "slipstream");
  root.set_version_flag("--version", version_text());
  root.require_subcommand(1);
  std::vector<ParsedCommand> commands = add_commands(root);
  if (argc < 2) {
    write_stderr(root.help());
    return bad_usage("").exit_code();
  }
  const Status words = check_command_words({argv + 1, argv + argc}, commands);
  if (!words.ok()) return print_error("slipstream", words);
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return root.exit(error);  // --help, --version
    return report_parse_error(root, error);
  }
  std::set<std::string> known;
  for (const ParsedCommand& parsed : commands) {
    for (const Flag& flag : parsed.flags) known.insert(flag.text.name);
  }
  for (ParsedCommand& parsed : commands) {
    if (parsed.app->parsed()) return run_command(parsed, known);
  }
  return bad_usage("").exit_code();
}

}  // namespace
}  // namespace slipstream

int main(int argc, char** argv) { return slipstream::main_with(argc, argv); }

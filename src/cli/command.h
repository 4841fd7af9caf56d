// Command: one subcommand of the binary, as main.cc sees it. commands.cc is the one list.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/flag.h"

namespace slipstream {

class Command {
 public:
  virtual ~Command() = default;

  virtual std::string name() const = 0;     // "run", "bench decode"
  virtual std::string summary() const = 0;  // one sentence
  // The setters store into this object, which must outlive them.
  virtual std::vector<Flag> flags() = 0;
  virtual std::vector<Positional> positionals() { return {}; }

  // Runs with the flags as set. The exit code, or the error to print.
  virtual Result<int> run() = 0;
};

std::unique_ptr<Command> make_pull_command();
std::unique_ptr<Command> make_run_command();
std::unique_ptr<Command> make_chat_command();
std::unique_ptr<Command> make_usage_command();
std::unique_ptr<Command> make_serve_command();
std::unique_ptr<Command> make_inspect_command();
std::unique_ptr<Command> make_tokenize_command();
std::unique_ptr<Command> make_detokenize_command();
std::unique_ptr<Command> make_render_command();
std::unique_ptr<Command> make_perplexity_command();
std::unique_ptr<Command> make_bench_decode_command();
std::unique_ptr<Command> make_bench_prefill_command();
std::unique_ptr<Command> make_bench_throughput_command();
std::unique_ptr<Command> make_bench_serve_command();
std::unique_ptr<Command> make_bench_engine_command();
std::unique_ptr<Command> make_bench_limits_command();
std::unique_ptr<Command> make_check_ops_command();
std::unique_ptr<Command> make_check_golden_command();
std::unique_ptr<Command> make_check_sim_command();
std::unique_ptr<Command> make_check_fidelity_command();
std::unique_ptr<Command> make_check_soak_command();
std::unique_ptr<Command> make_check_load_command();
std::unique_ptr<Command> make_almanac_import_command();
std::unique_ptr<Command> make_almanac_export_command();
std::unique_ptr<Command> make_almanac_list_command();
std::unique_ptr<Command> make_almanac_page_command();
std::unique_ptr<Command> make_almanac_add_command();
std::unique_ptr<Command> make_almanac_run_command();
std::unique_ptr<Command> make_openapi_command();
std::unique_ptr<Command> make_version_command();

// Every command, in the order help lists them.
std::vector<std::unique_ptr<Command>> make_commands();

}  // namespace slipstream

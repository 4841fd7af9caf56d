#include "cli/command.h"

namespace slipstream {

std::vector<std::unique_ptr<Command>> make_commands() {
  std::vector<std::unique_ptr<Command>> commands;
  for (auto make : {make_pull_command,
                    make_run_command,
                    make_chat_command,
                    make_serve_command,
                    make_usage_command,
                    make_inspect_command,
                    make_tokenize_command,
                    make_detokenize_command,
                    make_render_command,
                    make_perplexity_command,
                    make_bench_decode_command,
                    make_bench_prefill_command,
                    make_bench_throughput_command,
                    make_bench_serve_command,
                    make_bench_engine_command,
                    make_bench_limits_command,
                    make_check_ops_command,
                    make_check_golden_command,
                    make_check_sim_command,
                    make_check_fidelity_command,
                    make_check_soak_command,
                    make_check_load_command,
                    make_almanac_import_command,
                    make_almanac_export_command,
                    make_almanac_list_command,
                    make_almanac_page_command,
                    make_almanac_add_command,
                    make_almanac_run_command,
                    make_openapi_command,
                    make_version_command}) {
    commands.push_back(make());
  }
  return commands;
}

}  // namespace slipstream

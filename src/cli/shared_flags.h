// The flags that every command with a model shares, from one table: help, parsing, --config keys
// and EngineOptions all come from its rows.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cli/flag.h"
#include "slipstream/options.h"

namespace slipstream {

struct SharedOptions {
  EngineOptions engine;          // engine.model stays empty: see open_client.h
  std::string model;             // as typed: -m or the positional argument
  std::optional<uint64_t> seed;  // --seed, when given
};

// -m, --model alone: for commands that read files but run nothing.
Flag model_flag(SharedOptions& options);
// The MODEL positional argument; refuses a second, different model.
Positional model_positional(SharedOptions& options);
// Every engine flag, --model included.
std::vector<Flag> engine_flags(SharedOptions& options);
// Those of them with these names, in the table's order.
std::vector<Flag> engine_flags(SharedOptions& options, std::span<const std::string_view> names);
// --device, --threads and --cpu-isa: for commands that run kernels and open no engine.
std::vector<Flag> device_flags(SharedOptions& options);
// What --threads asks for: all cores where it does not.
int num_threads(const SharedOptions& options);
// --log-level, --log-format: set at once.
std::vector<Flag> log_flags();

// Applies SLIPSTREAM_LOG; call before the flags are set.
Status init_log_from_environment();

}  // namespace slipstream

// slipstream serve: the HTTP server. Listens first, loads the model on a thread of its own, prints
// one line to stdout when it takes requests, and serves until SIGTERM or Ctrl-C.
//
// Exit codes besides the common ones: 0 when every accepted request was answered, 1 when the drain
// timeout or a second signal ended some.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "base/trace.h"
#include "bench/build_info.h"
#include "cli/almanac_site.h"
#include "cli/command.h"
#include "cli/environment.h"
#include "cli/line_io.h"
#include "cli/load_progress.h"
#include "cli/model_path.h"
#include "cli/shared_flags.h"
#include "server/server.h"

namespace slipstream {
namespace {

class ServeCommand : public Command {
 public:
  std::string name() const override { return "serve"; }
  std::string summary() const override {
    return "serves the model over HTTP: OpenAI's API and the playground";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override;
  Result<int> run() override;

 private:
  std::vector<Flag> network_flags();
  std::vector<Flag> access_flags();
  std::vector<Flag> accounting_flags();
  void load(Server& server, const EngineOptions& options);
  void print_ready_line(const Server& server, const std::string& model) const;

  SharedOptions shared_;
  ServerOptions server_;
  std::string usage_db_, trace_file_, almanac_store_;
  bool no_usage_ = false;
  // Written by the loading thread before it is done.
  std::optional<Status> load_error_;
  std::atomic<bool> loaded_{false};
};

std::vector<Flag> ServeCommand::network_flags() {
  ServerOptions& o = server_;
  return {
      text_flag({"host", "", "ADDRESS", "127.0.0.1", "address to listen on"},
                [&o](const std::string& value) { o.host = value; }),
      int_flag({"port", "", "PORT", "8000", "port to listen on; 0: a free one"}, {0, 65535},
               [&o](int64_t value) { o.port = static_cast<int>(value); }),
      int_flag({"max-connections", "", "N", "20000", "connections held at once"}, {1, 1'000'000},
               [&o](int64_t value) { o.limits.max_connections = value; }),
      int_flag({"max-queued-requests", "", "N", "4096", "waiting requests; more get 429"},
               {1, 1'000'000},
               [this](int64_t value) { shared_.engine.max_queued_requests = value; }),
      int_flag({"request-timeout", "", "SECONDS", "600", "longest time a request may take"},
               {1, 86'400}, [&o](int64_t value) { o.limits.max_request_ms = value * 1000; }),
      int_flag({"drain-timeout", "", "SECONDS", "30", "time running requests get after SIGTERM"},
               {0, 86'400}, [&o](int64_t value) { o.drain_timeout_ms = value * 1000; }),
  };
}

std::vector<Flag> ServeCommand::access_flags() {
  ServerOptions& o = server_;
  Flag key = text_flag({"api-key", "", "KEY", "", "a key that clients must send (repeats)"},
                       [&o](const std::string& value) { o.api_keys.push_back(value); });
  key.repeats = true;
  Flag model_name = text_flag({"served-model-name", "", "NAME", "the model's name",
                               "name of the model in the API (repeats; the first is its id)"},
                              [&o](const std::string& value) { o.model_names.push_back(value); });
  model_name.repeats = true;
  Flag origin = text_flag({"allowed-origins", "", "ORIGIN", "none",
                           "web page origin that may read answers; *: every one (repeats)"},
                          [&o](const std::string& value) { o.allowed_origins.push_back(value); });
  origin.repeats = true;
  return {
      model_name,
      key,
      text_flag({"api-key-file", "", "FILE", "", "keys, one a line: KEY or LABEL:KEY; # comments"},
                [&o](const std::string& value) { o.api_key_file = value; }),
      origin,
      int_flag(
          {"rate-limit-requests", "", "N", "unlimited", "requests per minute of each key"},
          {1, INT32_MAX},
          [&o](int64_t value) { o.rate_limits.requests_per_minute = static_cast<double>(value); }),
      int_flag(
          {"rate-limit-tokens", "", "N", "unlimited",
           "tokens per minute of each key, input and output together"},
          {1, INT32_MAX},
          [&o](int64_t value) { o.rate_limits.tokens_per_minute = static_cast<double>(value); }),
      int_flag({"max-concurrent-per-key", "", "N", "unlimited", "requests a key may run at once"},
               {1, INT32_MAX}, [&o](int64_t value) { o.rate_limits.max_concurrent = value; }),
      switch_flag({"share-prefix-cache", "", "", "",
                   "share cached prompts between keys, which lets one key time another's prompts"},
                  [&o] { o.share_prefix_cache = true; }),
      switch_flag({"allow-chat-template-kwargs", "", "", "",
                   "requests may set variables of the chat template, as enable_thinking"},
                  [&o] { o.allow_template_kwargs = true; }),
  };
}

std::vector<Flag> ServeCommand::accounting_flags() {
  ServerOptions& o = server_;
  return {
      text_flag({"usage-db", "", "FILE", "usage.db in the cache folder",
                 "where used tokens are recorded per key"},
                [this](const std::string& value) { usage_db_ = value; }),
      switch_flag({"no-usage", "", "", "", "record no usage"}, [this] { no_usage_ = true; }),
      number_flag({"price-per-million-tokens", "", "PRICE", "0",
                   "one price of input and output tokens, shown by /usage"},
                  {.min = 0.0, .max = 1e9},
                  [&o](double value) { o.price_per_million_tokens = value; }),
      switch_flag({"no-access-log", "", "", "", "no line per request on stderr"},
                  [&o] { o.access_log = false; }),
      text_flag({"trace", "", "FILE", "", "ranges of the engine's steps as Chrome trace JSON"},
                [this](const std::string& value) { trace_file_ = value; }),
      text_flag({"almanac", "", "FILE", "none",
                 "the almanac's store whose points /almanac shows to everyone, read at start"},
                [this](const std::string& value) { almanac_store_ = value; }),
  };
}

std::vector<Flag> ServeCommand::flags() {
  std::vector<Flag> flags;
  for (auto& group : {network_flags(), access_flags(), accounting_flags(), engine_flags(shared_)}) {
    flags.insert(flags.end(), group.begin(), group.end());
  }
  return flags;
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || starts_with(host, "127.");
}

void ServeCommand::print_ready_line(const Server& server, const std::string& model) const {
  const bool is_ipv6 = server_.host.find(':') != std::string::npos;
  const std::string host = is_ipv6 ? "[" + server_.host + "]" : server_.host;
  Output output;
  output.write_now(
      str("slipstream: serving ", model, " on http://", host, ":", server.port(), "\n"));
}

// What was chosen, for whoever reads the start of a log.
void print_plan(const ModelInfo& model, const EngineOptions& options, double read_gb_s) {
  const auto kv_bytes = static_cast<uint64_t>(model.kv_bytes_per_token);
  // A GPU computes with bf16, FP8 or INT4, whatever the files store.
  const std::string kept = model.gpu.empty() ? "" : str(" kept as ", model.flops.layers_format);
  write_stderr(str("slipstream serve: ", model.name, " (", model.family, ", ", model.weights_format,
                   " weights", kept, "), ", model.device, " with ", model.kernels, ", executor ",
                   model.executor, "; at most ", model.max_model_len, " tokens a sequence, ",
                   options.max_num_seqs, " sequences at once, ", options.max_queued_requests,
                   " waiting; KV cache ", model.kv_format, ", ", human_bytes(kv_bytes),
                   " a token; reads ", static_cast<int64_t>(read_gb_s + 0.5), " GB/s\n"));
}

// Runs on the loading thread.
void ServeCommand::load(Server& server, const EngineOptions& options) {
  auto engine = Engine::open(options, server.sink());
  if (!engine.ok()) {
    load_error_ = engine.status();
    loaded_ = true;
    server.fail();
    return;
  }
  const ModelInfo& model = engine.value()->model();
  const double read_gb_s = engine.value()->measure_read_gb_s();
  print_plan(model, options, read_gb_s);
  loaded_ = true;
  const std::string name = server_.model_names.front();
  server.attach(std::move(engine).value(), read_gb_s,
                [this, &server, name] { print_ready_line(server, name); });
}

Result<int> ServeCommand::run() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const ModelPath model, resolve_model(shared_.model));
  if (server_.model_names.empty()) server_.model_names = {model.name};
  server_.version = engine_version();
  server_.max_queued_requests = shared_.engine.max_queued_requests;
  if (no_usage_ && !usage_db_.empty()) return bad_usage("--usage-db and --no-usage are both given");
  if (!no_usage_) {
    server_.usage_db = usage_db_.empty() ? default_usage_db() : usage_db_;
    if (server_.usage_db.empty()) {
      return bad_usage(
          "there is no home folder to record usage in; give --usage-db FILE or --no-usage");
    }
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(server_.almanac_files, loaded_almanac_files(almanac_store_));
  EngineOptions options = shared_.engine;
  options.model = model.path;
  std::unique_ptr<TraceWriter> trace;  // outlives the engine, so it comes before the server
  if (!trace_file_.empty()) {
    SLIPSTREAM_ASSIGN_OR_RETURN(trace, TraceWriter::open(trace_file_));
    options.trace = trace.get();
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::create(server_));
  if (!is_loopback(server_.host) && !server->has_keys()) {
    write_stderr(str("slipstream serve: warning: ", server_.host,
                     " can be reached from other machines and no --api-key is set: whoever reaches "
                     "it may use it\n"));
  }
  LoadProgress progress;
  options.on_progress = [&progress](const LoadProgressEvent& event) { progress.update(event); };
  std::thread loader([this, &server, &options] { load(*server, options); });
  const int exit_code = server->run();
  if (!loaded_) {
    // A signal came while the model was loading, which nothing can interrupt; nothing was accepted
    // that could be lost.
    std::_Exit(exit_code);
  }
  loader.join();
  if (load_error_) return *load_error_;
  return exit_code;
}

}  // namespace

std::unique_ptr<Command> make_serve_command() { return std::make_unique<ServeCommand>(); }

}  // namespace slipstream

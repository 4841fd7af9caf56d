#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <optional>
#include <random>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/strings.h"
#include "server/access_log.h"
#include "server/api_routes.h"
#include "server/assets.h"
#include "server/crash_notice.h"
#include "server/gate.h"
#include "server/http_server.h"
#include "server/key_usage.h"
#include "server/ledger.h"
#include "server/memory_guard.h"
#include "server/probes.h"
#include "server/router.h"
#include "server/server_metrics.h"
#include "server/worker_pool.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

constexpr int64_t kLastBytesMs = 1'000;  // for the terminal events of a shutdown to leave
constexpr int64_t kDrainPollMs = 10;
constexpr int64_t kMemoryPollMs = 200;
constexpr int64_t kStepPollMs = 1'000;
constexpr int kMostStuckPolls = 4;  // an operator's probe has seen it by then

class WiredServer final : public Server {
 public:
  explicit WiredServer(ServerOptions options)
      : options_(std::move(options)),
        key_usage_(options_.rate_limits),
        gate_(context_, router_, options_.allowed_origins) {}

  ~WiredServer() override;

  Status open();

  int port() const override { return http_->port(); }
  bool has_keys() const override { return !keys_.empty(); }
  EventSink sink() override { return bridge_->sink(); }
  void attach(std::unique_ptr<Engine> engine, double read_gb_s,
              std::function<void()> on_ready) override;
  void fail() override;
  int run() override;

 private:
  Status open_http();
  void fill_context();
  void add_routes();
  void take_engine(std::unique_ptr<Engine> engine, double read_gb_s);
  void watch_memory();
  void watch_steps();
  [[noreturn]] void exit_without_engine();
  void on_signal();
  void wait_until_drained();
  void end_everything();

  const ServerOptions options_;
  ServerContext context_;
  Router router_;
  KeyRing keys_;
  KeyUsage key_usage_;
  ServerMetrics metrics_;
  MemoryGuard memory_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<AccessLog> access_log_;
  std::optional<ChatTemplate> chat_template_;
  Gate gate_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<EngineBridge> bridge_;
  std::unique_ptr<WorkerPool> workers_;
  std::unique_ptr<Engine> engine_;
  int num_signals_ = 0;
  int exit_code_ = 0;
  bool stopped_ = false;  // a model that comes now comes too late
  int num_stuck_polls_ = 0;
  bool engine_is_stuck_ = false;
};

// Calls learn that their clients are lost while there is an engine to cancel them in; then nobody
// posts any more; then the loop may go.
WiredServer::~WiredServer() {
  if (http_ != nullptr) http_->close_connections();
  workers_.reset();
  engine_.reset();
  bridge_.reset();
  http_.reset();
}

Status WiredServer::open() {
  SLIPSTREAM_CHECK(!options_.model_names.empty(), "a server has a model");
  for (const std::string& key : options_.api_keys) {
    SLIPSTREAM_RETURN_IF_ERROR(keys_.add(key).in("--api-key"));
  }
  if (!options_.api_key_file.empty()) {
    SLIPSTREAM_RETURN_IF_ERROR(keys_.add_file(options_.api_key_file).in("--api-key-file"));
  }
  SLIPSTREAM_RETURN_IF_ERROR(open_http());
  if (!options_.usage_db.empty()) {
    SLIPSTREAM_ASSIGN_OR_RETURN(ledger_, Ledger::open(options_.usage_db));
  }
  if (options_.access_log) {
    AccessLog::Options log;
    log.format = log_format();
    access_log_ = std::make_unique<AccessLog>(log);
  }
  bridge_ = std::make_unique<EngineBridge>(*http_);
  workers_ = std::make_unique<WorkerPool>(*http_, WorkerPool::Options{});
  fill_context();
  add_routes();
  return {};
}

Status WiredServer::open_http() {
  HttpServerOptions http;
  http.host = options_.host;
  http.port = options_.port;
  http.parser.max_body_bytes = options_.limits.max_body_bytes;
  http.parser.max_header_bytes = options_.limits.max_header_bytes;
  http.parser.max_url_bytes = options_.limits.max_url_bytes;
  http.max_connections = options_.limits.max_connections;
  http.max_unsent_bytes = options_.limits.max_unsent_bytes;
  http.read_timeout_ms = options_.limits.read_timeout_ms;
  http.idle_timeout_ms = options_.limits.idle_timeout_ms;
  SLIPSTREAM_ASSIGN_OR_RETURN(http_, HttpServer::create(std::move(http), gate_));
  return {};
}

void WiredServer::fill_context() {
  context_.loop = http_.get();
  context_.bridge = bridge_.get();
  context_.model_names = options_.model_names;
  context_.model_id = options_.model_names.front();
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  context_.started_unix_s = std::chrono::duration_cast<std::chrono::seconds>(since_epoch).count();
  context_.limits = options_.limits;
  context_.limits.max_connections = http_->max_connections();
  context_.keys = &keys_;
  context_.key_usage = &key_usage_;
  context_.ledger = ledger_.get();
  context_.metrics = &metrics_;
  context_.access_log = access_log_.get();
  context_.workers = workers_.get();
  context_.price_per_million_tokens = options_.price_per_million_tokens;
  std::random_device random;
  for (uint8_t& byte : context_.salt_secret) byte = static_cast<uint8_t>(random());
  context_.share_prefix_cache = options_.share_prefix_cache;
  context_.allow_template_kwargs = options_.allow_template_kwargs;
  context_.max_queued_requests = options_.max_queued_requests;
  context_.loading = true;
}

void WiredServer::add_routes() {
  for (auto& routes :
       {probe_routes(context_, options_.version), web_routes(), api_routes(context_)}) {
    for (const Route& route : routes) router_.add(route);
  }
  if (options_.almanac_files) router_.add(almanac_data_route(options_.almanac_files));
}

void WiredServer::attach(std::unique_ptr<Engine> engine, double read_gb_s,
                         std::function<void()> on_ready) {
  // shared_ptr because a posted function must be copyable.
  auto carried = std::make_shared<std::unique_ptr<Engine>>(std::move(engine));
  http_->post([this, carried, read_gb_s, on_ready = std::move(on_ready)] {
    if (stopped_) return;
    take_engine(std::move(*carried), read_gb_s);
    on_ready();
  });
}

void WiredServer::take_engine(std::unique_ptr<Engine> engine, double read_gb_s) {
  engine_ = std::move(engine);
  const ModelInfo& model = engine_->model();
  bridge_->attach(*engine_);
  context_.read_gb_s = read_gb_s;
  const std::string identity = str(model.name, "|", model.weights_format, "|", model.kv_format, "|",
                                   model.num_parameters, "|", model.vocab_size);
  context_.system_fingerprint = str("slipstream-", options_.version, "-", model.device, "-",
                                    to_hex(sha256(identity)).substr(0, 8));
  const auto& tokenizer = engine_->tokenizer();
  if (tokenizer != nullptr && tokenizer->chat_template() != nullptr) {
    auto compiled = ChatTemplate::create(*tokenizer->chat_template(), tokenizer->bos_token(),
                                         tokenizer->eos_token());
    if (compiled.ok()) {
      chat_template_.emplace(std::move(compiled).value());
      context_.chat_template = &*chat_template_;
    } else {
      context_.chat_template_error = compiled.status().message();
      log_warn("serve", "the model's chat template does not compile, so chat is refused: ",
               context_.chat_template_error);
    }
  }
  metrics_.attach({context_.model_id, engine_.get(), read_gb_s});
  context_.loading = false;
}

void WiredServer::fail() {
  http_->post([this] {
    exit_code_ = 1;
    end_everything();
  });
}

void WiredServer::on_signal() {
  ++num_signals_;
  if (num_signals_ > 1) {
    exit_code_ = http_->all_answered() ? 0 : 1;
    end_everything();
    return;
  }
  context_.draining = true;
  http_->after_ms(options_.drain_timeout_ms, [this] {
    if (!http_->all_answered()) exit_code_ = 1;
    end_everything();
  });
  wait_until_drained();
}

void WiredServer::wait_until_drained() {
  if (http_->all_answered()) {
    http_->stop();
  } else {
    http_->after_ms(kDrainPollMs, [this] { wait_until_drained(); });
  }
}

// What runs gets its terminal events, and those a moment to leave.
void WiredServer::end_everything() {
  context_.draining = true;
  http_->shut_down_responses();
  http_->after_ms(kLastBytesMs, [this] { http_->stop(); });
  wait_until_drained();
}

void WiredServer::watch_memory() {
  http_->after_ms(kMemoryPollMs, [this] { watch_memory(); });
  context_.memory_is_low = memory_.update();
}

// A step that never ends, of a device that hangs as a rule, holds every request: they are told, and
// the process ends, so that whoever supervises it starts another.
void WiredServer::watch_steps() {
  http_->after_ms(kStepPollMs, [this] { watch_steps(); });
  const bool is_stuck = engine_ != nullptr && is_step_stuck(context_, steady_now_ns());
  num_stuck_polls_ = is_stuck ? num_stuck_polls_ + 1 : 0;
  if (num_stuck_polls_ != kMostStuckPolls) return;
  log_error("serve", "the engine is stuck in a step, the server ends");
  engine_is_stuck_ = true;
  exit_code_ = 1;
  end_everything();
}

// The engine's thread will never be there to be joined.
void WiredServer::exit_without_engine() {
  http_->close_connections();
  ledger_.reset();
  access_log_.reset();
  std::_Exit(exit_code_);
}

int WiredServer::run() {
  http_->watch_signals([this] { on_signal(); });
  const CrashNotice notice([this] { fail(); });
  watch_memory();
  watch_steps();
  try {
    http_->run();
  } catch (const std::exception& error) {
    // Not one request's work, so nobody knows what is missing now: the end, but an orderly one.
    log_error("serve", "the network thread failed, the server ends: ", error.what());
    exit_code_ = 1;
    end_everything();
    http_->run();
  }
  stopped_ = true;
  if (engine_is_stuck_) exit_without_engine();
  return exit_code_;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::create(ServerOptions options) {
  auto server = std::make_unique<WiredServer>(std::move(options));
  SLIPSTREAM_RETURN_IF_ERROR(server->open());
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace slipstream

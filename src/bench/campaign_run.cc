#include "bench/campaign_run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/strings.h"
#include "base/time_text.h"
#include "bench/campaign_client.h"
#include "bench/campaign_engine.h"
#include "bench/campaign_folder.h"
#include "bench/campaign_method.h"
#include "bench/campaign_point.h"
#include "bench/gpu_meter.h"
#include "bench/point.h"
#include "bench/point_export.h"
#include "bench/record.h"

namespace slipstream {
namespace {

constexpr int kTickMs = 20;
constexpr int kEndTicks = 25;  // that an engine's end and its last answers may lie apart
constexpr int64_t kNsPerS = 1'000'000'000;
constexpr int64_t kMsPerS = 1'000;
constexpr int64_t kVersionLimitMs = 120'000;  // Python engines import everything to say it
constexpr int kMaxFailuresInARow = 2;         // then an engine is given up
constexpr int64_t kSizingRequests = 2;        // their speed sizes the point one at a time

using Points = std::map<std::string, Json>;  // by point_id

// A point to be measured: the load and its place in the campaign, which seeds the prompts.
struct PointAsk {
  CampaignShape shape;
  CampaignLoad load;
  std::string place;  // "one at a time", "rate 2"
  int64_t repeat = 0;
};

struct Campaign {
  const CampaignPlan& plan;
  const CampaignOptions& options;
  const CampaignHooks& hooks;
  PointStore& store;
  CampaignFolder& folder;
  GpuMeter* gpu_meter;  // null: the campaign is for the CPU
  CampaignMachine machine;
  Points points;
  CampaignReport report;
};

std::string rounded(double value) {
  const double scale = value < 10.0 ? 100.0 : 1.0;
  return str(std::round(value * scale) / scale);
}

// "; INVALID: ..." where the load generator says that its own figures are not to be trusted.
std::string invalid_words(const Json& record) {
  std::string text;
  for (const Json& reason : record.value("invalid_reasons", Json::array())) {
    text += (text.empty() ? "; INVALID: " : ", ") + reason.get<std::string>();
  }
  return text;
}

// One configuration on one model: its engine, which is started when the first missing point is
// there and again after a crash, and its points.
class SetupRun {
 public:
  SetupRun(Campaign& campaign, const EngineSetup& setup)
      : campaign_(campaign), plan_(campaign.plan), setup_(setup) {}

  Status run();

 private:
  bool is_over() const { return is_given_up_ || campaign_.report.interrupted; }
  bool is_wanted(const CampaignShape& shape, const std::string& arrival) const {
    return selects(campaign_.options.filters, setup_, shape, arrival);
  }
  bool is_any_wanted() const;
  void say(const std::string& text) const {
    campaign_.hooks.on_line(setup_.configuration + "/" + setup_.model + ": " + text);
  }

  Status find_version();
  Status run_shape(const CampaignShape& shape);
  Status run_sweep(const CampaignShape& shape);
  Status run_rates(const CampaignShape& shape, const std::vector<double>& rates);
  // The repeats of a load; the first one's point if it is there.
  Result<std::optional<Json>> run_load(const CampaignShape& shape, const CampaignLoad& load,
                                       const std::string& place);
  Result<std::optional<Json>> run_point(const PointAsk& ask);
  Status measure(const PointAsk& ask, const Json& identity, std::optional<Json>& point);
  Status keep(const Json& point);

  // What of these is not ready is a failure, which is recorded: false.
  Result<bool> ready(const CampaignShape& shape);
  Result<bool> start_engine();
  Result<bool> warm_up(const CampaignShape& shape);
  // A record, or nothing after a failure or an interrupt. Leaves the mean power in power_w_mean_.
  Result<std::optional<Json>> run_client(const ClientAsk& ask, const std::string& what);
  // How a measurement ended: with an answer, with the engine, with both, or not in time.
  struct ClientEnd {
    std::optional<Result<Json>> answer = {};
    std::optional<std::string> engine_ended = {};

    bool is_complete() const { return answer && answer->ok() && answer->value().at("errors") == 0; }
  };
  ClientEnd wait_for(CampaignClient& client);
  ClientAsk client_ask(const PointAsk& ask) const;
  void stop_engine();
  Status fail(const std::string& kind, const std::string& what, const std::string& detail);

  Campaign& campaign_;
  const CampaignPlan& plan_;
  const EngineSetup& setup_;
  VersionWords version_;
  std::string log_path_;
  std::unique_ptr<CampaignEngine> engine_;
  std::string warm_shape_;  // that the running engine is warmed up for
  std::optional<double> power_w_mean_;
  double one_at_a_time_rate_ = 0.0;  // requests a second, seen while it was warmed up
  int num_failures_in_a_row_ = 0;
  bool is_given_up_ = false;
};

bool SetupRun::is_any_wanted() const {
  const auto wanted = [&](const CampaignShape& shape) {
    return std::any_of(plan_.loads.begin(), plan_.loads.end(),
                       [&](const auto& load) { return is_wanted(shape, load.arrival); }) ||
           (plan_.sweep && (is_wanted(shape, "closed") || is_wanted(shape, "burst") ||
                            is_wanted(shape, plan_.sweep->arrival)));
  };
  return std::any_of(plan_.shapes.begin(), plan_.shapes.end(), wanted);
}

Status SetupRun::run() {
  if (!is_any_wanted()) return {};
  log_path_ = campaign_.folder.log_path(setup_.configuration + "-" + setup_.model);
  SLIPSTREAM_RETURN_IF_ERROR(find_version());
  for (const CampaignShape& shape : plan_.shapes) {
    if (is_over()) break;
    SLIPSTREAM_RETURN_IF_ERROR(run_shape(shape));
  }
  stop_engine();
  return {};
}

Status SetupRun::find_version() {
  const Result<std::string> printed =
      output_of({setup_.version_command, setup_.environment}, kVersionLimitMs);
  if (printed.ok()) {
    version_ = parse_version(printed.value());
    return {};
  }
  is_given_up_ = true;
  return fail("no_version", "its version", printed.status().message());
}

Status SetupRun::run_shape(const CampaignShape& shape) {
  for (size_t idx = 0; idx < plan_.loads.size() && !is_over(); ++idx) {
    if (!is_wanted(shape, plan_.loads[idx].arrival)) continue;
    SLIPSTREAM_RETURN_IF_ERROR(run_load(shape, plan_.loads[idx], str("load ", idx)).status());
  }
  return plan_.sweep && !is_over() ? run_sweep(shape) : Status();
}

Status SetupRun::run_sweep(const CampaignShape& shape) {
  const CampaignLoad one{"closed", 0.0, 1, 0};  // its requests follow from the warm-up
  const CampaignLoad all{"burst", 0.0, 0, plan_.sweep->max_requests};
  const bool wants_rates = plan_.sweep->num_rates > 0 && is_wanted(shape, plan_.sweep->arrival);
  std::vector<double> extremes;
  for (const auto& [load, place] :
       {std::pair{one, "one at a time"}, std::pair{all, "all at once"}}) {
    if (is_over()) return {};
    // The rates follow from the first repeat of both.
    const Json first = point_identity(plan_, setup_, version_, campaign_.machine, shape, load, 0);
    std::optional<Json> point;
    if (is_wanted(shape, load.arrival)) {
      SLIPSTREAM_ASSIGN_OR_RETURN(point, run_load(shape, load, place));
    } else if (const auto found = campaign_.points.find(point_id(first));
               found != campaign_.points.end()) {
      point = found->second;
    } else if (wants_rates) {
      return bad_usage(str("--only: rates lie between one at a time and all at once, and ", place,
                           " is not measured yet for ", setup_.configuration, "/", setup_.model,
                           "/", shape_text(shape), "; leave the arrival out of --only"));
    }
    if (point) extremes.push_back(point->at("requests_s").get<double>());
  }
  if (!wants_rates || is_over()) return {};
  if (extremes.size() < 2) {
    say(shape_text(shape) + ": no rates between, for an extreme failed");
    return {};
  }
  return run_rates(shape, rates_between(extremes[0], extremes[1], *plan_.sweep));
}

Status SetupRun::run_rates(const CampaignShape& shape, const std::vector<double>& rates) {
  if (rates.size() < static_cast<size_t>(plan_.sweep->num_rates)) {
    say(str(shape_text(shape), ": ", rates.size(), " rates between, not ", plan_.sweep->num_rates,
            ": the extremes are too close"));
  }
  for (size_t idx = 0; idx < rates.size() && !is_over(); ++idx) {
    const CampaignLoad load{plan_.sweep->arrival, rates[idx], 0,
                            requests_of_rate(rates[idx], *plan_.sweep)};
    SLIPSTREAM_RETURN_IF_ERROR(run_load(shape, load, str("rate ", idx + 1)).status());
  }
  return {};
}

Result<std::optional<Json>> SetupRun::run_load(const CampaignShape& shape, const CampaignLoad& load,
                                               const std::string& place) {
  std::optional<Json> first;
  for (int64_t repeat = 0; repeat < plan_.repeats && !is_over(); ++repeat) {
    SLIPSTREAM_ASSIGN_OR_RETURN(std::optional<Json> point, run_point({shape, load, place, repeat}));
    if (repeat == 0) first = std::move(point);
  }
  return first;
}

Result<std::optional<Json>> SetupRun::run_point(const PointAsk& ask) {
  const Json identity =
      point_identity(plan_, setup_, version_, campaign_.machine, ask.shape, ask.load, ask.repeat);
  if (const auto found = campaign_.points.find(point_id(identity));
      found != campaign_.points.end()) {
    ++campaign_.report.num_present;
    return std::optional<Json>(found->second);
  }
  std::optional<Json> point;
  SLIPSTREAM_ASSIGN_OR_RETURN(const bool is_ready, ready(ask.shape));
  if (!is_ready) return point;
  SLIPSTREAM_RETURN_IF_ERROR(measure(ask, identity, point));
  return point;
}

ClientAsk SetupRun::client_ask(const PointAsk& ask) const {
  ClientAsk client;
  client.url = engine_->url();
  client.endpoint = setup_.completions_route;
  client.shape = ask.shape;
  client.load = ask.load;
  client.vocab_size = setup_.vocab_size;
  client.text_prompts = setup_.text_prompts;
  client.ignore_eos = setup_.ignore_eos;
  client.extra_body = setup_.extra_body;
  client.limits = plan_.limits;
  client.timeout_s = plan_.point_timeout_s;
  client.seed = point_seed(plan_.seed, setup_.model, ask.shape, ask.place, ask.repeat);
  return client;
}

Status SetupRun::measure(const PointAsk& ask, const Json& identity, std::optional<Json>& point) {
  ClientAsk client = client_ask(ask);
  if (client.load.requests == 0) {
    client.load.requests = requests_of_rate(one_at_a_time_rate_, *plan_.sweep);
  }
  const std::string what = str(shape_text(ask.shape), " ", load_text(ask.load),
                               plan_.repeats > 1 ? str(" repeat ", ask.repeat) : "");
  say(str(what, ": ", client.load.requests, " requests"));
  client.rows_path = campaign_.folder.rows_path(point_id(identity));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::optional<Json> record, run_client(client, what));
  if (!record) return {};
  MeasuredExtras extras;
  extras.server_command = shell_text(engine_->command(), campaign_.options.home);
  extras.client_command = client_command(client);
  extras.cold_start_s = engine_->cold_start_s();
  extras.power_w_mean = power_w_mean_;
  extras.config = {{"log", campaign_.folder.relative(log_path_)},
                   {"warmup_requests", plan_.warmup_requests}};
  std::error_code code;
  if (std::filesystem::exists(client.rows_path, code)) {
    extras.config["rows"] = campaign_.folder.relative(client.rows_path);
  } else {
    say(str(what, ": its requests could not be written to ", client.rows_path));
  }
  const Result<Json> made = measured_point(*record, identity, setup_, campaign_.machine, extras);
  if (!made.ok()) return fail("no_record", what, made.status().message());
  SLIPSTREAM_RETURN_IF_ERROR(keep(made.value()));
  point = made.value();
  num_failures_in_a_row_ = 0;
  say(str(what, ": ", rounded(made->at("requests_s").get<double>()), " requests/s, ",
          rounded(made->at("output_tok_s").get<double>()), " output tok/s, TTFT p50 ",
          rounded(made->value("ttft_ms_p50", Json(0.0)).get<double>()), " ms, ",
          made->at("errors").get<int64_t>(), " errors", invalid_words(*record)));
  return {};
}

Status SetupRun::keep(const Json& point) {
  const Result<InsertOutcome> outcome = campaign_.store.insert(point, IfTaken::kRefuse);
  if (!outcome.ok() || outcome.value() == InsertOutcome::kTaken) {
    campaign_.hooks.on_unstored(point_jsonl(point));
    return outcome.ok()
               ? failed("another process stored this point meanwhile; end it and run this again")
               : outcome.status();
  }
  campaign_.points[point_id(point)] = point;
  ++campaign_.report.num_measured;
  return {};
}

Result<bool> SetupRun::ready(const CampaignShape& shape) {
  if (engine_ && engine_->ended()) {
    SLIPSTREAM_RETURN_IF_ERROR(
        fail("crashed", "between points", "the engine ended: " + *engine_->ended()));
  }
  if (is_over()) return false;
  if (!engine_) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const bool is_started, start_engine());
    if (!is_started) return false;
  } else if (plan_.pause_s > 0.0) {
    const int64_t until_ns =
        steady_now_ns() + static_cast<int64_t>(plan_.pause_s * static_cast<double>(kNsPerS));
    while (steady_now_ns() < until_ns && !campaign_.hooks.should_stop()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(kTickMs));
    }
  }
  return warm_shape_ == shape_text(shape) ? true : warm_up(shape);
}

Result<bool> SetupRun::start_engine() {
  say("starting: " + shell_text(engine_child_command(setup_, "PORT"), campaign_.options.home));
  Result<std::unique_ptr<CampaignEngine>> engine =
      CampaignEngine::start(setup_, log_path_, campaign_.hooks.should_stop);
  if (campaign_.hooks.should_stop()) campaign_.report.interrupted = true;
  if (campaign_.report.interrupted) return false;
  if (!engine.ok()) {
    is_given_up_ = true;
    SLIPSTREAM_RETURN_IF_ERROR(fail("no_start", "its start", engine.status().message()));
    return false;
  }
  engine_ = std::move(engine).value();
  warm_shape_.clear();
  say(str("ready after ", rounded(engine_->cold_start_s()), " s"));
  return true;
}

Result<bool> SetupRun::warm_up(const CampaignShape& shape) {
  const CampaignLoad all{"burst", 0.0, 0, plan_.warmup_requests};
  const CampaignLoad one{"closed", 0.0, 1, kSizingRequests};
  for (const CampaignLoad& load : {all, one}) {
    if (load.requests == 0) continue;
    const std::string what = shape_text(shape) + " warm-up";
    SLIPSTREAM_ASSIGN_OR_RETURN(
        const std::optional<Json> record,
        run_client(client_ask({shape, load, "warm-up " + load.arrival, 0}), what));
    if (!record) return false;
    one_at_a_time_rate_ = record->value("requests_s", 0.0);
  }
  warm_shape_ = shape_text(shape);
  return true;
}

SetupRun::ClientEnd SetupRun::wait_for(CampaignClient& client) {
  const int64_t until_ns = steady_now_ns() + plan_.point_timeout_s * kNsPerS;
  ClientEnd end;
  PowerMean power(campaign_.gpu_meter, setup_.num_devices);
  while (!end.answer && !end.engine_ended && steady_now_ns() < until_ns) {
    if (campaign_.hooks.should_stop()) {
      campaign_.report.interrupted = true;
      return end;
    }
    end.answer = client.poll(kTickMs);
    end.engine_ended = engine_->ended();
    power.sample();
  }
  power_w_mean_ = power.mean();
  // An engine that ends with its last answer has given all of them.
  for (int tick = 0; end.engine_ended && !end.answer && tick < kEndTicks; ++tick) {
    end.answer = client.poll(kTickMs);
  }
  // Connections break before their process is gone.
  for (int tick = 0; end.answer && !end.is_complete() && !end.engine_ended && tick < kEndTicks;
       ++tick) {
    std::this_thread::sleep_for(std::chrono::milliseconds(kTickMs));
    end.engine_ended = engine_->ended();
  }
  return end;
}

Result<std::optional<Json>> SetupRun::run_client(const ClientAsk& ask, const std::string& what) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::unique_ptr<CampaignClient> client,
                              CampaignClient::start(ask));
  const ClientEnd end = wait_for(*client);
  const std::optional<Json> none;
  if (campaign_.report.interrupted) return none;
  if (end.is_complete()) return std::optional<Json>(end.answer->value());
  std::string kind;
  std::string detail;
  if (end.engine_ended) {
    kind = "crashed";
    detail = "the engine ended: " + *end.engine_ended;
  } else if (!end.answer) {
    kind = "hung";
    detail = str("not finished after ", plan_.point_timeout_s, " s");
  } else if (!end.answer->ok()) {
    kind = "no_record";
    detail = end.answer->status().message();
  } else if (const Json& record = end.answer->value();
             record.at("errors") == record.at("requests")) {
    kind = "no_answers";
    detail = "every request failed, the first: " + record.value("first_error", std::string());
  } else {
    return std::optional<Json>(record);  // some failed, which the point says
  }
  SLIPSTREAM_RETURN_IF_ERROR(fail(kind, what, detail));
  return none;
}

void SetupRun::stop_engine() {
  if (!engine_) return;
  if (!engine_->stop(setup_.stop_timeout_s * kMsPerS)) {
    say(str("did not end within ", setup_.stop_timeout_s, " s of SIGTERM and was killed"));
  }
  engine_.reset();
}

// Records what failed, with the end of the log. The engine's state is unknown from here on: the
// next point gets a new one.
Status SetupRun::fail(const std::string& kind, const std::string& what, const std::string& detail) {
  ++campaign_.report.num_failed;
  if (++num_failures_in_a_row_ >= kMaxFailuresInARow) is_given_up_ = true;
  stop_engine();
  say(str("FAILED ", what, ": ", detail, is_given_up_ ? "; given up" : "", "; log: ", log_path_));
  return campaign_.folder.add_failure(
      {{"kind", "failure"},
       {"schema", kRecordSchema},
       {"at", utc_now(TimeDigits::kSeconds)},
       {"campaign", plan_.name},
       {"engine", setup_.engine},
       {"engine_version", version_.version},
       {"engine_config", setup_.configuration},
       {"model", setup_.model},
       {"failure", kind},
       {"what", what},
       {"detail", detail},
       {"server_command", shell_text(engine_child_command(setup_, "PORT"), campaign_.options.home)},
       {"log", campaign_.folder.relative(log_path_)},
       {"log_tail", log_tail(log_path_)}});
}

}  // namespace

Result<CampaignReport> run_campaign(const CampaignPlan& plan, const CampaignOptions& options,
                                    PointStore& store, const CampaignHooks& hooks) {
  SLIPSTREAM_RETURN_IF_ERROR(check_filters(options.filters, plan));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::unique_ptr<CampaignFolder> folder,
                              CampaignFolder::open(options.store_path, plan.name));
  std::unique_ptr<GpuMeter> gpu_meter;
  CampaignMachine machine{begin_record({}).at("host").at("cpu").get<std::string>()};
  if (plan.device == "cuda") {
    Result<std::unique_ptr<GpuMeter>> opened = GpuMeter::open();
    if (!opened.ok()) return opened.status().in("device = \"cuda\"");
    gpu_meter = std::move(opened).value();
    machine.gpu = gpu_meter->name();
    machine.driver = gpu_meter->driver();
    machine.cuda = gpu_meter->cuda();
  }
  Campaign campaign{plan, options, hooks, store, *folder, gpu_meter.get(), machine, {}, {}};
  PointFilter filter;
  filter.campaign = plan.name;
  SLIPSTREAM_RETURN_IF_ERROR(store.for_each(filter, [&](const Json& point) -> Status {
    campaign.points[point_id(point)] = point;
    return {};
  }));
  for (const EngineSetup& setup : plan.setups) {
    if (hooks.should_stop()) campaign.report.interrupted = true;
    if (campaign.report.interrupted) break;
    SLIPSTREAM_RETURN_IF_ERROR(SetupRun(campaign, setup).run());
  }
  return campaign.report;
}

}  // namespace slipstream

#include "bench/campaign_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <thread>

#include "base/clock.h"
#include "base/strings.h"
#include "bench/http_probe.h"

namespace slipstream {
namespace {

constexpr const char* kHost = "127.0.0.1";
constexpr std::chrono::milliseconds kProbeGap(20);
constexpr int kProbeLimitMs = 1'000;
constexpr double kNsPerS = 1e9;
constexpr int kHttpOk = 200;
constexpr std::streamoff kTailBytes = 4096;

void replace(std::string& word, const std::string& place, const std::string& value) {
  const size_t at = word.find(place);
  if (at != std::string::npos) word.replace(at, place.size(), value);
}

}  // namespace

ChildCommand engine_child_command(const EngineSetup& setup, const std::string& port) {
  ChildCommand command{setup.command, setup.environment};
  for (std::string& word : command.words) {
    replace(word, "{host}", kHost);
    replace(word, "{port}", port);
  }
  return command;
}

Result<std::unique_ptr<CampaignEngine>> CampaignEngine::start(
    const EngineSetup& setup, const std::string& log_path,
    const std::function<bool()>& should_stop) {
  std::unique_ptr<CampaignEngine> engine(new CampaignEngine());
  SLIPSTREAM_ASSIGN_OR_RETURN(engine->port_, free_port());
  engine->command_ = engine_child_command(setup, std::to_string(engine->port_));
  const int log_fd = ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log_fd < 0) return failed(str(log_path, ": cannot be written: ", ::strerror(errno)));
  ChildCommand command = engine->command_;
  command.output_fd = log_fd;
  const int64_t start_ns = steady_now_ns();
  Result<std::unique_ptr<ChildProcess>> process = ChildProcess::start(command);
  ::close(log_fd);
  if (!process.ok()) return process.status();
  engine->process_ = std::move(process).value();
  std::string last_answer;
  while (true) {
    const Result<int> status = http_status_of(engine->port_, setup.health_route, kProbeLimitMs);
    const double seconds = static_cast<double>(steady_now_ns() - start_ns) / kNsPerS;
    if (const std::optional<std::string> how = engine->ended()) {
      return failed(str("ended before it was ready: ", *how));
    }
    if (status.ok() && status.value() == kHttpOk) {
      engine->cold_start_s_ = seconds;
      return engine;
    }
    last_answer = status.ok() ? str("HTTP ", status.value()) : status.status().message();
    if (seconds > static_cast<double>(setup.ready_timeout_s)) {
      return failed(str("not ready after ", setup.ready_timeout_s, " s; ", setup.health_route,
                        " says: ", last_answer));
    }
    if (should_stop()) return failed("interrupted while it started");
    std::this_thread::sleep_for(kProbeGap);
  }
}

std::string CampaignEngine::url() const { return str("http://", kHost, ":", port_); }

std::string log_tail(const std::string& log_path) {
  std::ifstream file(log_path, std::ios::binary | std::ios::ate);
  if (!file) return "";
  const std::streamoff size = file.tellg();
  file.seekg(size > kTailBytes ? size - kTailBytes : 0);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace slipstream

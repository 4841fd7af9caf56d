#include "bench/campaign_engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <thread>

#include "base/clock.h"
#include "base/strings.h"
#include "base/time_text.h"
#include "bench/http_call.h"

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

// A TCP port of the loopback address that nobody listens on.
Result<int> free_port() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* const any_address = reinterpret_cast<sockaddr*>(&address);
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool is_bound = fd >= 0 && ::bind(fd, any_address, length) == 0 &&
                        ::getsockname(fd, any_address, &length) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!is_bound) return failed(str("no free port: ", ::strerror(error)));
  return ntohs(address.sin_port);
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
  const std::string head =
      str("almanac: ", utc_now(TimeDigits::kSeconds), " starting ", shell_text(command, ""), "\n");
  [[maybe_unused]] const ssize_t written = ::write(log_fd, head.data(), head.size());
  const int64_t start_ns = steady_now_ns();
  Result<std::unique_ptr<ChildProcess>> process = ChildProcess::start(command);
  ::close(log_fd);
  if (!process.ok()) return process.status();
  engine->process_ = std::move(process).value();
  SLIPSTREAM_ASSIGN_OR_RETURN(HttpTarget target, parse_target(engine->url()));
  SLIPSTREAM_RETURN_IF_ERROR(resolve_target(target));
  while (true) {
    const Result<HttpReply> reply = http_call(target, setup.health_route, "", kProbeLimitMs);
    const double seconds = static_cast<double>(steady_now_ns() - start_ns) / kNsPerS;
    if (const std::optional<std::string> how = engine->ended()) {
      return failed(str("ended before it was ready: ", *how));
    }
    if (reply.ok() && reply->status == kHttpOk) {
      engine->cold_start_s_ = seconds;
      return engine;
    }
    if (seconds > static_cast<double>(setup.ready_timeout_s)) {
      const std::string why = reply.ok() ? str("HTTP ", reply->status) : reply.status().message();
      return failed(str("not ready after ", setup.ready_timeout_s, " s; ", setup.health_route,
                        " says: ", why));
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

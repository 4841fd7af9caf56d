#include "bench/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/clock.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr std::chrono::milliseconds kTick(10);
constexpr int64_t kKillLimitMs = 30'000;
constexpr size_t kMaxOutputBytes = 1u << 20;

void unblock_signals() {
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
}

// Does not return. What fails goes through `error_fd`, which a successful exec closes.
[[noreturn]] void become(const ChildCommand& command, int error_fd) {
  ::setpgid(0, 0);
  unblock_signals();
  const int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null_fd, STDIN_FILENO);
  ::dup2(command.output_fd >= 0 ? command.output_fd : null_fd, STDOUT_FILENO);
  ::dup2(STDOUT_FILENO, STDERR_FILENO);
  for (const auto& [name, value] : command.environment) ::setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> argv;
  for (const std::string& word : command.words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(error_fd, &error, sizeof(error));
  ::_exit(127);
}

// A process that outlives this one by a moment: end of file on its pipe means that the owner is
// gone without a word, and the group goes with it.
[[noreturn]] void stand_guard(pid_t group, int read_fd, int write_fd) {
  ::setpgid(0, 0);
  ::close(write_fd);
  char byte = 0;
  ssize_t got = 0;
  do {
    got = ::read(read_fd, &byte, 1);  // nobody writes
  } while (got < 0 && errno == EINTR);
  ::kill(-group, SIGKILL);
  ::_exit(0);
}

struct Guard {
  pid_t pid = -1;
  int fd = -1;
};

Result<Guard> post_guard(pid_t group) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return failed(str("pipe: ", ::strerror(errno)));
  const pid_t pid = ::fork();
  if (pid == 0) stand_guard(group, ends[0], ends[1]);
  ::close(ends[0]);
  if (pid < 0) {
    ::close(ends[1]);
    return failed(str("fork: ", ::strerror(errno)));
  }
  return Guard{pid, ends[1]};
}

int64_t deadline_ns(int64_t limit_ms) { return steady_now_ns() + limit_ms * kNsPerMs; }

}  // namespace

Result<ForkedChild> fork_child(const std::function<void(int)>& child) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return failed(str("pipe: ", ::strerror(errno)));
  const pid_t pid = ::fork();
  if (pid == 0) {
    child(ends[1]);
    ::_exit(1);
  }
  ::close(ends[1]);
  if (pid < 0) {
    ::close(ends[0]);
    return failed(str("fork: ", ::strerror(errno)));
  }
  return ForkedChild{pid, ends[0]};
}

Result<std::unique_ptr<ChildProcess>> ChildProcess::start(const ChildCommand& command) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const ForkedChild child,
                              fork_child([&](int fd) { become(command, fd); }));
  const pid_t pid = child.pid;
  // Here as well: whoever comes first, the group is there before anybody signals it.
  ::setpgid(pid, pid);
  int error = 0;
  const ssize_t got = ::read(child.read_fd, &error, sizeof(error));
  ::close(child.read_fd);
  if (got == sizeof(error)) {
    ::waitpid(pid, nullptr, 0);
    return failed(str(quote(command.words[0]), " cannot be run: ", ::strerror(error),
                      error == ENOENT ? "; install it or put it on PATH" : ""));
  }
  const Result<Guard> guard = post_guard(pid);
  if (!guard.ok()) {
    ::kill(-pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return guard.status();
  }
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid, guard->pid, guard->fd));
}

ChildProcess::~ChildProcess() {
  kill_group();
  // Before its pipe closes: nothing is left to end, and the group's number may soon be another's.
  ::kill(guard_pid_, SIGKILL);
  ::waitpid(guard_pid_, nullptr, 0);
  ::close(guard_fd_);
}

bool ChildProcess::has_ended() {
  if (is_ended_) return true;
  siginfo_t info{};
  // Not reaped: its number stays taken, so that the group's is nobody else's.
  if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0) {
    return false;
  }
  if (info.si_pid != pid_) return false;
  is_ended_ = true;
  if (info.si_code == CLD_EXITED) {
    exit_code_ = info.si_status;
  } else {
    exit_signal_ = info.si_status;
  }
  return true;
}

std::optional<std::string> ChildProcess::ended() {
  if (!has_ended()) return std::nullopt;
  if (exit_signal_ == 0) return str("exit code ", exit_code_);
  return str("signal ", exit_signal_, " (", ::strsignal(exit_signal_), ")");
}

std::optional<int> ChildProcess::exit_code() {
  if (!has_ended() || exit_signal_ != 0) return std::nullopt;
  return exit_code_;
}

void ChildProcess::kill_group() {
  if (is_over_) return;
  ::kill(-pid_, SIGKILL);
  // One that waits for a driver that hangs stays a while, or for good: init gets it then.
  const int64_t until_ns = deadline_ns(kKillLimitMs);
  while (!has_ended() && steady_now_ns() < until_ns) std::this_thread::sleep_for(kTick);
  ::waitpid(pid_, nullptr, WNOHANG);
  is_over_ = true;
}

bool ChildProcess::stop(int64_t limit_ms) {
  if (is_over_) return true;
  ::kill(-pid_, SIGTERM);
  const int64_t until_ns = deadline_ns(limit_ms);
  while (!has_ended() && steady_now_ns() < until_ns) std::this_thread::sleep_for(kTick);
  const bool went = is_ended_;
  kill_group();  // what the leader left behind as well
  return went;
}

Result<std::string> output_of(ChildCommand command, int64_t limit_ms) {
  const int fd = ::memfd_create("output", MFD_CLOEXEC);
  if (fd < 0) return failed(str("memfd_create: ", ::strerror(errno)));
  command.output_fd = fd;
  const auto read_output = [fd] {
    std::string text(kMaxOutputBytes, '\0');
    const ssize_t got = ::pread(fd, text.data(), text.size(), 0);
    text.resize(got > 0 ? static_cast<size_t>(got) : 0);
    ::close(fd);
    return text;
  };
  Result<std::unique_ptr<ChildProcess>> child = ChildProcess::start(command);
  if (!child.ok()) {
    ::close(fd);
    return child.status();
  }
  const int64_t until_ns = deadline_ns(limit_ms);
  while (!child.value()->ended() && steady_now_ns() < until_ns) std::this_thread::sleep_for(kTick);
  const std::optional<std::string> how = child.value()->ended();
  const std::optional<int> exit_code = child.value()->exit_code();
  child.value().reset();
  const std::string text = read_output();
  if (!how) return failed(str(quote(command.words[0]), " does not end within ", limit_ms, " ms"));
  if (exit_code != 0) {
    return failed(str(quote(command.words[0]), " ended with ", *how, ": ", quote(text, 200)));
  }
  return text;
}

std::string shell_text(const ChildCommand& command, const std::string& home) {
  const auto quoted = [&](const std::string& word) {
    const bool is_home = !home.empty() && starts_with(word, home + "/");
    const std::string rest = is_home ? word.substr(home.size()) : word;
    const bool plain = !rest.empty() && rest.find_first_not_of(
                                            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                            "0123456789-_./:=,+@%") == std::string::npos;
    if (plain) return (is_home ? "~" : "") + rest;
    std::string text = is_home ? "~/'" : "'";
    for (const char c : is_home ? rest.substr(1) : rest) {
      text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    }
    return text + "'";
  };
  std::string text;
  for (const auto& [name, value] : command.environment) text += name + "=" + quoted(value) + " ";
  for (size_t idx = 0; idx < command.words.size(); ++idx) {
    text += (idx == 0 ? "" : " ") + quoted(command.words[idx]);
  }
  return text;
}

}  // namespace slipstream

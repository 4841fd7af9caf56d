// ChildProcess: a program of others in a process group of its own.
//
// Owns the process, its group and the guard that ends the group should this process die first, even
// by SIGKILL. Used by one thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace slipstream {

struct ChildCommand {
  std::vector<std::string> words;                       // words[0] is looked up in PATH
  std::map<std::string, std::string> environment = {};  // on top of this process's
  int output_fd = -1;                                   // gets stdout and stderr; borrowed
};

class ChildProcess {
 public:
  // The error says why the program cannot be run.
  static Result<std::unique_ptr<ChildProcess>> start(const ChildCommand& command);
  // Kills the whole group.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // How it ended, such as "exit code 3" or "signal 11 (Segmentation fault)"; none while it runs.
  std::optional<std::string> ended();
  // Its exit code once it ended by itself; none while it runs or after a signal.
  std::optional<int> exit_code();

  // SIGTERM to the group, SIGKILL after `limit_ms`. Whether it ended by SIGTERM or before.
  bool stop(int64_t limit_ms);

 private:
  ChildProcess(pid_t pid, pid_t guard_pid, int guard_fd)
      : pid_(pid), guard_pid_(guard_pid), guard_fd_(guard_fd) {}
  bool has_ended();
  void kill_group();  // and reaps

  pid_t pid_;
  pid_t guard_pid_;
  int guard_fd_;  // its other end closes with this process
  bool is_ended_ = false;
  bool is_over_ = false;
  int exit_code_ = 0;    // of a process that exited
  int exit_signal_ = 0;  // of one that was killed; 0: it exited
};

struct ForkedChild {
  pid_t pid = -1;
  int read_fd = -1;  // what the child writes
};

// Forks. `child` runs in the new process, with where it may write to this one, and ends it.
Result<ForkedChild> fork_child(const std::function<void(int write_fd)>& child);

// Runs a command to its end and returns what it printed, stdout and stderr together. An error: it
// cannot be run, does not end within `limit_ms` or its exit code is not 0.
Result<std::string> output_of(ChildCommand command, int64_t limit_ms);

// The command as a shell takes it: variables first, words quoted where they need it, and `home`
// written ~.
std::string shell_text(const ChildCommand& command, const std::string& home);

}  // namespace slipstream

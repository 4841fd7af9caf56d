// Programs of others: how they end is known, nothing of them stays, and commands can be pasted.
#include "bench/child_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

#include "base/temp_folder_for_test.h"

namespace slipstream {
namespace {

ChildCommand shell(const std::string& script) { return {{"sh", "-c", script}}; }

template <typename Condition>
bool comes_true(Condition condition) {
  for (int tick = 0; tick < 1'000; ++tick) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// Zombies that nobody has reaped yet count as gone.
bool is_gone(const std::string& pid) {
  const std::string stat = read_file("/proc/" + pid + "/stat");
  return stat.empty() || stat.find(") Z ") != std::string::npos;
}

// Runs a worker that ignores SIGTERM and writes its process id.
std::string worker_script(const std::string& path) {
  return "trap '' TERM; sleep 600 & echo $! > " + path + ".part; mv " + path + ".part " + path +
         "; wait";
}

std::string worker_pid(const std::string& path) {
  std::string pid = read_file(path);
  return pid.substr(0, pid.find('\n'));
}

TEST(ChildProcess, HowAProgramEndsIsKnown) {
  auto child = ChildProcess::start(shell("exit 3"));
  ASSERT_TRUE(child.ok()) << child.status().message();
  ASSERT_TRUE(comes_true([&] { return child.value()->ended().has_value(); }));
  EXPECT_EQ(*child.value()->ended(), "exit code 3");
  EXPECT_EQ(child.value()->exit_code(), 3);
  child = ChildProcess::start(shell("kill -SEGV $$"));
  ASSERT_TRUE(comes_true([&] { return child.value()->ended().has_value(); }));
  EXPECT_EQ(*child.value()->ended(), "signal 11 (Segmentation fault)");
  EXPECT_FALSE(child.value()->exit_code());
  const auto none = ChildProcess::start({{"no-such-program"}});
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.status().message(),
            "'no-such-program' cannot be run: No such file or directory; install it or put it on"
            " PATH");
}

TEST(ChildProcess, StoppingEndsTheWholeGroup) {
  const TempFolder folder;
  const std::string path = (folder / "worker").string();
  auto child = ChildProcess::start(shell(worker_script(path)));
  ASSERT_TRUE(child.ok() && comes_true([&] { return !read_file(path).empty(); }));
  EXPECT_FALSE(child.value()->ended());
  EXPECT_FALSE(child.value()->stop(50)) << "it ignores SIGTERM";
  EXPECT_TRUE(comes_true([&] { return is_gone(worker_pid(path)); }));
  auto polite = ChildProcess::start(shell("sleep 600"));
  ASSERT_TRUE(polite.ok());
  EXPECT_TRUE(polite.value()->stop(10'000));
}

TEST(ChildProcess, AnOwnerThatIsKilledTakesTheGroupWithIt) {
  const TempFolder folder;
  const std::string path = (folder / "worker").string();
  const pid_t owner = ::fork();
  if (owner == 0) {
    const auto child = ChildProcess::start(shell(worker_script(path)));
    ::pause();
    ::_exit(0);
  }
  ASSERT_TRUE(comes_true([&] { return !read_file(path).empty(); }));
  EXPECT_FALSE(is_gone(worker_pid(path)));
  ::kill(owner, SIGKILL);
  ::waitpid(owner, nullptr, 0);
  EXPECT_TRUE(comes_true([&] { return is_gone(worker_pid(path)); }));
}

TEST(ChildProcess, OutputIsThatOfBothStreamsAndErrorsSayWhatWasPrinted) {
  ChildCommand command = shell("echo $GREETING; echo there >&2");
  command.environment["GREETING"] = "hello";
  EXPECT_EQ(output_of(command, 10'000).value(), "hello\nthere\n");
  const auto broken = output_of(shell("echo no such library; exit 1"), 10'000);
  ASSERT_FALSE(broken.ok());
  EXPECT_EQ(broken.status().message(), "'sh' ended with exit code 1: 'no such library\\x0a'");
  const auto slow = output_of(shell("sleep 600"), 50);
  ASSERT_FALSE(slow.ok());
  EXPECT_EQ(slow.status().message(), "'sh' does not end within 50 ms");
}

TEST(ChildProcess, AShellReadsTheCommandAsItWas) {
  ChildCommand command{{"printf", "%s|", "a b", "it's", "", "$HOME", "plain"}};
  command.environment["LC_ALL"] = "C C";
  const std::string text = shell_text(command, "");
  EXPECT_EQ(text, "LC_ALL='C C' printf '%s|' 'a b' 'it'\\''s' '' '$HOME' plain");
  EXPECT_EQ(output_of(shell(text), 10'000).value(), "a b|it's||$HOME|plain|");
  EXPECT_EQ(shell_text({{"run", "/users/me/m.gguf", "/users/me/a b", "/users/mean"}}, "/users/me"),
            "run ~/m.gguf ~/'a b' /users/mean");
}

}  // namespace
}  // namespace slipstream

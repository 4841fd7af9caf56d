#include "server/access_log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <string>

#include "base/json.h"

namespace slipstream {
namespace {

AccessLogLine a_call() {
  AccessLogLine line;
  line.request_id = "req-1";
  line.key_label = "alice";
  line.method = "POST";
  line.route = "/v1/completions";
  line.status = 200;
  line.body_bytes = 1234;
  line.duration_ms = 12.34;
  line.has_call = true;
  line.call = {"model-1", 10, 4, 20, 5.5, 98.76, "stop", "someone"};
  return line;
}

struct Pipe {
  Pipe() { EXPECT_EQ(::pipe2(fds.data(), O_CLOEXEC), 0); }
  ~Pipe() {
    ::close(fds[0]);
    if (fds[1] >= 0) ::close(fds[1]);
  }
  std::string read_rest() {
    ::close(fds[1]);
    fds[1] = -1;
    std::string text;
    std::array<char, 4096> bytes;
    for (ssize_t size = 0; (size = ::read(fds[0], bytes.data(), bytes.size())) > 0;) {
      text.append(bytes.data(), static_cast<size_t>(size));
    }
    return text;
  }
  std::array<int, 2> fds{-1, -1};
};

TEST(AccessLog, ALineTellsWhoAskedWhatItCostAndHowItEnded) {
  const std::string text = format_access_line(a_call(), LogFormat::kText);
  EXPECT_NE(text.find(" info request id=req-1 key=alice method=POST route=/v1/completions "
                      "status=200 model=model-1 in=10 cached=4 out=20 ttft_ms=5.5 tok_s=98.8 "
                      "finish=stop user=someone bytes=1234 ms=12.3"),
            std::string::npos)
      << text;
  const auto json = parse_json(format_access_line(a_call(), LogFormat::kJson), "line");
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(json.value()["out"], 20);
  EXPECT_EQ(json.value()["finish"], "stop");
}

TEST(AccessLog, H22_WhatAClientWroteStaysOneFieldOfOneLine) {
  AccessLogLine line = a_call();
  line.call.user = "x\nforged line status=500 \x1b[31m \"quoted\" \xff";
  line.route = "/a b\r\nc" + std::string(1000, 'x');
  const std::string text = format_access_line(line, LogFormat::kText);
  for (const char c : text) EXPECT_TRUE(c >= ' ' && c <= '~') << static_cast<int>(c);
  EXPECT_LT(text.size(), 1000u);
  EXPECT_TRUE(parse_json(format_access_line(line, LogFormat::kJson), "line").ok());
}

TEST(AccessLog, LinesAreWrittenInOrderAndWholeAtTheEnd) {
  Pipe pipe;
  {
    AccessLog log({pipe.fds[1], LogFormat::kText, 4096});
    for (int i = 0; i < 100; ++i) {
      AccessLogLine line;
      line.request_id = "r" + std::to_string(i);
      log.record(line);
    }
    EXPECT_EQ(log.num_dropped(), 0);
  }
  const std::string text = pipe.read_rest();
  size_t at = 0;
  for (int i = 0; i < 100; ++i) {
    at = text.find("id=r" + std::to_string(i) + " ", at);
    ASSERT_NE(at, std::string::npos) << i;
  }
}

TEST(AccessLog, R10_AStalledReaderCostsLinesNotRequests) {
  Pipe pipe;
  AccessLog log({pipe.fds[1], LogFormat::kText, 16});
  for (int i = 0; i < 100'000; ++i) log.record(a_call());  // nobody reads; none may block
  EXPECT_GT(log.num_dropped(), 0);
}

TEST(AccessLog, R10_AClosedOutputIsSurvived) {
  ::signal(SIGPIPE, SIG_IGN);
  Pipe pipe;
  ::close(pipe.fds[0]);
  pipe.fds[0] = -1;
  {
    AccessLog log({pipe.fds[1], LogFormat::kText, 16});
    log.record(a_call());
  }
  {
    AccessLog log({-1, LogFormat::kText, 16});
    log.record(a_call());
  }
}

}  // namespace
}  // namespace slipstream

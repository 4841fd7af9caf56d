#include "cli/load_progress.h"

#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "base/strings.h"
#include "bench/engine_client.h"
#include "cli/line_io.h"

namespace slipstream {
namespace {

constexpr int64_t kQuietOnTerminalNs = 300'000'000;
constexpr int64_t kQuietElsewhereNs = 1'000'000'000;
constexpr int64_t kRedrawNs = 100'000'000;
constexpr int kBarWidth = 28;

}  // namespace

LoadProgress::LoadProgress() : is_terminal_(::isatty(STDERR_FILENO) == 1) {}

void LoadProgress::update(const LoadProgressEvent& event) {
  const int64_t now_ns = steady_now_ns();
  if (event.stage != stage_) {
    finish();
    stage_ = event.stage;
    stage_started_ns_ = now_ns;
    drawn_ns_ = 0;
    shown_ = false;
  }
  const int64_t elapsed_ns = now_ns - stage_started_ns_;
  if (!is_terminal_) {
    if (shown_ || elapsed_ns < kQuietElsewhereNs) return;
    shown_ = true;
    write_stderr(str("loading ", stage_, " (",
                     human_bytes(static_cast<uint64_t>(std::max<int64_t>(event.total_bytes, 0))),
                     ")\n"));
    return;
  }
  if (elapsed_ns < kQuietOnTerminalNs || now_ns - drawn_ns_ < kRedrawNs) return;
  drawn_ns_ = now_ns;
  shown_ = true;
  const double share = event.total_bytes > 0
                           ? std::clamp(static_cast<double>(event.done_bytes) /
                                            static_cast<double>(event.total_bytes),
                                        0.0, 1.0)
                           : 0.0;
  const auto filled = static_cast<size_t>(share * kBarWidth);
  write_stderr(str("\rloading ", stage_, " [", std::string(filled, '#'),
                   std::string(kBarWidth - filled, ' '), "] ", static_cast<int>(share * 100.0),
                   "% of ", human_bytes(static_cast<uint64_t>(event.total_bytes)), "\033[K"));
}

void LoadProgress::finish() {
  if (shown_ && is_terminal_) write_stderr("\r\033[K");
  shown_ = false;
}

}  // namespace slipstream

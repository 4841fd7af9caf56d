// Shows how far a long stage is: a bar on a terminal, one line per stage elsewhere. A stage that
// is over within a second is not worth a line.
#pragma once

#include <cstdint>
#include <string>

#include "slipstream/options.h"

namespace slipstream {

class LoadProgress {
 public:
  LoadProgress();
  ~LoadProgress() { finish(); }
  LoadProgress(const LoadProgress&) = delete;
  LoadProgress& operator=(const LoadProgress&) = delete;

  // Called on one thread at a time.
  void update(const LoadProgressEvent& event);
  // Ends the line. No update may follow.
  void finish();

 private:
  bool is_terminal_ = false;
  std::string stage_;
  int64_t stage_started_ns_ = 0;
  int64_t drawn_ns_ = 0;
  bool shown_ = false;
};

}  // namespace slipstream

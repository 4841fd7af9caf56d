// ResidentDecoder: computes one sequence for many tokens without the host between them, where an
// Executor computes one step of many sequences. Both read and write the same pages, so a sequence
// changes over from one to the other between any two tokens.
//
// After a run of n tokens the pages hold what n decode steps would have left there: K and V of the
// token that it began with and of all but the last that it gave. Engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/executor.h"
#include "slipstream/engine.h"

namespace slipstream {

struct DecodeRun {
  int32_t token_id = 0;                  // the sequence's last token: not in the pages yet
  int64_t position = 0;                  // its
  std::span<const int32_t> block_table;  // of positions 0 to position + max_tokens - 1
  int64_t max_tokens = 0;
  std::span<const int32_t> end_ids;  // the run ends after one of these; most_end_ids() are read
  float temperature = 0.0f;          // as of SampleRow
  uint64_t seed = 0;
  uint32_t choice_idx = 0;
};

class ResidentDecoder {
 public:
  static constexpr int64_t kHangNs = 5'000'000'000;

  virtual ~ResidentDecoder() = default;
  virtual const char* name() const = 0;
  virtual int64_t most_tokens() const = 0;  // of a run
  virtual int64_t most_end_ids() const = 0;
  // A run that gives no token for so long hangs.
  virtual int64_t hang_ns() const { return kHangNs; }
  // When the run before has ended. An error: it cannot be used any more.
  virtual Status start(const DecodeRun& run) = 0;
  // The run's tokens so far, once there are more than `num_known`, it has ended, or the time is
  // over; kBadLogits where logits were no numbers, which ends it. Valid until the next start.
  virtual std::span<const int32_t> wait(int64_t num_known, int64_t timeout_ns) = 0;
  virtual bool ended() const = 0;
  // Asks for an end within two tokens.
  virtual void stop() = 0;
  // For a run that no longer advances: frees the device. Tokens that it had not given are lost.
  virtual void abort() = 0;
  // Of a token of the latest run; empty: it is not known. Between runs.
  virtual std::vector<PhaseTime> phase_times() { return {}; }
};

// The persistent kernel on the state's weights and pages; `program` is PersistentDecoder::plan's.
struct DecodeProgram;
Result<std::unique_ptr<ResidentDecoder>> make_megakernel(ModelState& state,
                                                         const DecodeProgram& program,
                                                         int64_t max_context);

}  // namespace slipstream

// PersistentDecoder: a model's weights in the streams of the persistent kernel, and its launches.
//
// It reads the weights, embedding and norms and reads and writes the pages of the model it was
// opened for, which must outlive it. One launch at a time, in the order of the context's stream.
// Used by the thread that drives the device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "kv/kv_cache.h"
#include "megakernel/program.h"
#include "model/decoder.h"

namespace slipstream {

struct DecodeModel {
  const DecoderSpec& spec;
  const DecoderWeights& weights;
  const DeviceRope& rope;
  const KVCache& kv;
  const Ops& ops;
  OpContext& ctx;
};

// One launch: from a sequence's last token on, whose K and V are not in the pages yet.
struct DecodeLaunch {
  int32_t token_id = 0;
  int64_t position = 0;                  // of that token
  std::span<const int32_t> block_table;  // of positions 0 to position + max_tokens - 1
  int32_t max_tokens = 0;
  std::span<const int32_t> end_ids = {};  // it ends after one of these
  float temperature = 0.0f;               // 0: the largest logit
  uint64_t seed = 0;
  uint32_t choice_idx = 0;
};

// A phase of one token, all layers together; see PhaseTime of slipstream/engine.h.
struct DecodePhase {
  std::string name;
  double us = 0.0;
  double wait_us = 0.0;
  int64_t bytes = 0;
};

class PersistentDecoder {
 public:
  static constexpr int32_t kMaxTokens = 4096;  // of a launch

  // The program for a model on this device; an error says why there is none.
  static Result<DecodeProgram> plan(const DecoderSpec& spec, const DecoderWeights& weights,
                                    const KVGroupSpec& kv, const Ops& ops);
  // Packs the streams: the weights once more, program.streams_bytes() bytes.
  static Result<std::unique_ptr<PersistentDecoder>> open(const DecodeModel& model,
                                                         const DecodeProgram& program,
                                                         int64_t max_context);
  ~PersistentDecoder();
  PersistentDecoder(const PersistentDecoder&) = delete;
  PersistentDecoder& operator=(const PersistentDecoder&) = delete;

  Status start(const DecodeLaunch& launch);
  // The tokens so far, once there are more than `num_known`, the launch has ended, or timeout_ns
  // are over. A token that is none (kNoToken) ends a launch whose logits were no numbers.
  std::span<const int32_t> wait(int64_t num_known, int64_t timeout_ns);
  bool ended() const;
  // Asks for an end within two tokens. From any thread.
  void stop();
  // Frees whoever waits in a launch that no longer advances; what it then computes is worthless.
  void abort();

  // Copies of weights asked for and not landed, in slots of the ring: speed, not results.
  void set_most_in_flight(int32_t slots);
  int32_t num_ring_slots() const;

  // Makes launches hang at their token `token`, until they are aborted; -1: not. For tests.
  void withhold_token(int32_t token);

  // Of token kStampedToken of the launch before, which has ended; empty if it was shorter.
  std::vector<DecodePhase> phases() const;

  static constexpr int32_t kNoToken = -1;

 private:
  struct State;
  explicit PersistentDecoder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace slipstream

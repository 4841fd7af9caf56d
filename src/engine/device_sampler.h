// DeviceSampler: draws tokens where the logits are, so that the tokens of one step feed the next
// without visiting the host.
//
// Steps take turns with two slots: while the ids of one are read, those of the next are drawn.
// Engine thread, copy_row() excepted.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "ops/sample_row.h"

namespace slipstream {

struct ModelState;  // engine/executor.h

class DeviceSampler {
 public:
  static constexpr int kNumSlots = 2;

  virtual ~DeviceSampler() = default;
  // How many requests may have a sampling state; 0: rows with a state or log-probabilities are not
  // taken.
  virtual int32_t num_states() const = 0;
  // Fills a state for the draws that follow.
  virtual void set_state(int32_t idx, const SampleState& state) = 0;
  // Queues, behind the forward pass that computes `logits`, the drawing of `rows`, which may be
  // none. The ids that were drawn in this slot before are gone.
  virtual void draw(TensorView logits, std::span<const SampleRow> rows, int slot) = 0;
  // Waits until the draw of this slot is done: the token of each row, kBadLogits or kNoTokenLeft
  // when it has none. Valid until the slot's next draw.
  virtual std::span<const int32_t> drawn(int slot) = 0;
  // After drawn(), and as long: of rows that asked for them and have a token.
  virtual std::span<const SampledLogprobs> logprobs(int slot) = 0;
  // How long the device has been at work on the steps whose ids drawn() has given.
  virtual int64_t busy_ns() const = 0;
  // A row of the last forward's logits for the host, in `copy`. Any thread of the pool.
  virtual std::span<float> copy_row(TensorView logits, int64_t row,
                                    std::vector<float>& copy) const = 0;
};

// By the table's ops; null when it has none for it. `state` must outlive the sampler and was opened
// for `num_states`.
std::unique_ptr<DeviceSampler> make_device_sampler(ModelState& state, int32_t num_states);

}  // namespace slipstream

// Tensor parallelism: which part of a model each of several devices holds. Who owns what is data;
// these functions are pure, and one device is the case of a world of one.
//
// Split by rows (each device computes some of the outputs): q, k and v by heads; gate and up by the
// MLP's rows; the LM head by vocabulary rows. Split by columns (each device computes a term of
// every output, and the terms are summed): o by heads, down by the MLP's rows. The bias of a sum is
// added by rank 0 alone. On every device: norms, and the embedding, of which a step reads a few
// rows.
//
// The LM head is split because a decoded token reads all of it: 7 % of Llama 3 8B's weights, which
// replicated would be more than a third of what each of 8 devices reads. Logits are gathered to all
// devices and not to one, so that each draws the same tokens without being told (sampling is a
// function of logits, seed and position) and can start its next step at once. A tied head's rows
// are packed once more beside the embedding: 1 / world_size of it.
#pragma once

#include <vector>

#include "base/status.h"
#include "comm/communicator.h"
#include "model/spec.h"

namespace slipstream {

struct TpShard {
  int rank = 0;
  int world_size = 1;
};

inline TpShard tp_shard(const Communicator& comm) { return {comm.rank(), comm.world_size()}; }

// The parts of `shard`. Where there are fewer KV heads than devices, devices in a row share one and
// each holds it. Vocabulary ranges differ by 64 rows at most and are whole multiples of 64 but for
// the last and for tiny vocabularies.
IndexRange head_range(const AttentionSpec& attention, TpShard shard);
IndexRange kv_head_range(const AttentionSpec& attention, TpShard shard);
IndexRange mlp_range(const MlpSpec& mlp, TpShard shard);
IndexRange vocab_range(int64_t vocab_size, TpShard shard);
std::vector<IndexRange> vocab_ranges(int64_t vocab_size, int world_size);  // by rank

// The model that one device computes: heads and MLP rows are its own, hidden and vocabulary sizes
// the whole model's. An error says what does not divide.
Result<DecoderSpec> shard_spec(const DecoderSpec& spec, TpShard shard);

}  // namespace slipstream

// Decoder: weights bound to a spec, and the one forward pass (decoder.cc reads top to bottom).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "comm/communicator.h"
#include "kv/kv_cache.h"
#include "model/config.h"
#include "model/spec.h"
#include "model/tp_shard.h"
#include "ops/forward_batch.h"
#include "ops/ops.h"

namespace slipstream {

class Checkpoint;

// Sizes are those of one device's spec: see tp_shard.h.
struct LayerWeights {
  FloatVector attn_norm, mlp_norm;  // [hidden]
  Weight q, k, v, o;                // [heads * head_dim, hidden], ..., [hidden, heads * head_dim]
  FloatVector q_bias, k_bias, v_bias;
  FloatVector o_bias;          // on rank 0
  FloatVector q_norm, k_norm;  // [head_dim]
  Weight gate, up, down;       // [intermediate, hidden] x2, [hidden, intermediate]
  FloatVector gate_bias, up_bias;
  FloatVector down_bias;  // on rank 0
};

struct DecoderWeights {
  Weight embed;            // [vocab, hidden]
  FloatVector final_norm;  // [hidden]
  Weight lm_head;          // [rows of vocab_range, hidden]; all of a tied one is embed's payload
  std::vector<LayerWeights> layers;
  int64_t num_parameters = 0;   // of the whole model
  int64_t bytes_per_token = 0;  // weight bytes one decoded token streams here, LM head included
  std::string format;           // the format most bytes are stored in, e.g. "Q4_1"
};

// Called with bytes packed so far and in all, from the loading thread.
using LoadProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

// Who packs weights and which part of each.
struct PackTarget {
  const Ops& ops;
  OpContext& ctx;
  TpShard shard = {};
};

// Binds and packs the shard of every weight of the whole model that `spec` describes; originals are
// dropped from memory as they are packed. Tensors that are missing, mis-shaped or cannot be split
// are reported by name, all at once.
Result<DecoderWeights> load_weights(const Checkpoint& checkpoint, const DecoderSpec& spec,
                                    const WeightNames& names, const PackTarget& target,
                                    const LoadProgress& progress);
// Seeded random weights of the same shapes (--load-format dummy). Shards are parts of the model
// that one device has for the same seed.
Result<DecoderWeights> dummy_weights(const DecoderSpec& spec, QuantType type, uint64_t seed,
                                     const PackTarget& target);

// The memory one decoded token reads: every matrix but the embedding table, the LM head included.
std::vector<ByteRange> streamed_ranges(const DecoderWeights& weights);

// Activations of one step, taken once for the largest batch, in the backend's memory.
struct Workspace {
  Workspace(const DecoderSpec& spec, const Ops& ops, int64_t max_tokens, int64_t max_logit_rows);
  // Of ops.activation_dtype, [max_tokens, width].
  Buffer hidden, normed, qkv, attn_out, gate_up, activated, branch_out;
  // Inputs of `linear` where it wants them in 8 bits: [max_tokens, widest], scales [max_tokens].
  Buffer quantized, row_scales;
  Buffer cos_sin;       // f32 [max_tokens, rotary_dim]
  Buffer logit_hidden;  // [max_logit_rows, hidden]
  Buffer logits;        // f32 [max_logit_rows, vocab]
  int64_t max_tokens = 0;
  int64_t max_logit_rows = 0;
};

// Frequencies of the rotary embedding in the backend's memory.
struct DeviceRope {
  FloatVector inv_freq;
  float attention_factor = 1.0f;

  DeviceRope(const RopeFrequencies& host, const Ops& ops)
      : inv_freq(host.inv_freq, *ops.memory), attention_factor(host.attention_factor) {}
};

struct ForwardArgs {
  const DecoderSpec& spec;  // of this device's shard
  const DecoderWeights& weights;
  const DeviceRope& rope;
  const BatchView& batch;  // of ops.begin_step
  const KVCache& kv;
  const Ops& ops;
  OpContext& ctx;
  Workspace& workspace;
  Communicator& comm;
};

// Runs the batch through every layer, appends its K and V to the pages, and returns the logits
// [num_logit_rows, vocab_size] f32 (a view into the workspace). With several devices all call it,
// each for the same batch, and all have the same logits.
TensorView forward(const ForwardArgs& args);

// Counts and ids are within the spec and the workspace; a batch that is not is a bug of ours.
void check_batch(const ForwardBatch& batch, const DecoderSpec& spec, const Workspace& workspace);

// `values` [num_tokens, width] in the form in which `linear` reads it for `weight`: `plain` itself,
// or the workspace's 8-bit rows.
Activations linear_input(const ForwardArgs& args, TensorView plain, const Weight& weight);

struct BatchLimits {
  int64_t max_tokens = 0;
  int64_t max_logit_rows = 0;
  int64_t max_seqs = 1;
  int64_t max_context = 0;
  int64_t max_sample_states = 0;
};
OpLimits op_limits(const DecoderSpec& spec, const BatchLimits& batch);

}  // namespace slipstream

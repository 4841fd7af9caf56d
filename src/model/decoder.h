// Decoder: weights bound to a spec, and the one forward pass (decoder.cc reads top to bottom).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "kv/kv_cache.h"
#include "model/config.h"
#include "model/forward_batch.h"
#include "model/spec.h"
#include "ops/ops.h"

namespace slipstream {

class Checkpoint;

struct LayerWeights {
  std::vector<float> attn_norm, mlp_norm;  // [hidden]
  Weight q, k, v, o;  // [heads * head_dim, hidden], ..., [hidden, heads * head_dim]
  std::vector<float> q_bias, k_bias, v_bias, o_bias;
  std::vector<float> q_norm, k_norm;  // [head_dim]
  Weight gate, up, down;              // [intermediate, hidden] x2, [hidden, intermediate]
  std::vector<float> gate_bias, up_bias, down_bias;
};

struct DecoderWeights {
  Weight embed;                   // [vocab, hidden]
  std::vector<float> final_norm;  // [hidden]
  Weight lm_head;                 // [vocab, hidden]; shares embed's payload when tied
  std::vector<LayerWeights> layers;
  int64_t num_parameters = 0;
  int64_t bytes_per_token = 0;  // weight bytes one decoded token streams, LM head included
  std::string format;           // the format most bytes are stored in, e.g. "Q4_1"
};

// Called with bytes packed so far and in all, from the loading thread.
using LoadProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

// Binds and packs every weight; originals are dropped from memory as they are packed. Missing or
// mis-shaped tensors are reported by name, all at once.
Result<DecoderWeights> load_weights(const Checkpoint& checkpoint, const DecoderSpec& spec,
                                    const WeightNames& names, const Ops& ops, OpContext& ctx,
                                    const LoadProgress& progress);
// Seeded random weights of the same shapes (--load-format dummy).
Result<DecoderWeights> dummy_weights(const DecoderSpec& spec, QuantType type, uint64_t seed,
                                     const Ops& ops, OpContext& ctx);

// The memory one decoded token reads: every matrix but the embedding table, the LM head included.
std::vector<ByteRange> streamed_ranges(const DecoderWeights& weights);

// Activations of one step, taken once for the largest batch.
struct Workspace {
  Workspace(const DecoderSpec& spec, int64_t max_tokens, int64_t max_logit_rows);
  // Shapes are [max_tokens, width], the last two [max_logit_rows, width].
  Buffer hidden, normed, qkv, attn_out, gate_up, activated, branch_out, cos_sin;
  Buffer logit_hidden, logits;
  int64_t max_tokens = 0;
  int64_t max_logit_rows = 0;
};

struct ForwardArgs {
  const DecoderSpec& spec;
  const DecoderWeights& weights;
  const RopeFrequencies& rope;
  const ForwardBatch& batch;
  const KVCache& kv;
  const Ops& ops;
  OpContext& ctx;
  Workspace& workspace;
};

// Runs the batch through every layer, appends its K and V to the pages, and returns the logits
// [num_logit_rows, vocab_size] f32 (a view into the workspace).
TensorView forward(const ForwardArgs& args);

OpLimits op_limits(const DecoderSpec& spec, int64_t max_tokens, int64_t max_context);

}  // namespace slipstream

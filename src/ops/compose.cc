// Ops made of other ops of the same table, for backends that fuse nothing.
#include "ops/ops.h"

namespace slipstream {

void composed_norm_rope_append(const Ops& ops, OpContext& ctx, const QkvArgs& args) {
  if (args.q_norm != nullptr) ops.head_rms_norm(ctx, args.q, args.q_norm, args.norm_eps);
  if (args.k_norm != nullptr) ops.head_rms_norm(ctx, args.k, args.k_norm, args.norm_eps);
  ops.rope(ctx, args.q, args.rope, args.cos_sin);
  ops.rope(ctx, args.k, args.rope, args.cos_sin);
  ops.kv_append(ctx, args.k, args.v, args.slot_mapping, args.kv);
}

}  // namespace slipstream

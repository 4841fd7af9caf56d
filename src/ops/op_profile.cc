#include "ops/op_profile.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/strings.h"
#include "ops/gemm_roof.h"

namespace slipstream {
namespace {

double bytes_of(const TensorView& view) {
  return static_cast<double>(view.num_elements()) * static_cast<double>(dtype_bytes(view.dtype));
}

}  // namespace

// The entries of the table: each finds its profile in the context.
struct ProfiledOps {
  template <typename Call>
  static void timed(OpContext& ctx, OpProfile::Pending op, const Call& call) {
    OpProfile& profile = *ctx.profile;
    const Ops& inner = *profile.inner_;
    if (!profile.active()) return call(inner);
    const auto idx = static_cast<int>(2 * profile.pending_.size());
    if (idx == 0) profile.began_ns_ = steady_now_ns();
    profile.pending_.push_back(std::move(op));
    profile.mark(ctx, idx);
    call(inner);
    profile.mark(ctx, idx + 1);
  }

  static BatchView begin_step(OpContext& ctx, const ForwardBatch& batch, BatchFill fill) {
    ctx.profile->begin_step(ctx, batch, fill);
    return ctx.profile->inner_->begin_step(ctx, batch, fill);
  }
  static void embed(OpContext& ctx, const Weight& table, const int32_t* token_ids, TensorView out) {
    timed(ctx, {"embed", 2.0 * bytes_of(out)},
          [&](const Ops& ops) { ops.embed(ctx, table, token_ids, out); });
  }
  static void rms_norm(OpContext& ctx, TensorView x, const float* weight, float eps,
                       Activations out) {
    timed(ctx, {"rms_norm", bytes_of(x) + bytes_of(out.values)},
          [&](const Ops& ops) { ops.rms_norm(ctx, x, weight, eps, out); });
  }
  static void add_rms_norm(OpContext& ctx, TensorView residual, TensorView x, const float* weight,
                           float eps, Activations out) {
    timed(ctx, {"add_rms_norm", 3.0 * bytes_of(x) + bytes_of(out.values)},
          [&](const Ops& ops) { ops.add_rms_norm(ctx, residual, x, weight, eps, out); });
  }
  static void to_activations(OpContext& ctx, TensorView x, Activations out) {
    timed(ctx, {"to_activations", bytes_of(x) + bytes_of(out.values)},
          [&](const Ops& ops) { ops.to_activations(ctx, x, out); });
  }
  static void linear(OpContext& ctx, const Activations& x, std::span<const LinearPart> parts) {
    int64_t rows = 0;
    double bytes = bytes_of(x.values);
    for (const LinearPart& part : parts) {
      rows += part.weight->rows;
      bytes += static_cast<double>(part.weight->streamed_bytes()) + bytes_of(part.y);
    }
    const int64_t cols = parts.front().weight->cols;
    const double flops = 2.0 * static_cast<double>(x.values.dim(0)) * static_cast<double>(rows) *
                         static_cast<double>(cols);
    timed(ctx, {str("linear ", rows, "x", cols), bytes, flops, gemm_format(*parts.front().weight)},
          [&](const Ops& ops) { ops.linear(ctx, x, parts); });
  }
  static void rope_table(OpContext& ctx, const int32_t* positions, const RopeParams& rope,
                         TensorView cos_sin) {
    timed(ctx, {"rope_table", bytes_of(cos_sin)},
          [&](const Ops& ops) { ops.rope_table(ctx, positions, rope, cos_sin); });
  }
  static void norm_rope_append(OpContext& ctx, const QkvArgs& args) {
    const double rows = bytes_of(args.q) + bytes_of(args.k) + bytes_of(args.v);
    const double pages = static_cast<double>(args.k.num_elements() + args.v.num_elements()) *
                         static_cast<double>(dtype_bytes(args.kv.dtype));
    timed(ctx, {"norm_rope_append", rows + bytes_of(args.q) + pages},
          [&](const Ops& ops) { ops.norm_rope_append(ctx, args); });
  }
  static void attention(OpContext& ctx, const AttentionArgs& args) {
    const OpProfile& profile = *ctx.profile;
    const double per_position = 2.0 * args.kv.num_kv_heads * args.kv.head_dim *
                                static_cast<double>(dtype_bytes(args.kv.dtype));
    const auto heads = static_cast<double>(args.q.dim(1));
    // On a GPU a long prompt's is as good as a product; the CPU's has no product to compare with.
    const std::string format = args.q.dtype == DType::kBF16 ? dtype_name(DType::kBF16) : "";
    timed(ctx,
          {"attention",
           static_cast<double>(profile.num_positions_) * per_position + 2.0 * bytes_of(args.q),
           4.0 * profile.num_pairs_ * heads * args.kv.head_dim, format},
          [&](const Ops& ops) { ops.attention(ctx, args); });
  }
  static void silu_mul(OpContext& ctx, TensorView gate, TensorView up, Activations out) {
    timed(ctx, {"silu_mul", bytes_of(gate) + bytes_of(up) + bytes_of(out.values)},
          [&](const Ops& ops) { ops.silu_mul(ctx, gate, up, out); });
  }
  static void gather_rows(OpContext& ctx, TensorView x, const int32_t* rows, int64_t num_rows,
                          TensorView out) {
    timed(ctx, {"gather_rows", 2.0 * bytes_of(out)},
          [&](const Ops& ops) { ops.gather_rows(ctx, x, rows, num_rows, out); });
  }
  static void replay(OpContext& ctx, uint64_t key, const std::function<void()>& launch) {
    if (ctx.profile->active()) return launch();  // marks are not part of a graph
    ctx.profile->inner_->replay(ctx, key, launch);
  }
  static void sample(OpContext& ctx, TensorView logits, std::span<const SampleRow> rows, int slot) {
    const double row_bytes = static_cast<double>(logits.dim(1)) * sizeof(float);
    timed(ctx, {"sample", row_bytes * static_cast<double>(rows.size())},
          [&](const Ops& ops) { ops.sample(ctx, logits, rows, slot); });
  }
};

const Ops& OpProfile::attach(const Ops& inner) {
  inner_ = &inner;
  table_ = inner;
  table_.begin_step = ProfiledOps::begin_step;
  table_.embed = ProfiledOps::embed;
  table_.rms_norm = ProfiledOps::rms_norm;
  table_.add_rms_norm = ProfiledOps::add_rms_norm;
  table_.to_activations = ProfiledOps::to_activations;
  table_.linear = ProfiledOps::linear;
  table_.rope_table = ProfiledOps::rope_table;
  table_.norm_rope_append = ProfiledOps::norm_rope_append;
  table_.attention = ProfiledOps::attention;
  table_.silu_mul = ProfiledOps::silu_mul;
  table_.gather_rows = ProfiledOps::gather_rows;
  if (inner.replay != nullptr) table_.replay = ProfiledOps::replay;
  if (inner.sample != nullptr) table_.sample = ProfiledOps::sample;
  return table_;
}

void OpProfile::begin_step(OpContext& ctx, const ForwardBatch& batch, BatchFill fill) {
  settle(ctx);
  if (num_steps_ == most_steps_ || std::max(batch.num_seqs(), fill.num_seqs) < least_seqs_) {
    return;
  }
  if (num_left_to_skip_ > 0) {
    --num_left_to_skip_;
    return;
  }
  in_step_ = true;
  ++num_steps_;
  step_num_tokens_ = batch.num_tokens();
  step_num_seqs_ = batch.num_seqs();
  num_tokens_ += step_num_tokens_;
  num_positions_ = 0;
  num_pairs_ = 0.0;
  for (size_t seq = 0; seq < batch.seq_lens.size(); ++seq) {
    const int64_t len = batch.seq_lens[seq];
    const int64_t count = batch.cu_seqlens_q[seq + 1] - batch.cu_seqlens_q[seq];
    num_positions_ += len;
    num_pairs_ += static_cast<double>(count * len) - static_cast<double>(count * (count - 1)) / 2.0;
  }
}

void OpProfile::mark(OpContext& ctx, int idx) {
  if (inner_->mark != nullptr) return inner_->mark(ctx, idx);
  marks_ns_.resize(std::max(marks_ns_.size(), static_cast<size_t>(idx) + 1));
  marks_ns_[static_cast<size_t>(idx)] = steady_now_ns();
}

double OpProfile::between_us(OpContext& ctx, int begin, int end) const {
  if (inner_->mark != nullptr) return inner_->between_us(ctx, begin, end);
  return static_cast<double>(marks_ns_[static_cast<size_t>(end)] -
                             marks_ns_[static_cast<size_t>(begin)]) *
         1e-3;
}

// Adds the step's ops to the totals.
void OpProfile::settle(OpContext& ctx) {
  for (size_t i = 0; i < pending_.size(); ++i) {
    const Pending& op = pending_[i];
    const auto idx = static_cast<int>(2 * i);
    OpTime& total = times_[op.name + " " + op.format];
    total.name = op.name;
    ++total.num_calls;
    total.us += between_us(ctx, idx, idx + 1);
    total.bytes += op.bytes;
    total.flops += op.flops;
    total.format = op.format;
  }
  if (!pending_.empty()) {
    span_us_ += between_us(ctx, 0, static_cast<int>(2 * pending_.size()) - 1);
    if (op_lane_ != nullptr) trace_step(ctx);
  }
  pending_.clear();
  in_step_ = false;
}

void OpProfile::trace_to(TraceWriter& writer) {
  step_lane_ = writer.add_lane("steps");
  op_lane_ = writer.add_lane("ops");
}

// A step is waited for before the next begins, so its first op starts when it is handed over.
void OpProfile::trace_step(OpContext& ctx) {
  const auto at_ns = [&](int idx) {
    return began_ns_ + static_cast<int64_t>(between_us(ctx, 0, idx) * 1e3);
  };
  for (size_t i = 0; i < pending_.size(); ++i) {
    const Pending& op = pending_[i];
    const auto idx = static_cast<int>(2 * i);
    op_lane_->add({.name = op_lane_->keep(op.name),
                   .begin_ns = at_ns(idx),
                   .end_ns = at_ns(idx + 1),
                   .args = {{{"bytes", static_cast<int64_t>(op.bytes)},
                             {"flops", static_cast<int64_t>(op.flops)}}}});
  }
  step_lane_->add({.name = "step",
                   .begin_ns = began_ns_,
                   .end_ns = at_ns(static_cast<int>(2 * pending_.size()) - 1),
                   .args = {{{"tokens", step_num_tokens_}, {"sequences", step_num_seqs_}}}});
}

std::vector<OpTime> OpProfile::times(OpContext& ctx) {
  settle(ctx);
  std::vector<OpTime> all;
  for (const auto& [name, time] : times_) all.push_back(time);
  std::sort(all.begin(), all.end(), [](const OpTime& a, const OpTime& b) {
    return std::pair(b.us, a.name) < std::pair(a.us, b.name);
  });
  return all;
}

}  // namespace slipstream

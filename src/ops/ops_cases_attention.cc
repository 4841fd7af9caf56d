// The cases of attention and of what lies between it and the products of q, k and v.
#include <array>
#include <cmath>
#include <cstring>
#include <memory>

#include "base/strings.h"
#include "core/e4m3.h"
#include "core/half.h"
#include "ops/ops_case_data.h"

namespace slipstream {
namespace {

struct AttentionShape {
  int heads = 1, kv_heads = 1, head_dim = 64, window = 0;
  float softcap = 0.0f;
  DType kv_dtype = DType::kF16;
  // {query tokens, context after the step} of each sequence
  std::vector<std::array<int64_t, 2>> seqs;
};

struct AttentionState {
  AttentionShape shape;
  std::vector<float> q, k, v, out;  // k, v: all positions of all sequences
  std::vector<int32_t> cu_seqlens_q = {0}, seq_lens, block_table;
  std::vector<int64_t> slots;
  Buffer k_pages, v_pages;
  KVLayerView kv;
  int64_t stride = 0;
};

OpNeeds needs_of(const AttentionShape& shape) {
  return {.head_dim = shape.head_dim,
          .heads_per_kv_head = shape.heads / shape.kv_heads,
          .kv_dtype = shape.kv_dtype};
}

// Keys and values that any pages hold as they are.
std::vector<float> random_e4m3(int64_t count, uint64_t seed, float scale) {
  std::vector<float> values = random_floats(count, seed, scale);
  for (float& value : values) value = e4m3_to_f32(f32_to_e4m3(value));
  return values;
}

// Pages are handed out in an order unlike the positions', and unused ones hold NaN.
void place_pages(AttentionState& state) {
  int64_t total_blocks = 3;
  for (const auto& seq : state.shape.seqs) {
    total_blocks += (seq[1] + 15) / 16;
    state.stride = std::max(state.stride, (seq[1] + 15) / 16 + 1);
  }
  int64_t next = total_blocks - 1;
  for (const auto& seq : state.shape.seqs) {
    const size_t row = state.block_table.size();
    state.block_table.resize(row + static_cast<size_t>(state.stride), -1);
    for (int64_t b = 0; b < (seq[1] + 15) / 16; ++b) {
      state.block_table[row + static_cast<size_t>(b)] = static_cast<int32_t>(next--);
    }
    for (int64_t pos = 0; pos < seq[1]; ++pos) {
      const int64_t block = state.block_table[row + static_cast<size_t>(pos / 16)];
      state.slots.push_back(block * 16 + pos % 16);
    }
    state.cu_seqlens_q.push_back(state.cu_seqlens_q.back() + static_cast<int32_t>(seq[0]));
    state.seq_lens.push_back(static_cast<int32_t>(seq[1]));
  }
  KVLayerView& kv = state.kv;
  kv.dtype = state.shape.kv_dtype;
  kv.num_blocks = total_blocks;
  kv.num_kv_heads = state.shape.kv_heads;
  kv.head_dim = state.shape.head_dim;
  const size_t bytes = static_cast<size_t>(total_blocks * 16 * kv.num_kv_heads * kv.head_dim) *
                       dtype_bytes(kv.dtype);
  state.k_pages = Buffer(bytes);
  state.v_pages = Buffer(bytes);
  kv.k = state.k_pages.data();
  kv.v = state.v_pages.data();
  std::memset(kv.k, 0xFF, bytes);
  std::memset(kv.v, 0xFF, bytes);
}

std::shared_ptr<AttentionState> attention_state(const Ops& ops, OpContext& ctx,
                                                const AttentionShape& shape) {
  auto state = std::make_shared<AttentionState>();
  state->shape = shape;
  place_pages(*state);
  const int64_t tokens = state->cu_seqlens_q.back();
  const auto positions = static_cast<int64_t>(state->slots.size());
  state->q = random_floats(tokens * shape.heads * shape.head_dim, 21, 3.0f);
  state->k = random_e4m3(positions * shape.kv_heads * shape.head_dim, 22, 2.0f);
  state->v = random_e4m3(positions * shape.kv_heads * shape.head_dim, 23, 1.0f);
  state->out.resize(state->q.size());
  ops.kv_append(ctx, view3(state->k, positions, shape.kv_heads, shape.head_dim),
                view3(state->v, positions, shape.kv_heads, shape.head_dim), state->slots.data(),
                state->kv);
  return state;
}

OpCase attention_case(const AttentionShape& shape) {
  OpCase out;
  out.op = "attention";
  out.needs = needs_of(shape);
  out.name = str("heads=", shape.heads, "/", shape.kv_heads, " head_dim=", shape.head_dim,
                 " kv=", dtype_name(shape.kv_dtype), " window=", shape.window, " seqs=");
  for (const auto& [tokens, context] : shape.seqs) {
    out.name += str(tokens, "/", context, " ");
    out.bytes += 2 * context * shape.kv_heads * shape.head_dim *
                 static_cast<int64_t>(dtype_bytes(shape.kv_dtype));
    const double pairs =
        static_cast<double>(tokens * context) - static_cast<double>(tokens * (tokens - 1)) / 2.0;
    out.flops += 4.0 * pairs * shape.heads * shape.head_dim;
  }
  out.tolerance = 1e-4;
  out.make = [shape](const Ops& ops, OpContext& ctx) {
    auto state = attention_state(ops, ctx, shape);
    return OpInstance{[&ops, &ctx, state] {
                        const AttentionShape& s = state->shape;
                        const int64_t tokens = state->cu_seqlens_q.back();
                        AttentionArgs args;
                        args.q = view3(state->q, tokens, s.heads, s.head_dim);
                        args.out = view3(state->out, tokens, s.heads, s.head_dim);
                        args.kv = state->kv;
                        args.batch.num_tokens = tokens;
                        args.batch.num_seqs = static_cast<int>(s.seqs.size());
                        args.batch.cu_seqlens_q = state->cu_seqlens_q.data();
                        args.batch.seq_lens = state->seq_lens.data();
                        args.batch.block_table = state->block_table.data();
                        args.batch.block_table_stride = state->stride;
                        args.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
                        args.window = s.window;
                        args.softcap = s.softcap;
                        ops.attention(ctx, args);
                      },
                      [state] { return state->out; }};
  };
  return out;
}

// The pages themselves, bit for bit (as numbers): kv_append is exact rounding.
OpCase kv_append_case(const AttentionShape& shape) {
  OpCase out;
  out.op = "kv_append";
  out.needs = needs_of(shape);
  out.name = str("kv_heads=", shape.kv_heads, " head_dim=", shape.head_dim,
                 " kv=", dtype_name(shape.kv_dtype), " tokens=", shape.seqs.front()[1]);
  out.bytes = 2 * shape.seqs.front()[1] * shape.kv_heads * shape.head_dim * 6;
  out.make = [shape](const Ops& ops, OpContext& ctx) {
    auto state = attention_state(ops, ctx, shape);
    const auto positions = static_cast<int64_t>(state->slots.size());
    return OpInstance{[&ops, &ctx, state, positions] {
                        const AttentionShape& s = state->shape;
                        ops.kv_append(ctx, view3(state->k, positions, s.kv_heads, s.head_dim),
                                      view3(state->v, positions, s.kv_heads, s.head_dim),
                                      state->slots.data(), state->kv);
                      },
                      [state] {
                        std::vector<float> bytes;
                        for (const Buffer* pages : {&state->k_pages, &state->v_pages}) {
                          for (size_t i = 0; i < pages->bytes(); ++i)
                            bytes.push_back(pages->as<uint8_t>()[i]);
                        }
                        return bytes;
                      }};
  };
  return out;
}

// Heads normed and rotated, keys and values in pages; the pages' values count as results.
OpCase norm_rope_append_case(const AttentionShape& shape, int rotary_dim, bool interleaved,
                             bool normed) {
  OpCase out;
  out.op = "norm_rope_append";
  out.needs = needs_of(shape);
  const int64_t tokens = shape.seqs.front()[1];
  out.name =
      str("M=", tokens, " heads=", shape.heads, "/", shape.kv_heads, " head_dim=", shape.head_dim,
          " rotary_dim=", rotary_dim, interleaved ? " interleaved" : "", normed ? " normed" : "",
          " kv=", dtype_name(shape.kv_dtype));
  out.tolerance = 2e-3;  // of f16 pages
  out.bytes = tokens * (shape.heads + shape.kv_heads) * 2 * shape.head_dim * int64_t{sizeof(float)};
  out.make = [=](const Ops& ops, OpContext& ctx) {
    auto state = attention_state(ops, ctx, shape);
    const int64_t dim = shape.head_dim;
    const auto random = [tokens, dim](int64_t heads, uint64_t seed) {
      return random_floats(tokens * heads * dim, seed, 2.0f);
    };
    struct Rows {
      std::vector<float> q, k, v, norm, cos_sin, result;
    };
    auto rows = std::make_shared<Rows>();
    rows->norm = random_floats(dim, 34, 1.5f);
    rows->cos_sin.resize(static_cast<size_t>(tokens * rotary_dim));
    for (size_t i = 0; i < rows->cos_sin.size(); ++i) {
      const auto column = static_cast<int>(i) % rotary_dim;
      const double angle = 0.7 * static_cast<double>(i / static_cast<size_t>(rotary_dim)) +
                           0.3 * (column % (rotary_dim / 2));
      rows->cos_sin[i] =
          static_cast<float>(column < rotary_dim / 2 ? std::cos(angle) : std::sin(angle));
    }
    const auto run = [=, &ops, &ctx] {
      rows->q = random(shape.heads, 31);
      rows->k = random(shape.kv_heads, 32);
      rows->v = random(shape.kv_heads, 33);
      QkvArgs args;
      args.q = view3(rows->q, tokens, shape.heads, dim);
      args.k = view3(rows->k, tokens, shape.kv_heads, dim);
      args.v = view3(rows->v, tokens, shape.kv_heads, dim);
      args.q_norm = args.k_norm = normed ? rows->norm.data() : nullptr;
      args.norm_eps = 1e-6f;
      args.rope = {.rotary_dim = rotary_dim, .interleaved = interleaved};
      args.cos_sin = view2(rows->cos_sin, tokens, rotary_dim);
      args.slot_mapping = state->slots.data();
      args.kv = state->kv;
      ops.norm_rope_append(ctx, args);
    };
    const auto result = [=] {
      std::vector<float> values = rows->q;
      for (const Buffer* pages : {&state->k_pages, &state->v_pages}) {
        for (size_t i = 0; i < pages->bytes() / dtype_bytes(shape.kv_dtype); ++i) {
          const float value = shape.kv_dtype == DType::kF32 ? pages->as<float>()[i]
                                                            : f16_to_f32(pages->as<uint16_t>()[i]);
          values.push_back(std::isnan(value) ? 3.0f : value);  // what nothing was written to
        }
      }
      return values;
    };
    return OpInstance{run, result};
  };
  return out;
}

}  // namespace

void add_attention_cases(std::vector<OpCase>& cases) {
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    cases.push_back(kv_append_case({2, 2, 24, 0, 0, dtype, {{1, 37}}}));
    cases.push_back(attention_case({9, 3, 64, 0, 0, dtype, {{1, 1}}}));
    cases.push_back(attention_case({9, 3, 64, 0, 0, dtype, {{1, 700}}}));
    cases.push_back(attention_case({9, 3, 64, 0, 0, dtype, {{33, 33}, {1, 300}, {20, 270}}}));
    cases.push_back(attention_case({4, 4, 8, 0, 0, dtype, {{5, 21}}}));
    cases.push_back(attention_case({2, 1, 40, 0, 0, dtype, {{3, 515}}}));
    cases.push_back(attention_case({8, 2, 128, 100, 0, dtype, {{60, 600}, {1, 333}}}));
    cases.push_back(attention_case({4, 2, 64, 0, 20.0f, dtype, {{10, 290}}}));
    cases.push_back(attention_case({40, 1, 32, 0, 0, dtype, {{2, 40}}}));
  }
  cases.push_back(attention_case({9, 3, 64, 0, 0, DType::kF16, {{512, 512}}}));
  cases.push_back(attention_case({9, 3, 64, 0, 0, DType::kF16, {{1, 2048}}}));
  // Shapes of today's models: long contexts that are split, chunks that cross pages, large groups.
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    cases.push_back(attention_case({32, 8, 128, 0, 0, dtype, {{1, 1500}, {1, 17}, {1, 1024}}}));
    cases.push_back(attention_case({14, 2, 64, 0, 0, dtype, {{17, 1040}, {1, 1}, {129, 129}}}));
    cases.push_back(attention_case({8, 1, 128, 0, 0, dtype, {{3, 16}, {1, 1025}}}));
    cases.push_back(attention_case({4, 4, 128, 33, 15.0f, dtype, {{40, 200}, {1, 500}}}));
    cases.push_back(norm_rope_append_case({9, 3, 64, 0, 0, dtype, {{1, 37}}}, 64, false, false));
    cases.push_back(norm_rope_append_case({16, 8, 128, 0, 0, dtype, {{1, 5}}}, 128, false, true));
    cases.push_back(norm_rope_append_case({4, 2, 64, 0, 0, dtype, {{1, 20}}}, 32, false, false));
    cases.push_back(norm_rope_append_case({4, 2, 64, 0, 0, dtype, {{1, 20}}}, 20, false, true));
    cases.push_back(norm_rope_append_case({8, 8, 128, 0, 0, dtype, {{1, 33}}}, 128, true, false));
  }
}

}  // namespace slipstream

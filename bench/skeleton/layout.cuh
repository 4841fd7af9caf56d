// Formats of weights, arguments of the kernel, and what lies where in shared memory.
#pragma once

#include "words.cuh"

enum Format { kInt4, kInt8, kBF16 };
template <int F>
struct FormatSizes;
template <>
struct FormatSizes<kInt4> {
  static constexpr int kBlock = 1056, kStages = 1, HB = 528, kHalfStages = 1;
};
template <>
struct FormatSizes<kInt8> {
  static constexpr int kBlock = 1024, kStages = 2, HB = 1024, kHalfStages = 1;
};
template <>
struct FormatSizes<kBF16> {
  static constexpr int kBlock = 1024, kStages = 4, HB = 1024, kHalfStages = 2;
};

// One launch. Weights: per CTA one contiguous stream in the order of execution.
struct Args {
  const char* stream;
  u64 stream_bytes;  // of a CTA
  // Exchanged words, two buffers each, used in turn.
  u32* x_words;                // [2][hidden] float24 + tag: x after o, x after down
  u32* qkv_words;              // [2][kv head][q..., k, v][head_dim] float24 + tag
  u32* partials;               // [2][CTA][part][attention_per_cta] float24 + tag
  u32* partial_stats;          // [2][kv head][part][q head]{maximum, sum} float24 + tag
  u32* attention_words;        // [2][hidden] float24 + tag
  u32* mlp_words;              // [2][intermediate / 2] pairs of halves, lowest bit toggles
  u64* best;                   // [2][CTA] {logit, token id, tag}
  const float* gamma;          // [2 num_layers + 1][hidden]
  const __nv_bfloat16* embed;  // [vocab][hidden]
  const float* head_scale;     // [vocab]
  __nv_bfloat16* kv;           // pages: [block][kv head][16][head_dim], K then V, layer after layer
  u64 kv_layer, kv_v;          // elements from layer to layer, from K pages to V pages
  const int* block_table;
  const float2* cs;  // cos and sin, [token][head_dim / 2]
  int* tokens;       // out
  u64* stamps;       // clocks of the reducers' marks in token `stamped_token`
  float* log;        // null, or [token][layer][x after o, x after down, qkv, attention, mlp][8192]
  int first_token, pos0, num_tokens, num_layers, hidden, intermediate, vocab;
  int log2_parts, num_kv_heads;  // a KV head's context lies in 2^log2_parts parts, one a CTA
  int qkv_tiles, qkv_half_tiles, o_tiles, o_half_tiles, gate_up_tiles, down_tiles, down_half_tiles;
  int qkv_rows, rows_per_cta, attention_per_cta, mlp_per_cta, down_rounds, T;  // T: LM head tiles
  float eps, inv_h, qscale;
  int cap, stamped_token;  // cap: units asked for and not landed
};
constexpr int G = 128;              // CTAs
constexpr int kPairSlots = 4;       // slots of tile pairs
constexpr int kAttentionWarps = 8;  // warps that take KV blocks
// CW consumer warps, NST ring stages, stage of SB bytes
template <int CW, int NST, int SB, int D, int NQ>
struct SharedMap {
  static constexpr int stride = CW + 4, tile = 16 * stride * 4;
  static constexpr int part = NST * SB,
                       xs = part + kPairSlots * 2 * tile;  // xs: per warp 512 B: hi and lo parts
  static constexpr int ssq = xs + CW * 512,
                       qs = ssq + CW * 4 + 16 - (CW * 4) % 16;  // q: bf16 [8][D]
  static constexpr int nk = qs + 8 * D * 2, nv = nk + D * 2,
                       ps =
                           nv + D * 2;  // new k, v: [D] (rows beyond 0 masked: read others' memory)
  static constexpr int pa = ps + kAttentionWarps * 320, pml = pa + kAttentionWarps * NQ * D * 4,
                       bars = (pml + kAttentionWarps * NQ * 8 + 15) / 16 * 16;
  static constexpr int full = bars, empty = full + NST * 2 * 8, pfull = empty + NST * 2 * 8,
                       pempty = pfull + kPairSlots * 8, published = pempty + kPairSlots * 8,
                       kvw = published + 8, part_out = kvw + 8, tok = part_out + 8, prog = tok + 4,
                       total = prog + 12;
};

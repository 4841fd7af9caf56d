// CpuKernels: the inner loops, one table per instruction set (isa_avx2.cc, isa_avx512.cc).
//
// A kernel gets plain pointers and counts and runs on one thread; splitting work over threads,
// scratch memory and checks are in cpu_ops.cc. Files compiled for an instruction set include this
// and nothing with inline functions, so no such code can leak into the rest of the program.
#pragma once

#include <cstdint>

#include "ops/cpu/panel_layout.h"

namespace slipstream {

// Tokens are handled in tiles of at most `tile_tokens`; a kernel that prepares or reads
// activations works on whole tiles.
constexpr int kMaxTileTokens = 12;
constexpr int kMaxFusedTokens = 4;    // batches up to this unpack weights in registers
constexpr int kMaxBlockTokens = 240;  // tokens of one LinearTask: bounds its accumulators
constexpr int kMaxHeadDim = 512;
constexpr int kAttentionRows = 24;  // query rows (tokens x heads of a KV group) of a tile

// Activations of `linear`, tile-major: tile t of `width` tokens starts at element
// t * tile_tokens * num_blocks * 32; inside, [num_blocks][width][32 columns]. The per-block values
// have the same order without the last axis.
struct PreparedInput {
  int64_t num_blocks = 0;  // ceil(cols / 32), padded with zeros
  int64_t num_tokens = 0;
  int16_t* codes = nullptr;  // x = scale * code; null when no weight needs it
  float* scales = nullptr;
  float* sums = nullptr;         // scale * sum of the block's codes
  int32_t* code_sums = nullptr;  // exact
  float* values = nullptr;       // float32 copy for dense weights; null when not needed
};

// Rows of one weight times tokens [token_begin, token_end), both ends on tiles.
struct LinearTask {
  const uint8_t* panels = nullptr;
  int64_t panel_bytes = 0;
  int64_t num_panels = 0;
  int64_t rows = 0;  // from the first panel to the end of the weight: limits what is stored
  const PreparedInput* input = nullptr;
  int64_t token_begin = 0;
  int64_t token_end = 0;
  float* y = nullptr;  // element (token 0, first row of the first panel)
  int64_t y_stride = 0;
  const float* bias = nullptr;  // first row of the first panel, or null
};

// One tile of queries that share a KV head, against one partition of positions.
struct AttentionTile {
  const float* q = nullptr;  // (first token, first head of the tile)
  int64_t q_token_stride = 0;
  int64_t q_head_stride = 0;
  int num_tokens = 0;
  int num_heads = 0;  // query heads of the tile; rows are token-major
  int head_dim = 0;
  int64_t first_position = 0;  // of the first token
  int64_t window = 0;          // 0: full
  float scale = 1.0f;
  float softcap = 0.0f;
  const uint8_t* k = nullptr;  // this KV head in block 0
  const uint8_t* v = nullptr;
  int64_t block_elements = 0;  // from one block to the next
  int block_size = 16;
  bool half_kv = true;  // pages hold f16, else f32
  const int32_t* blocks = nullptr;
};

// A row of attention state: [head_dim] weighted values, then the maximum and the sum.
// Internal linkage: an unoptimised build would otherwise share one copy between instruction sets.
static constexpr int64_t attention_state_floats(int head_dim) { return head_dim + 2; }

struct CpuKernels {
  const char* name = "";
  int tile_tokens = 0;

  // Fills tile `tile_idx` of the prepared input from rows of x [num_tokens, cols].
  void (*prepare_codes)(const float* x, int64_t x_stride, int64_t cols, int64_t tile_idx,
                        const PreparedInput& input) = nullptr;
  void (*prepare_values)(const float* x, int64_t x_stride, int64_t cols, int64_t tile_idx,
                         const PreparedInput& input) = nullptr;

  // By QuantType. `fused` serves batches of at most kMaxFusedTokens, `tiled` the rest.
  void (*linear_fused[kNumQuantTypes])(const LinearTask& task) = {};
  void (*linear_tiled[kNumQuantTypes])(const LinearTask& task) = {};

  // state[rows, head_dim + 2] = the tile over positions of partition `partition`; a row that sees
  // none of them gets sum 0.
  void (*attention_partition)(const AttentionTile& tile, int64_t partition, float* state) = nullptr;
  // state = state merged with the later partition `next`, for num_rows rows.
  void (*attention_merge)(float* state, const float* next, int64_t num_rows,
                          int head_dim) = nullptr;
  // out[head_dim] = values / sum of one row of state
  void (*attention_finish)(const float* state, int head_dim, float* out) = nullptr;

  // One row each.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out) = nullptr;
  void (*add)(float* residual, const float* x, int64_t n) = nullptr;
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out) = nullptr;
  void (*rope)(float* x, const float* cos_sin, int rotary_dim, bool interleaved) = nullptr;
  void (*to_half)(const float* x, int64_t n, uint16_t* out) = nullptr;

  // Reads `bytes` bytes (a multiple of 256) and returns a value that depends on all of them.
  uint64_t (*read_bytes)(const uint8_t* data, int64_t bytes) = nullptr;
};

const CpuKernels& avx2_kernels();
const CpuKernels& avx512_kernels();

}  // namespace slipstream

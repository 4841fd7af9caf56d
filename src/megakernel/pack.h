// Weights on their way from the rows that the other executors read to the streams of abi.h.
#pragma once

#include <cstdint>

#include "megakernel/abi.h"

namespace slipstream {

// A matrix in device memory: bf16, E4M3 or INT4 rows (quant/int4_rows.h), scales and bias where it
// has them.
struct PackedRows {
  const std::byte* values = nullptr;
  const float* scales = nullptr;           // of a row
  const uint16_t* group_scales = nullptr;  // f16 [rows][slices], of INT4
  const float* bias = nullptr;
};

struct PackProduct {
  const ProductPhase* products = nullptr;  // [kNumProducts], on the host
  int product = 0;
  int layer = 0;
  std::byte* streams = nullptr;
  int64_t stream_stride = 0;
  float* row_table = nullptr;  // of this layer's product, or null
  PackedRows parts[3];         // q, k, v; gate, up; else one
  int num_rows = 0;            // of kHead: rows beyond it are zero
  int heads_per_kv_head = 0;
  int head_dim = 0;
};

// Queues the packing on `stream`, a cudaStream_t. The name of the error, or null.
const char* pack_product(const PackProduct& args, void* stream);

}  // namespace slipstream

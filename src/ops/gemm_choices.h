// GemmChoices: which of a GEMM library's algorithms was the fastest for a shape, kept in a file
// from start to start.
//
// A line a shape: "M N K input output y_stride" and the algorithm's 64 bytes in hexadecimal. Lines
// that are none are passed over: the file is a cache, and losing it costs a measurement. Several
// processes may add to it. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>

#include "core/dtype.h"

namespace slipstream {

// y [M, N] = x [M, K] w [N, K]^T
struct GemmShape {
  int64_t num_tokens = 0;       // M
  int64_t num_rows = 0;         // N, rows of w
  int64_t num_cols = 0;         // K
  DType input = DType::kBF16;   // of x and w: bf16 or fp8_e4m3
  DType output = DType::kBF16;  // bf16 or f32
  int64_t y_stride = 0;         // elements from row to row of y
  bool operator==(const GemmShape&) const = default;
};

struct GemmShapeHash {
  size_t operator()(const GemmShape& shape) const;
};

class GemmChoices {
 public:
  using Algorithm = std::array<uint64_t, 8>;  // opaque, of one version of one library

  // Reads the file, if there is one. Empty: nothing is kept.
  explicit GemmChoices(std::string path);

  // Null when the shape is new.
  const Algorithm* find(const GemmShape& shape) const;
  // Remembers, and adds a line to the file; a file that cannot be written is said in the log, once.
  void add(const GemmShape& shape, const Algorithm& algorithm);

 private:
  void read();

  std::string path_;
  std::unordered_map<GemmShape, Algorithm, GemmShapeHash> known_;
};

}  // namespace slipstream

#include "ops/read_roof.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/huge_pages.h"

namespace slipstream {

double measure_buffer_read_gb_s(const Ops& ops, OpContext& ctx, int64_t bytes) {
  constexpr int64_t kChunk = 64 * 1024;
  const int64_t num_chunks = std::max<int64_t>(bytes / kChunk, 1);
  const Buffer buffer(static_cast<size_t>(num_chunks * kChunk));
  advise_huge_pages(buffer);
  auto* data = buffer.as<std::byte>();
  // Touched by the threads that will read it; a zero page shared by all would sit in cache.
  ctx.pool->run(num_chunks,
                [&](int64_t chunk, int) { std::memset(data + chunk * kChunk, 1, kChunk); });
  const std::array ranges = {ByteRange{data, buffer.bytes()}};
  return ops.measure_read_gb_s(ctx, ranges);
}

}  // namespace slipstream

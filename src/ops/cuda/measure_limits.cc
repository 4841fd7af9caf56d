#include "ops/cuda/measure_limits.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <new>
#include <vector>

#include "base/strings.h"
#include "ops/cuda/device_state.h"
#include "ops/cuda/limits.h"

namespace slipstream::cuda {
namespace {

constexpr int kPasses = 7;
// A pass reads as much: a millisecond, beside which the start of a kernel does not count.
constexpr int64_t kReadBytes = int64_t{4} << 30;

// What `launch` takes on the device: the median of several passes after one that is not counted.
template <typename Launch>
double median_us(cudaStream_t stream, const Launch& launch) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  launch();
  std::array<float, kPasses> all_ms{};
  for (float& ms : all_ms) {
    check(cudaEventRecord(begin, stream), "event");
    launch();
    check(cudaEventRecord(end, stream), "event");
    check(cudaEventSynchronize(end), "measurement");
    check(cudaEventElapsedTime(&ms, begin, end), "event");
  }
  check(cudaEventDestroy(begin), "event");
  check(cudaEventDestroy(end), "event");
  std::sort(all_ms.begin(), all_ms.end());
  return static_cast<double>(all_ms[kPasses / 2]) * 1e3;
}

// The ranges in pieces, over again until there are kReadBytes of them.
std::vector<ReadPiece> pieces_of(std::span<const ByteRange> ranges) {
  std::vector<ReadPiece> pieces;
  for (const ByteRange& range : ranges) {
    const int64_t num_vecs = std::ssize(range) / 16;
    for (int64_t at = 0; at < num_vecs; at += kReadPieceVecs) {
      pieces.push_back({range.data() + at * 16, std::min(kReadPieceVecs, num_vecs - at)});
    }
  }
  const size_t enough = static_cast<size_t>(kReadBytes / (kReadPieceVecs * 16));
  const size_t num_pieces = pieces.size();
  while (num_pieces > 0 && pieces.size() < enough) {
    pieces.push_back(pieces[pieces.size() - num_pieces]);
  }
  return pieces;
}

double kernel_launch_us(const DeviceState& state) {
  constexpr int kLaunches = 2000;
  const double us = median_us(state.stream, [&] {
    for (int i = 0; i < kLaunches; ++i)
      check(launch_nothing(state.num_sms, state.stream), "launch");
  });
  return us / kLaunches;
}

double graph_node_us(const DeviceState& state) {
  constexpr int kNodes = 1000;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t runnable = nullptr;
  check(cudaStreamBeginCapture(state.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < kNodes; ++i) check(launch_nothing(state.num_sms, state.stream), "launch");
  check(cudaStreamEndCapture(state.stream, &graph), "capture");
  check(cudaGraphInstantiate(&runnable, graph, 0), "graph");
  check(cudaGraphDestroy(graph), "graph");
  const double us =
      median_us(state.stream, [&] { check(cudaGraphLaunch(runnable, state.stream), "graph"); });
  check(cudaGraphExecDestroy(runnable), "graph");
  return us / kNodes;
}

double barrier_us(const DeviceState& state) {
  constexpr int kBarriers = 2000;
  const Buffer counter(sizeof(uint32_t), device_memory());
  const double us = median_us(state.stream, [&] {
    check(cudaMemsetAsync(counter.data(), 0, counter.bytes(), state.stream), "barrier");
    check(run_barriers(counter.as<uint32_t>(), kBarriers, state.num_sms, state.stream), "barrier");
  });
  return us / kBarriers;
}

}  // namespace

double measure_read_gb_s(OpContext& ctx, std::span<const ByteRange> ranges) try {
  const DeviceState& state = state_of(ctx);
  const std::vector<ReadPiece> pieces = pieces_of(ranges);
  if (pieces.empty()) return 0.0;
  int64_t num_vecs = 0;
  for (const ReadPiece& piece : pieces) num_vecs += piece.num_vecs;
  const Buffer list(pieces.size() * sizeof(ReadPiece), device_memory());
  const Buffer sink(sizeof(uint32_t), device_memory());
  device_memory().copy_in(list.data(), pieces.data(), list.bytes());
  const double us = median_us(state.stream, [&] {
    check(read_pieces(list.as<const ReadPiece>(), static_cast<int>(pieces.size()), state.num_sms,
                      sink.as<uint32_t>(), state.stream),
          "read");
  });
  return static_cast<double>(num_vecs) * 16.0 / us * 1e-3;
} catch (const std::bad_alloc&) {
  return 0.0;  // the model has taken all there is
}

Result<DeviceLimits> measure_limits(OpContext& ctx, int64_t bytes) try {
  const DeviceState& state = state_of(ctx);
  const Buffer buffer(static_cast<size_t>(bytes), device_memory());
  DeviceLimits limits;
  const double write_us = median_us(state.stream, [&] {
    check(write_bytes(buffer.data(), buffer.bytes(), state.num_sms, state.stream), "write");
  });
  limits.write_gb_s = static_cast<double>(bytes) / write_us * 1e-3;
  const std::array ranges = {ByteRange{buffer.as<const std::byte>(), buffer.bytes()}};
  limits.read_gb_s = measure_read_gb_s(ctx, ranges);
  limits.barrier_us = barrier_us(state);
  limits.launch_us = kernel_launch_us(state);
  limits.graph_node_us = graph_node_us(state);
  return limits;
} catch (const std::bad_alloc&) {
  return does_not_fit(
      str("--bytes ", bytes, ": the GPU has ", device_memory().free_bytes(), " bytes left"));
}

}  // namespace slipstream::cuda

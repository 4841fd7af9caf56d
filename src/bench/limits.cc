#include "bench/limits.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/strings.h"
#include "base/thread_pool.h"
#include "bench/distribution.h"
#include "core/huge_pages.h"
#include "engine/engine_options.h"
#include "ops/gemm_roof.h"
#include "ops/ops.h"
#include "ops/read_roof.h"

namespace slipstream {
namespace {

constexpr int kPasses = 9;

struct Limits {
  double read_gb_s = 0.0;
  double write_gb_s = 0.0;
  std::map<std::string, double> gemm_tflops;
  double launch_us = 0.0;
  // Of a GPU.
  std::optional<double> barrier_us;
  std::optional<double> graph_node_us;
};

// The median time of a call, in us.
template <typename Call>
double median_us(const Call& call) {
  std::vector<double> all_us;
  for (int pass = 0; pass < kPasses; ++pass) {
    const int64_t begin_ns = steady_now_ns();
    call();
    all_us.push_back(static_cast<double>(steady_now_ns() - begin_ns) * 1e-3);
  }
  return median(all_us);
}

double write_gb_s(ThreadPool& pool, int64_t bytes) {
  constexpr int64_t kChunk = 64 * 1024;
  const int64_t num_chunks = bytes / kChunk;
  const Buffer buffer(static_cast<size_t>(num_chunks * kChunk));
  advise_huge_pages(buffer);
  auto* const data = buffer.as<std::byte>();
  const auto write = [&] {
    pool.run(num_chunks,
             [&](int64_t chunk, int) { std::memset(data + chunk * kChunk, 1, kChunk); });
  };
  write();  // gets the pages
  return static_cast<double>(num_chunks * kChunk) / median_us(write) * 1e-3;
}

// From the call of a loop until every thread is at work on it. Each task waits for the others, so
// that no thread takes two.
double hand_over_us(ThreadPool& pool) {
  constexpr int kLoops = 1000;
  constexpr int64_t kEnoughNs = 1'000'000'000;  // where other programs run, a loop waits for them
  std::vector<double> all_us;
  const int64_t start_ns = steady_now_ns();
  for (int i = 0; i < kLoops && steady_now_ns() - start_ns < kEnoughNs; ++i) {
    std::atomic<int> num_arrived{0};
    const int64_t begin_ns = steady_now_ns();
    pool.run(pool.num_threads(), [&](int64_t, int) {
      num_arrived.fetch_add(1);
      while (num_arrived.load() < pool.num_threads()) std::this_thread::yield();
    });
    all_us.push_back(static_cast<double>(steady_now_ns() - begin_ns) * 1e-3);
  }
  return median(all_us);
}

// Of the smallest batch: nothing of it is used but what a measurement takes.
Status open_small(const Ops& ops, OpContext& ctx) {
  return ops.open(ctx, {.max_tokens = 1,
                        .max_logit_rows = 1,
                        .max_cols = 1024,
                        .max_heads = 1,
                        .max_head_dim = 64,
                        .max_context = 16});
}

Result<Limits> measure_memory(const Ops& ops, ThreadPool& pool, int64_t bytes) try {
  const auto free_bytes = static_cast<int64_t>(ops.memory->free_bytes());
  if (bytes > free_bytes) {
    return does_not_fit(str("--bytes ", bytes, ": only ", free_bytes, " are free"));
  }
  OpContext ctx;
  ctx.pool = &pool;
  SLIPSTREAM_RETURN_IF_ERROR(open_small(ops, ctx));
  Limits limits;
  if (ops.measure_limits == nullptr) {
    limits.write_gb_s = write_gb_s(pool, bytes);
    limits.read_gb_s = measure_buffer_read_gb_s(ops, ctx, bytes);
    limits.launch_us = hand_over_us(pool);
    return limits;
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const DeviceLimits device, ops.measure_limits(ctx, bytes));
  limits.read_gb_s = device.read_gb_s;
  limits.write_gb_s = device.write_gb_s;
  limits.barrier_us = device.barrier_us;
  limits.launch_us = device.launch_us;
  limits.graph_node_us = device.graph_node_us;
  return limits;
} catch (const std::bad_alloc&) {
  return does_not_fit(str("--bytes ", bytes, ": the memory is not free"));
}

Result<Limits> measure(const Ops& ops, ThreadPool& pool, int64_t bytes) {
  SLIPSTREAM_ASSIGN_OR_RETURN(Limits limits, measure_memory(ops, pool, bytes));
  // On the CPU floating-point products, and integer ones of blocks of two sizes.
  const std::vector<std::string> formats =
      on_host(ops) ? std::vector<std::string>{"F16", "Q8_0", "Q4_1"}
                   : std::vector<std::string>{dtype_name(DType::kBF16), dtype_name(DType::kF8E4M3)};
  for (const std::string& format : formats) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const GemmRate rate, measure_gemm(ops, pool, format));
    limits.gemm_tflops[format] = rate.median_tflops;
  }
  return limits;
}

Json json_of(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

void add_measured(const Limits& limits, Json& record) {
  record["read_gb_s"] = limits.read_gb_s;
  record["write_gb_s"] = limits.write_gb_s;
  record["gemm_tflops"] = limits.gemm_tflops;
  record["barrier_us"] = json_of(limits.barrier_us);
  record["launch_us"] = limits.launch_us;
  record["graph_node_us"] = json_of(limits.graph_node_us);
  record["all_reduce_us"] = nullptr;  // among one device there is none
}

Limits medians(const std::vector<Limits>& all) {
  const auto median_of = [&](const auto& value) {
    std::vector<double> values;
    for (const Limits& limits : all) values.push_back(value(limits));
    return median(values);
  };
  Limits result = all.front();
  result.read_gb_s = median_of([](const Limits& l) { return l.read_gb_s; });
  result.write_gb_s = median_of([](const Limits& l) { return l.write_gb_s; });
  result.launch_us = median_of([](const Limits& l) { return l.launch_us; });
  for (auto& [format, tflops] : result.gemm_tflops) {
    tflops = median_of([&name = format](const Limits& l) { return l.gemm_tflops.at(name); });
  }
  if (result.barrier_us) {
    result.barrier_us = median_of([](const Limits& l) { return *l.barrier_us; });
  }
  if (result.graph_node_us) {
    result.graph_node_us = median_of([](const Limits& l) { return *l.graph_node_us; });
  }
  return result;
}

}  // namespace

Result<Json> bench_limits(const LimitsOptions& options, RecordWriter& records) {
  EngineOptions engine_options;
  engine_options.device = options.device;
  engine_options.cpu_isa = options.cpu_isa;
  SLIPSTREAM_ASSIGN_OR_RETURN(const Ops* const ops, find_device(engine_options));
  const int64_t bytes = options.bytes > 0 ? options.bytes
                        : on_host(*ops)   ? int64_t{256} << 20
                                          : int64_t{4} << 30;
  ThreadPool pool(options.num_threads);
  RecordHead head;
  head.kind = "limits";
  head.config = Json{{"device", options.device}, {"cpu_isa", options.cpu_isa}, {"bytes", bytes}};
  head.repeats = options.repeats;
  head.cores_used = options.num_threads;
  if (ops->describe != nullptr) {
    const DeviceDescription device = ops->describe();
    head.gpu = {device.name, device.driver, device.cuda};
  }
  const auto begin = [&] {
    Json record = begin_record(head);
    record["device"] = ops->memory->name;
    record["kernels"] = ops->name;
    return record;
  };
  Json summary = begin();
  std::vector<Limits> all;
  for (int repeat_idx = 0; repeat_idx < options.repeats; ++repeat_idx) {
    Json record = begin();
    SLIPSTREAM_ASSIGN_OR_RETURN(const Limits limits, measure(*ops, pool, bytes));
    record["repeat"] = repeat_idx;
    add_measured(limits, record);
    SLIPSTREAM_RETURN_IF_ERROR(records.write(record));
    all.push_back(limits);
  }
  summary["summary"] = true;
  add_measured(medians(all), summary);
  SLIPSTREAM_RETURN_IF_ERROR(records.write(summary));
  return summary;
}

}  // namespace slipstream

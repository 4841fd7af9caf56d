// EngineOptions: every knob of the engine, with its default. Validated once by Engine::open.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace slipstream {

struct FakeRuns;     // engine/fake_executor.h
struct StepProfile;  // slipstream/step_profile.h
class TraceWriter;   // base/trace.h

struct LoadProgressEvent {
  std::string stage;  // "weights"
  int64_t done_bytes = 0;
  int64_t total_bytes = 0;
};

struct EngineOptions {
  std::string model;                 // a .gguf file or a folder in Hugging Face layout
  std::string device = "auto";       // auto, cpu, cuda, cuda:N
  int num_threads = 0;               // CPU threads; 0 = all cores of this process
  std::string cpu_isa = "auto";      // auto, ref, avx2, avx512: the kernels of the CPU backend
  std::string load_format = "auto";  // auto, dummy (seeded random weights from config.json alone)
  std::string executor = "auto";     // auto, eager, graph, megakernel; fake: no model (load tests)
  const FakeRuns* fake_runs = nullptr;  // executor fake: its latency gear; must outlive the engine
  int64_t fake_step_us = 0;             // executor fake: the shortest time from step to step
  bool enable_prefix_caching = true;
  bool one_ahead = true;                // prepare the next step while one runs
  std::string kv_cache_dtype = "auto";  // CPU: f16 (auto), f32. GPU: bf16 (auto), fp8, fp8_e4m3
  std::string quantization = "auto";    // of weights while loading: auto (none); GPU: fp8, int4
  double gpu_memory_utilization = 0.9;  // share of a GPU's free memory to take at start
  bool deterministic = false;        // on a GPU too, tokens do not depend on the batch around them
  bool skip_tokenizer_init = false;  // ids in, ids out
  int64_t max_model_len = 0;  // tokens of a sequence; 0 = all that the model and KV memory allow
  int32_t max_num_seqs = 16;  // sequences that run at once
  int64_t max_num_batched_tokens = 512;  // tokens of one step, prefill and decode together
  int64_t max_queued_requests = 4096;    // waiting requests; more are refused
  int64_t kv_cache_bytes = 0;            // 0 = enough for max_num_seqs, at most a quarter of memory
  int32_t block_size = 16;               // positions per KV block; the CPU kernels need 16
  int32_t max_logprobs = 20;             // largest `logprobs` a request may ask
  std::string cache_folder;              // keeps what is measured of a GPU; empty: nothing is kept
  uint64_t seed = 0;  // of requests that bring none (0 = from the system) and dummy weights
  std::function<void(const LoadProgressEvent&)> on_progress;
  StepProfile* profile = nullptr;  // gets the times of ops; must outlive the engine
  TraceWriter* trace = nullptr;    // gets the engine thread's ranges; must outlive the engine
};

}  // namespace slipstream

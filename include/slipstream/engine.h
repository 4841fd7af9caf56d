// Engine: the public boundary. Opens a model, runs requests on its own thread, reports events.
//
//   auto engine = Engine::open(options, [](std::span<const TokenEvent> events) { ... });
//   auto id = (*engine)->submit(request);
//
// Thread safety: every method may be called from any thread. The sink is called on the engine
// thread, once per step with all events of that step; it must not block and must not call back.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "slipstream/options.h"
#include "slipstream/request.h"

namespace slipstream {

class Tokenizer;  // text/tokenizer.h

using EventSink = std::function<void(std::span<const TokenEvent>)>;

// What a forward pass multiplies, in floating-point operations; 0: nothing is computed.
struct ModelFlops {
  int64_t per_token = 0;                   // the matrices of all layers
  int64_t per_logits = 0;                  // the LM head, for a token whose logits are wanted
  int64_t per_position = 0;                // attention, for a token and a position that it sees
  std::string layers_format, head_format;  // as `bench limits` names the rates of products
};

struct ModelInfo {
  std::string name;  // general.name, else the file's stem
  std::string family;
  int64_t num_parameters = 0;
  std::string weights_format;      // "Q4_1", "F32", "dummy"
  std::string kv_format;           // "f16"
  int64_t bytes_per_token = 0;     // weight bytes one decoded token streams
  int64_t kv_bytes_per_token = 0;  // of one position, all layers
  ModelFlops flops;
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;
  std::string device;                        // "cpu", "cuda"
  std::string gpu, gpu_driver, gpu_runtime;  // "NVIDIA H200", "580.159.04", "13.0", or empty
  std::string executor;                      // "eager"
  std::string latency_executor;  // what a lone request is computed with; empty: steps as ever
  std::string kernels;           // "avx2", 2 threads
  int num_threads = 0;
  SamplingParams default_sampling;  // from generation_config.json, else temperature 1
};

// Where the time of the engine's thread goes, in nanoseconds summed over steps. Waiting for a
// device is in none of them, nor is the forward pass where the host computes it.
struct StepHostNs {
  int64_t schedule = 0;  // who computes how much; blocks
  int64_t batch = 0;     // building the step's batch, finding its requests
  int64_t forward = 0;   // handing it and its launches to the device
  int64_t draw = 0;      // the same for the drawing of tokens
  int64_t collect = 0;   // what the host draws; stop conditions, text, events
  int64_t emit = 0;      // counting
  int64_t sink = 0;      // the EventSink
};

struct EngineStats {
  int64_t num_waiting = 0;
  int64_t num_running = 0;
  int64_t num_finished = 0;
  int64_t num_preemptions = 0;
  int64_t num_steps = 0;
  int64_t num_prompt_tokens = 0;
  int64_t num_generated_tokens = 0;
  int64_t kv_blocks_total = 0;
  int64_t kv_blocks_used = 0;        // by requests; cached blocks without a request are free
  int64_t kv_blocks_cached = 0;      // holding a prefix that a later request may share
  int64_t prefix_cache_queries = 0;  // prompt tokens looked up, preemptions not counted again
  int64_t prefix_cache_hits = 0;     // and found
  int64_t step_started_ns = 0;       // steady clock; 0: no step is running
  int64_t step_num_tokens = 0;       // of the step that runs
  int64_t device_busy_ns = 0;        // time that a GPU has been at work on steps
  const char* executor_in_use = "";  // of the last step; a constant
  int64_t num_runs = 0;              // of the latency gear: many tokens of a lone request
  int64_t num_runs_stopped = 0;      // of them, that were over before their last token
  int64_t num_run_tokens = 0;        // that came of them
  StepHostNs step_host_ns;
  // Time of the engine's thread that a step takes beside waiting for the computation, in quarters
  // of an octave: bucket i counts steps of at most 2^(i/4) microseconds, the last all others.
  std::array<int64_t, 64> step_host_us_histogram{};
  // Steps by tokens computed: bucket i counts steps of at most 2^i tokens and more than 2^(i-1).
  std::array<int64_t, 16> step_tokens_histogram{};
};

// A phase of a token of the latency gear: all layers, mean over the multiprocessors.
struct PhaseTime {
  std::string name;      // "qkv", "attention", "o", "gate_up", "down", "lm_head"
  double us = 0.0;       // from the end of the phase before
  double wait_us = 0.0;  // of it, until the first rows were there; 0: not known
  int64_t bytes = 0;     // weights, or K and V, streamed for it
};

class Engine {
 public:
  // Loads the model, takes all memory, starts the engine thread. Errors carry the exit code.
  static Result<std::unique_ptr<Engine>> open(const EngineOptions& options, EventSink sink);
  virtual ~Engine() = default;

  // Checks the request and queues it. Refusals come back here and produce no event: bad_usage for
  // what can never run (parameters, length), failed when the queue is full.
  virtual Result<RequestId> submit(Request request) = 0;

  // Ends a request within a step, with FinishReason::kAbort. Unknown or finished ids are ignored.
  virtual void cancel(RequestId id) = 0;

  virtual EngineStats stats() const = 0;
  virtual const ModelInfo& model() const = 0;
  virtual const std::shared_ptr<const Tokenizer>& tokenizer() const = 0;  // null if not loaded

  // Read bandwidth (GB/s) over the weights that one decoded token streams, with the engine's own
  // threads, measured between steps: the roof of decode. Blocks the caller until measured.
  virtual double measure_read_gb_s() = 0;

  // Of the latency gear's latest token that was measured, if any; between steps.
  virtual std::vector<PhaseTime> latency_phases() { return {}; }
};

}  // namespace slipstream

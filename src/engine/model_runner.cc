#include "engine/model_runner.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <new>
#include <utility>

#include "base/checked_math.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "engine/engine_options.h"
#include "engine/fake_executor.h"
#include "megakernel/decoder.h"
#include "model/families/families.h"
#include "ops/gemm_roof.h"
#include "sampling/sampling_params.h"
#include "slipstream/step_profile.h"

namespace slipstream {
namespace {

// Prompt log-probabilities need a row of logits per prompt token; a step computes at most this
// many, so that they take megabytes and not gigabytes.
constexpr int64_t kMinLogitRows = 64;

// Each takes 2 bytes per token of the vocabulary. Requests beyond these draw on the host.
constexpr int32_t kMostSampleStates = 512;
KVGroupSpec kv_group(const DecoderSpec& spec, DType dtype, int32_t block_size) {
  const AttentionSpec& attention = spec.layers.front().attention;
  KVGroupSpec group;
  group.num_layers = static_cast<int>(spec.layers.size());
  group.num_kv_heads = attention.num_kv_heads;
  group.head_dim = attention.head_dim;
  group.block_size = block_size;
  group.dtype = dtype;
  return group;
}

// Blocks and context length that options and `kv_bytes` of memory allow. The blocks of the fake
// executor have no bytes, so there are enough of them unless kv_cache_bytes says otherwise.
Status plan_pages(const EngineOptions& options, const KVGroupSpec& group, int64_t kv_bytes,
                  RunnerLimits& limits) {
  constexpr int64_t kMostBlocks = std::numeric_limits<int32_t>::max();
  const int64_t wanted_len = limits.max_model_len;
  const int64_t blocks_per_seq = div_up<int64_t>(wanted_len, group.block_size);
  const int64_t free_bytes = options.kv_cache_bytes > 0 ? options.kv_cache_bytes : kv_bytes;
  int64_t num_blocks = free_bytes / group.block_bytes();
  if (options.kv_cache_bytes == 0) {
    const int64_t enough = blocks_per_seq * options.max_num_seqs;
    num_blocks = options.executor == "fake" ? enough : std::min(num_blocks, enough);
  }
  num_blocks = std::min(num_blocks, kMostBlocks);
  const int64_t least_blocks = options.max_model_len > 0 ? blocks_per_seq : 1;
  if (num_blocks < least_blocks) {
    return does_not_fit(str("the KV cache of one sequence of ", least_blocks * group.block_size,
                            " tokens needs ", least_blocks * group.block_bytes(),
                            " bytes, free are ", std::max<int64_t>(0, free_bytes),
                            ": lower max_model_len or raise kv_cache_bytes"));
  }
  limits.num_blocks = num_blocks;
  limits.max_model_len = std::min(wanted_len, num_blocks * group.block_size);
  return {};
}

Result<RunnerLimits> plan_limits(const EngineOptions& options, int64_t model_len,
                                 const KVGroupSpec& group) {
  RunnerLimits limits;
  limits.block_size = group.block_size;
  limits.max_num_batched_tokens = options.max_num_batched_tokens;
  limits.max_logit_rows = std::max<int64_t>(kMinLogitRows, options.max_num_seqs);
  if (options.max_model_len > model_len) {
    return bad_usage(str("max_model_len is ", options.max_model_len, "; the model's context holds ",
                         model_len, " tokens"));
  }
  limits.max_model_len = options.max_model_len > 0 ? options.max_model_len : model_len;
  return limits;
}

Status check_weights_fit(int64_t needed_bytes, const DeviceMemory& memory) {
  const auto free_bytes = static_cast<int64_t>(memory.free_bytes());
  if (needed_bytes <= free_bytes) return {};
  return does_not_fit(str("the weights need ", needed_bytes, " bytes, the ",
                          &memory == &host_memory() ? "machine" : memory.name, " has ",
                          free_bytes));
}

// Of one device: the embedding and the rest of its shard.
int64_t num_weights(const DecoderSpec& spec, TpShard shard) {
  const bool shares_embedding = spec.tied_embeddings && shard.world_size == 1;
  const int64_t head_rows = shares_embedding ? 0 : vocab_range(spec.vocab_size, shard).count;
  int64_t count = (spec.vocab_size + head_rows) * spec.hidden_size;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& attention = layer.attention;
    const int64_t heads = int64_t{2} * (attention.num_heads + attention.num_kv_heads);
    count += heads * attention.head_dim * spec.hidden_size;
    count += 3 * layer.mlp.intermediate_size * spec.hidden_size;
  }
  return count;
}

Result<SamplingParams> default_sampling(const GenerationDefaults& defaults,
                                        const SamplingLimits& limits) {
  SamplingParams params;
  if (defaults.temperature) params.temperature = static_cast<float>(*defaults.temperature);
  if (defaults.do_sample && !*defaults.do_sample) params.temperature = 0.0f;
  if (defaults.top_p) params.top_p = static_cast<float>(*defaults.top_p);
  if (defaults.top_k) {
    params.top_k =
        static_cast<int32_t>(std::clamp<int64_t>(*defaults.top_k, -2, limits.vocab_size));
  }
  if (defaults.min_p) params.min_p = static_cast<float>(*defaults.min_p);
  if (defaults.repetition_penalty) {
    params.repetition_penalty = static_cast<float>(*defaults.repetition_penalty);
  }
  const Status status = validate_sampling_params(params, limits);
  if (!status.ok()) return invalid_model("generation_config.json: " + status.message());
  return params;
}

Result<std::shared_ptr<const Tokenizer>> load_tokenizer(const EngineOptions& options,
                                                        const Checkpoint* checkpoint) {
  if (options.skip_tokenizer_init) return std::shared_ptr<const Tokenizer>();
  if (checkpoint != nullptr && checkpoint->gguf() != nullptr) {
    auto tokenizer = Tokenizer::from_gguf(*checkpoint->gguf());
    if (!tokenizer.ok()) return tokenizer.status().in(options.model);
    return tokenizer;
  }
  auto tokenizer = Tokenizer::load(options.model);
  if (!tokenizer.ok() && checkpoint == nullptr) {
    log_warn("engine", "tokenizer=none reason=", quote(tokenizer.status().message(), 200));
    return std::shared_ptr<const Tokenizer>();
  }
  return tokenizer;
}

std::vector<int32_t> end_ids(const ModelConfig& config, const GenerationDefaults& defaults,
                             const Tokenizer* tokenizer) {
  std::vector<int32_t> ids = config.eos_token_ids;
  ids.insert(ids.end(), defaults.eos_token_ids.begin(), defaults.eos_token_ids.end());
  if (tokenizer != nullptr) {
    const std::vector<int32_t>& more = tokenizer->special_tokens().end_of_generation_ids;
    ids.insert(ids.end(), more.begin(), more.end());
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

ModelInfo describe(const ModelDescription& model, const KVGroupSpec& group,
                   const RunnerLimits& limits, const ResolvedOptions& resolved) {
  ModelInfo info;
  info.name = model.config.name;
  info.family = model.config.family;
  info.kv_format = dtype_name(group.dtype);
  info.kv_bytes_per_token = group.block_bytes() / group.block_size;
  info.vocab_size = model.spec.vocab_size;
  info.max_model_len = limits.max_model_len;
  info.device = resolved.ops->memory->name;
  if (resolved.ops->describe != nullptr) {
    const DeviceDescription device = resolved.ops->describe();
    info.gpu = device.name;
    info.gpu_driver = device.driver;
    info.gpu_runtime = device.cuda;
  }
  info.kernels = resolved.ops->name;
  info.num_threads = resolved.num_threads;
  return info;
}

ModelFlops model_flops(const DecoderSpec& spec, const DecoderWeights& weights) {
  ModelFlops flops;
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& layer = weights.layers[i];
    for (const Weight* weight :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      flops.per_token += 2 * weight->rows * weight->cols;
    }
    const AttentionSpec& attention = spec.layers[i].attention;
    flops.per_position += int64_t{4} * attention.num_heads * attention.head_dim;
  }
  flops.per_logits = 2 * weights.lm_head.rows * weights.lm_head.cols;
  if (!weights.layers.empty()) flops.layers_format = gemm_format(weights.layers.front().down);
  flops.head_format = gemm_format(weights.lm_head);
  return flops;
}

// What the latency gear would compute with.
struct LatencyGear {
  const DecoderSpec& spec;
  const DecoderWeights& weights;
  const KVGroupSpec& kv;
  const Ops& ops;
};
// Its program; none, with a line that says why, where it cannot run and nobody insists.
Result<std::optional<DecodeProgram>> plan_latency_gear(const EngineOptions& options,
                                                       const LatencyGear& gear,
                                                       int64_t free_bytes) {
  std::string why;
  const bool insists = options.executor == "megakernel";
  if (options.executor != "auto" && !insists) return std::optional<DecodeProgram>();
  if (options.deterministic) {
    why = "it rounds differently than steps do, which deterministic rules out";
  } else if (options.profile != nullptr) {
    why = "a profile is of steps";
  } else {
    auto program = PersistentDecoder::plan(gear.spec, gear.weights, gear.kv, gear.ops);
    if (program.ok() && program.value().device_bytes() > free_bytes / 2) {
      why = str("its copy of the weights takes ", program.value().device_bytes(), " of ",
                free_bytes, " free bytes, more than half");
    } else if (program.ok()) {
      return std::optional(std::move(program).value());
    } else {
      why = program.status().message();
    }
  }
  if (insists) return bad_usage("executor megakernel cannot run this: " + why);
  log_info("engine", "latency_gear=none reason=", quote(why));
  return std::optional<DecodeProgram>();
}

void log_plan(const ModelInfo& info, const RunnerLimits& limits, const EngineOptions& options,
              int64_t kv_bytes) {
  log_info("engine", "device=", info.device, " isa=", info.kernels, " threads=", info.num_threads,
           " executor=", info.executor,
           " latency_gear=", info.latency_executor.empty() ? "none" : info.latency_executor,
           " model=", quote(info.name), " family=", info.family,
           " parameters=", info.num_parameters, " weights=", info.weights_format,
           " bytes_per_token=", info.bytes_per_token);
  log_info("engine", "kv=", info.kv_format, " kv_blocks=", limits.num_blocks,
           " block_size=", limits.block_size, " kv_bytes=", kv_bytes,
           " max_model_len=", limits.max_model_len, " max_num_seqs=", options.max_num_seqs,
           " max_num_batched_tokens=", limits.max_num_batched_tokens,
           " max_logit_rows=", limits.max_logit_rows);
  if (limits.max_num_batched_tokens < options.max_num_seqs) {
    log_warn("engine", "a step of max_num_batched_tokens=", limits.max_num_batched_tokens,
             " advances no more than so many of max_num_seqs=", options.max_num_seqs,
             " sequences; raise --max-num-batched-tokens");
  }
}

}  // namespace

// What one device of a group computes, and its end of the group.
struct DevicePart {
  std::unique_ptr<Communicator> comm;
  DecoderSpec spec;
  KVGroupSpec group;
};

Result<ModelDescription> describe_dummy_model(const std::string& path) {
  if (ends_with(path, ".json")) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, 16u << 20));
    SLIPSTREAM_ASSIGN_OR_RETURN(const HfConfig config, HfConfig::from_text(text, "", path));
    return describe_config(config);
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const HfConfig config, HfConfig::open(path));
  return describe_config(config);
}

Result<std::unique_ptr<ModelRunner>> ModelRunner::open(const EngineOptions& options) try {
  SLIPSTREAM_ASSIGN_OR_RETURN(ResolvedOptions resolved, resolve_options(options));
  std::unique_ptr<ModelRunner> runner(new ModelRunner);
  ModelDescription model;
  GenerationDefaults defaults;
  if (resolved.dummy_weights) {
    SLIPSTREAM_ASSIGN_OR_RETURN(model, describe_dummy_model(options.model));
  } else {
    SLIPSTREAM_ASSIGN_OR_RETURN(runner->checkpoint_, Checkpoint::open(options.model));
    SLIPSTREAM_ASSIGN_OR_RETURN(model, describe_model(*runner->checkpoint_));
    defaults = runner->checkpoint_->generation_defaults();
    follow_checkpoint(options, *runner->checkpoint_, resolved);
  }
  DevicePart part;
  part.comm = std::make_unique<SoloCommunicator>();
  SLIPSTREAM_ASSIGN_OR_RETURN(part.spec, shard_spec(model.spec, tp_shard(*part.comm)));
  part.group = kv_group(part.spec, resolved.kv_dtype, options.block_size);
  const KVGroupSpec group = part.group;
  SLIPSTREAM_ASSIGN_OR_RETURN(runner->limits_,
                              plan_limits(options, model.config.max_position_embeddings, group));
  // A GPU's pages take what weights and activations leave; see load_state.
  if (on_host(*resolved.ops) || resolved.fake_executor) {
    SLIPSTREAM_RETURN_IF_ERROR(
        plan_pages(options, group, physical_memory_bytes() / 4, runner->limits_));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(runner->tokenizer_,
                              load_tokenizer(options, runner->checkpoint_.get()));
  runner->eos_token_ids_ = end_ids(model.config, defaults, runner->tokenizer_.get());
  runner->pool_ = std::make_unique<ThreadPool>(resolved.num_threads);
  runner->info_ = describe(model, group, runner->limits_, resolved);
  ModelInfo& info = runner->info_;
  if (info.name.empty()) info.name = std::filesystem::path(options.model).stem().string();
  SLIPSTREAM_ASSIGN_OR_RETURN(
      info.default_sampling,
      default_sampling(defaults, {.vocab_size = info.vocab_size,
                                  .max_logprobs = options.max_logprobs,
                                  .has_tokenizer = runner->tokenizer_ != nullptr}));

  if (resolved.fake_executor) {
    runner->fake_state(options);
  } else {
    SLIPSTREAM_RETURN_IF_ERROR(runner->load_state(options, resolved, model, std::move(part)));
  }
  info.executor = runner->executors_.front()->name();
  log_plan(info, runner->limits_, options,
           runner->state_ != nullptr ? runner->state_->kv.bytes() : 0);
  return runner;
} catch (const std::bad_alloc&) {
  return does_not_fit(str("memory ran out while the model was loaded; the machine has ",
                          physical_memory_bytes(), " bytes"));
}

// Weights, pages, activations and the executor that computes with them.
Status ModelRunner::load_state(const EngineOptions& options, const ResolvedOptions& resolved,
                               const ModelDescription& model, DevicePart part) try {
  if (options.profile != nullptr) {
    profile_.emplace(options.profile->most_steps, options.profile->least_seqs,
                     options.profile->skipped_steps);
    profile_result_ = options.profile;
    if (options.profile->trace != nullptr) profile_->trace_to(*options.profile->trace);
  }
  const Ops& ops = profile_ ? profile_->attach(*resolved.ops) : *resolved.ops;
  const TpShard shard = tp_shard(*part.comm);
  const auto free_at_start = static_cast<double>(ops.memory->free_bytes());
  const int64_t needed_bytes =
      !on_host(ops) ? dtype_row_bytes(resolved.weight_dtype, num_weights(part.spec, shard))
      : checkpoint_ != nullptr
          ? static_cast<int64_t>(checkpoint_->file_bytes())
          : static_cast<int64_t>(quant_format(kDummyWeights).bytes_per_weight() *
                                 static_cast<double>(num_weights(part.spec, shard)));
  SLIPSTREAM_RETURN_IF_ERROR(check_weights_fit(needed_bytes, *ops.memory));
  OpContext ctx;
  ctx.pool = pool_.get();
  ctx.weight_dtype = resolved.weight_dtype;
  ctx.keep_stored_dtypes = resolved.keep_stored_dtypes;
  ctx.deterministic = options.deterministic;
  ctx.cache_folder = options.cache_folder;
  ctx.profile = profile_ ? &*profile_ : nullptr;
  const int32_t num_sample_states =
      ops.set_sample_state != nullptr ? std::min(options.max_num_seqs, kMostSampleStates) : 0;
  SLIPSTREAM_RETURN_IF_ERROR(
      ops.open(ctx, op_limits(part.spec, {.max_tokens = limits_.max_num_batched_tokens,
                                          .max_logit_rows = limits_.max_logit_rows,
                                          .max_seqs = options.max_num_seqs,
                                          .max_context = limits_.max_model_len,
                                          .max_sample_states = num_sample_states})));
  const LoadProgress progress = [&](int64_t done_bytes, int64_t total_bytes) {
    if (options.on_progress) options.on_progress({"weights", done_bytes, total_bytes});
  };
  auto weights =
      checkpoint_ != nullptr
          ? load_weights(*checkpoint_, model.spec, model.names, {ops, ctx, shard}, progress)
          : dummy_weights(model.spec, kDummyWeights, options.seed, {ops, ctx, shard});
  if (!weights.ok()) return weights.status();
  std::optional<DecodeProgram> program;  // of the latency gear
  Workspace workspace(part.spec, ops, limits_.max_num_batched_tokens, limits_.max_logit_rows);
  if (!on_host(ops)) {
    const double kept_free = (1.0 - options.gpu_memory_utilization) * free_at_start;
    const double left = static_cast<double>(ops.memory->free_bytes()) - kept_free;
    auto kv_bytes = static_cast<int64_t>(left);
    SLIPSTREAM_ASSIGN_OR_RETURN(
        program,
        plan_latency_gear(options, {part.spec, weights.value(), part.group, ops}, kv_bytes));
    if (program) kv_bytes -= program->device_bytes();
    SLIPSTREAM_RETURN_IF_ERROR(plan_pages(options, part.group, kv_bytes, limits_));
    info_.max_model_len = limits_.max_model_len;
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(KVCache kv,
                              KVCache::create(part.group, limits_.num_blocks, *ops.memory));
  state_ = std::make_unique<ModelState>(ModelState{
      part.spec, std::move(weights).value(), DeviceRope(rope_frequencies(part.spec.rope), ops),
      std::move(kv), &ops, std::move(ctx), std::move(workspace), std::move(part.comm)});
  info_.num_parameters = state_->weights.num_parameters;
  info_.weights_format = resolved.dummy_weights ? "dummy" : state_->weights.format;
  info_.bytes_per_token = state_->weights.bytes_per_token;
  info_.flops = model_flops(part.spec, state_->weights);
  if (ops.replay != nullptr && options.executor != "eager") {
    executors_.push_back(make_graph_executor(*state_, graph_options(options)));
  }
  executors_.push_back(make_eager_executor(*state_));
  sampler_ = make_device_sampler(*state_, num_sample_states);
  if (program) {
    SLIPSTREAM_ASSIGN_OR_RETURN(resident_,
                                make_megakernel(*state_, *program, limits_.max_model_len));
    info_.latency_executor = resident_->name();
  }
  return {};
} catch (const std::bad_alloc&) {
  const DeviceMemory& memory = *resolved.ops->memory;
  return does_not_fit(str("memory ran out while the model was loaded; the ",
                          &memory == &host_memory() ? "machine" : memory.name, " has ",
                          memory.free_bytes(), " bytes", &memory == &host_memory() ? "" : " left"));
}

GraphExecutorOptions ModelRunner::graph_options(const EngineOptions& options) const {
  return {.max_num_seqs = static_cast<int32_t>(
              std::min<int64_t>(options.max_num_seqs, limits_.max_num_batched_tokens)),
          .max_blocks_per_seq = div_up<int64_t>(limits_.max_model_len, limits_.block_size)};
}

// Nothing of the model but its vocabulary.
void ModelRunner::fake_state(const EngineOptions& options) {
  FakeExecutorOptions fake;
  fake.vocab_size = info_.vocab_size;
  fake.answer_ids = fake_answer_ids(info_.vocab_size, eos_token_ids_, tokenizer_.get());
  fake.step_ns = options.fake_step_us * 1000;
  fake.num_states = std::min(options.max_num_seqs, kMostSampleStates);
  fake.graph = graph_options(options);
  fake.max_num_batched_tokens = limits_.max_num_batched_tokens;
  fake.max_model_len = limits_.max_model_len;
  fake.runs = options.fake_runs;
  info_.weights_format = "fake";
  FakeModel model = make_fake_model(std::move(fake));
  executors_.push_back(std::move(model.executor));
  sampler_ = std::move(model.sampler);
  resident_ = std::move(model.resident);
  if (resident_ != nullptr) info_.latency_executor = resident_->name();
}

ModelRunner::~ModelRunner() {
  if (profile_ && state_ != nullptr) finish_profile();
}

// The roofs of products are measured when nothing else is to be done: the model's memory is free
// then, and the device is as warm as it was.
void ModelRunner::finish_profile() {
  StepProfile& result = *profile_result_;
  result.num_tokens = profile_->num_tokens();
  for (OpTime& op : profile_->times(state_->ctx)) {
    result.ops.push_back({.name = std::move(op.name),
                          .num_calls = op.num_calls,
                          .us = op.us,
                          .bytes = op.bytes,
                          .flops = op.flops,
                          .format = std::move(op.format)});
  }
  result.num_steps = profile_->num_steps();
  result.span_us = profile_->span_us();
  const Ops& ops = profile_->inner();
  sampler_.reset();
  executors_.clear();
  resident_.reset();
  state_.reset();
  std::vector<std::string> formats;
  for (const StepProfile::Op& op : result.ops) formats.push_back(op.format);
  const std::map<std::string, double> gemm_tflops = measure_gemm_rates(ops, *pool_, formats);
  for (StepProfile::Op& op : result.ops) {
    const auto known = gemm_tflops.find(op.format);
    if (known != gemm_tflops.end()) op.gemm_tflops = known->second;
  }
}

// Blocks that a step is the first to write to hold what freed sequences left: none of it may count.
void ModelRunner::poison_new_blocks(const ForwardBatch& batch) {
  const int32_t block_size = limits_.block_size;
  for (int seq = 0; seq < batch.num_seqs(); ++seq) {
    const auto s = static_cast<size_t>(seq);
    const int32_t end = batch.seq_lens[s];
    const int32_t begin = end - (batch.cu_seqlens_q[s + 1] - batch.cu_seqlens_q[s]);
    const auto table = static_cast<size_t>(seq * batch.block_table_stride);
    for (int32_t idx = div_up(begin, block_size); idx * block_size < end; ++idx) {
      state_->kv.poison(batch.block_table[table + static_cast<size_t>(idx)]);
    }
  }
}

TensorView ModelRunner::forward(const ForwardBatch& batch) {
#ifndef NDEBUG
  if (state_ != nullptr) poison_new_blocks(batch);
#endif
  for (const std::unique_ptr<Executor>& executor : executors_) {
    if (!executor->can_run(batch)) continue;
    executor_in_use_ = executor->name();
    return logits_ = executor->forward(batch);
  }
  check_failed(__FILE__, __LINE__, "executor", "the last executor takes every batch");
}

std::span<float> ModelRunner::host_logits(int64_t row, std::vector<float>& copy) const {
  if (sampler_ != nullptr) return sampler_->copy_row(logits_, row, copy);
  return {logits_.f32_row(row), static_cast<size_t>(logits_.dim(1))};
}

double ModelRunner::measure_read_gb_s() {
  if (state_ == nullptr) return 0.0;
  return state_->ops->measure_read_gb_s(state_->ctx, streamed_ranges(state_->weights));
}

}  // namespace slipstream

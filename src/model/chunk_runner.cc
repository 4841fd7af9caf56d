#include "model/chunk_runner.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked_math.h"
#include "loader/checkpoint.h"

namespace slipstream {
namespace {

constexpr int kBlockSize = 16;

// Pages of several sequences alternate, so that a confused block table shows.
int32_t block_id(int64_t block_idx, int seq_idx, int num_seqs) {
  return static_cast<int32_t>(block_idx * num_seqs + seq_idx);
}

}  // namespace

ChunkRunner::ChunkRunner(const Ops& ops, const ChunkRunnerOptions& options,
                         std::unique_ptr<Communicator> comm)
    : ops_(ops),
      options_(options),
      pool_(options.num_threads),
      comm_(std::move(comm)),
      seq_tokens_(static_cast<size_t>(options.num_seqs), 0) {}

ChunkRunner::~ChunkRunner() = default;

Status ChunkRunner::prepare() {
  SLIPSTREAM_ASSIGN_OR_RETURN(spec_, shard_spec(model_.spec, tp_shard(*comm_)));
  const OpLimits limits = op_limits(spec_, {.max_tokens = options_.max_tokens,
                                            .max_logit_rows = options_.max_tokens,
                                            .max_seqs = options_.num_seqs,
                                            .max_context = options_.max_context});
  ctx_.pool = &pool_;
  ctx_.weight_dtype = options_.weight_dtype;
  ctx_.keep_stored_dtypes = options_.keep_stored_dtypes;
  ctx_.deterministic = options_.deterministic;
  SLIPSTREAM_RETURN_IF_ERROR(ops_.open(ctx_, limits));
  rope_.emplace(rope_frequencies(model_.spec.rope), ops_);
  workspace_ = std::make_unique<Workspace>(spec_, ops_, options_.max_tokens, options_.max_tokens);

  const AttentionSpec& attention = spec_.layers.front().attention;
  const KVGroupSpec group{.num_layers = static_cast<int>(spec_.layers.size()),
                          .num_kv_heads = attention.num_kv_heads,
                          .head_dim = attention.head_dim,
                          .block_size = kBlockSize,
                          .dtype = options_.kv_dtype};
  const int64_t blocks_per_seq = div_up<int64_t>(options_.max_context, kBlockSize);
  SLIPSTREAM_ASSIGN_OR_RETURN(
      KVCache kv, KVCache::create(group, blocks_per_seq * options_.num_seqs, *ops_.memory));
  kv_ = std::make_unique<KVCache>(std::move(kv));
  return {};
}

Result<std::unique_ptr<ChunkRunner>> ChunkRunner::open(const std::string& path, const Ops& ops,
                                                       const ChunkRunnerOptions& options,
                                                       std::unique_ptr<Communicator> comm) {
  std::unique_ptr<ChunkRunner> runner(new ChunkRunner(ops, options, std::move(comm)));
  SLIPSTREAM_ASSIGN_OR_RETURN(runner->checkpoint_, Checkpoint::open(path));
  SLIPSTREAM_ASSIGN_OR_RETURN(runner->model_, describe_model(*runner->checkpoint_));
  SLIPSTREAM_RETURN_IF_ERROR(runner->prepare());
  SLIPSTREAM_ASSIGN_OR_RETURN(runner->weights_,
                              load_weights(*runner->checkpoint_, runner->model_.spec,
                                           runner->model_.names, runner->target(), nullptr));
  return runner;
}

Result<std::unique_ptr<ChunkRunner>> ChunkRunner::random(const ModelDescription& model,
                                                         QuantType type, uint64_t seed,
                                                         const Ops& ops,
                                                         const ChunkRunnerOptions& options,
                                                         std::unique_ptr<Communicator> comm) {
  std::unique_ptr<ChunkRunner> runner(new ChunkRunner(ops, options, std::move(comm)));
  runner->model_ = model;
  SLIPSTREAM_RETURN_IF_ERROR(runner->prepare());
  SLIPSTREAM_ASSIGN_OR_RETURN(runner->weights_,
                              dummy_weights(model.spec, type, seed, runner->target()));
  return runner;
}

TensorView ChunkRunner::run(std::span<const Chunk> chunks, LogitRows rows) {
  const int64_t blocks_per_seq = kv_->num_blocks() / options_.num_seqs;
  ForwardBatch batch;
  batch.block_table_stride = blocks_per_seq;
  batch.cu_seqlens_q.push_back(0);
  for (const Chunk& chunk : chunks) {
    SLIPSTREAM_CHECK(chunk.seq_idx >= 0 && chunk.seq_idx < options_.num_seqs, "a known sequence");
    SLIPSTREAM_CHECK(!chunk.token_ids.empty(), "a chunk has tokens");
    int64_t& position = seq_tokens_[static_cast<size_t>(chunk.seq_idx)];
    for (const int32_t token_id : chunk.token_ids) {
      SLIPSTREAM_CHECK(position < options_.max_context, "the sequence fits its pages");
      const int32_t block = block_id(position / kBlockSize, chunk.seq_idx, options_.num_seqs);
      if (rows == LogitRows::kAll) {
        batch.logit_rows.push_back(static_cast<int32_t>(batch.num_tokens()));
      }
      batch.token_ids.push_back(token_id);
      batch.positions.push_back(static_cast<int32_t>(position));
      batch.slot_mapping.push_back(int64_t{block} * kBlockSize + position % kBlockSize);
      ++position;
    }
    if (rows == LogitRows::kLastOfChunk) {
      batch.logit_rows.push_back(static_cast<int32_t>(batch.num_tokens() - 1));
    }
    batch.cu_seqlens_q.push_back(static_cast<int32_t>(batch.num_tokens()));
    batch.seq_lens.push_back(static_cast<int32_t>(position));
    const std::vector<int32_t> blocks = block_table(chunk.seq_idx);
    batch.block_table.insert(batch.block_table.end(), blocks.begin(), blocks.end());
  }
  check_batch(batch, spec_, *workspace_);
  TensorView logits = forward({.spec = spec_,
                               .weights = weights_,
                               .rope = *rope_,
                               .batch = ops_.begin_step(ctx_, batch, {}),
                               .kv = *kv_,
                               .ops = ops_,
                               .ctx = ctx_,
                               .workspace = *workspace_,
                               .comm = *comm_});
  if (on_host(ops_)) return logits;
  host_logits_.resize(static_cast<size_t>(logits.num_elements()));
  ops_.memory->copy_out(host_logits_.data(), logits.data, host_logits_.size() * sizeof(float));
  logits.data = host_logits_.data();
  return logits;
}

TensorView ChunkRunner::run(int seq_idx, std::vector<int32_t> token_ids) {
  const Chunk chunk{seq_idx, std::move(token_ids)};
  return run(std::span(&chunk, 1));
}

std::vector<int32_t> ChunkRunner::block_table(int seq_idx) const {
  std::vector<int32_t> blocks;
  for (int64_t i = 0; i < kv_->num_blocks() / options_.num_seqs; ++i) {
    blocks.push_back(block_id(i, seq_idx, options_.num_seqs));
  }
  return blocks;
}

void ChunkRunner::truncate(int seq_idx, int64_t num_tokens) {
  int64_t& present = seq_tokens_[static_cast<size_t>(seq_idx)];
  SLIPSTREAM_CHECK(num_tokens >= 0 && num_tokens <= present, "truncation only shortens");
  present = num_tokens;
}

int32_t argmax_row(TensorView logits, int64_t row) {
  const float* values = logits.f32_row(row);
  return static_cast<int32_t>(std::max_element(values, values + logits.dim(1)) - values);
}

}  // namespace slipstream

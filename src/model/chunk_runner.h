// ChunkRunner: a model without an engine: chunks of tokens in, logits out. For self-tests, golden
// values and perplexity, which need logits of every position and no scheduler.
//
// Owns everything a forward pass borrows on one device. Each of its sequences has pages of its own
// for `max_context` positions. One thread at a time; of a group of devices there is a runner for
// each, in threads of their own, which all make the same calls.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "comm/communicator.h"
#include "kv/kv_cache.h"
#include "model/decoder.h"
#include "model/families/families.h"
#include "ops/ops.h"

namespace slipstream {

struct ChunkRunnerOptions {
  int num_threads = 1;
  int num_seqs = 1;
  int64_t max_tokens = 512;  // of all chunks of one call
  int64_t max_context = 512;
  DType kv_dtype = DType::kF32;
  DType weight_dtype = DType::kBF16;  // of a GPU's matrices: bf16, fp8_e4m3 or int4
  bool keep_stored_dtypes = false;    // see OpContext
  bool deterministic = false;         // see OpContext
};

// The next tokens of one sequence.
struct Chunk {
  int seq_idx = 0;
  std::vector<int32_t> token_ids;
};

enum class LogitRows : uint8_t { kAll, kLastOfChunk };

class ChunkRunner {
 public:
  // Loads the model at `path`.
  static Result<std::unique_ptr<ChunkRunner>> open(const std::string& path, const Ops& ops,
                                                   const ChunkRunnerOptions& options,
                                                   std::unique_ptr<Communicator> comm = solo());
  // Seeded random weights for a configuration.
  static Result<std::unique_ptr<ChunkRunner>> random(const ModelDescription& model, QuantType type,
                                                     uint64_t seed, const Ops& ops,
                                                     const ChunkRunnerOptions& options,
                                                     std::unique_ptr<Communicator> comm = solo());

  ~ChunkRunner();

  // One forward pass. Returns the logits [tokens of all chunks or number of chunks, vocab_size],
  // valid until the next call. A sequence appears at most once.
  TensorView run(std::span<const Chunk> chunks, LogitRows rows = LogitRows::kAll);
  // One sequence's next tokens; logits [tokens, vocab_size].
  TensorView run(int seq_idx, std::vector<int32_t> token_ids);
  // Forgets a sequence's tokens beyond the first `num_tokens`.
  void truncate(int seq_idx, int64_t num_tokens);

  int64_t num_tokens(int seq_idx) const { return seq_tokens_[static_cast<size_t>(seq_idx)]; }
  const ModelDescription& model() const { return model_; }
  const DecoderWeights& weights() const { return weights_; }

  // For another way to compute on the same weights and pages.
  const DecoderSpec& spec() const { return spec_; }
  const DeviceRope& rope() const { return *rope_; }
  const KVCache& kv() const { return *kv_; }
  const Ops& ops() const { return ops_; }
  OpContext& ctx() { return ctx_; }
  std::vector<int32_t> block_table(int seq_idx) const;
  // That one has put the next tokens of a sequence into its pages.
  void add_computed(int seq_idx, int64_t num_tokens) {
    seq_tokens_[static_cast<size_t>(seq_idx)] += num_tokens;
  }

 private:
  static std::unique_ptr<Communicator> solo() { return std::make_unique<SoloCommunicator>(); }
  ChunkRunner(const Ops& ops, const ChunkRunnerOptions& options,
              std::unique_ptr<Communicator> comm);
  Status prepare();  // once model_ is known, before weights are packed
  PackTarget target() { return {ops_, ctx_, tp_shard(*comm_)}; }

  const Ops& ops_;
  ChunkRunnerOptions options_;
  ThreadPool pool_;
  OpContext ctx_;
  std::unique_ptr<Checkpoint> checkpoint_;  // weights may borrow from its files
  ModelDescription model_;
  std::unique_ptr<Communicator> comm_;
  DecoderSpec spec_;  // of this device's shard of the model
  std::optional<DeviceRope> rope_;
  DecoderWeights weights_;
  std::unique_ptr<KVCache> kv_;
  std::unique_ptr<Workspace> workspace_;
  std::vector<int64_t> seq_tokens_;  // [num_seqs], tokens in the pages
  std::vector<float> host_logits_;   // of the last run, where the device's memory is not the host's
};

// The index of the largest logit of row `row`; of equals, the first.
int32_t argmax_row(TensorView logits, int64_t row);

}  // namespace slipstream

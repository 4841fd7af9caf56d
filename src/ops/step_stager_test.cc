#include "ops/step_stager.h"

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <vector>

namespace slipstream {
namespace {

StagingLimits limits(bool deterministic = false) {
  return {.ops = {.max_tokens = 512,
                  .max_seqs = 16,
                  .max_heads = 8,
                  .heads_per_kv_head = 4,
                  .max_head_dim = 64,
                  .max_context = 4096},
          .max_blocks_per_seq = 256,
          .num_sms = 4,
          .deterministic = deterministic,
          .partials_floats = 16 * 8 * 4 * 65};
}

// Sequence i computes the last counts[i] of its lens[i] positions.
ForwardBatch batch_of(const std::vector<int32_t>& lens, const std::vector<int32_t>& counts,
                      int64_t stride) {
  ForwardBatch batch;
  batch.cu_seqlens_q.push_back(0);
  batch.block_table_stride = stride;
  for (size_t seq = 0; seq < lens.size(); ++seq) {
    for (int32_t i = 0; i < counts[seq]; ++i) {
      const int32_t position = lens[seq] - counts[seq] + i;
      batch.token_ids.push_back(100 + position);
      batch.positions.push_back(position);
      batch.slot_mapping.push_back(1000 + position);
    }
    batch.seq_lens.push_back(lens[seq]);
    batch.cu_seqlens_q.push_back(static_cast<int32_t>(batch.num_tokens()));
    batch.logit_rows.push_back(static_cast<int32_t>(batch.num_tokens() - 1));
    for (int64_t i = 0; i < stride; ++i) {
      batch.block_table.push_back(static_cast<int32_t>(10 * (seq + 1)) + static_cast<int32_t>(i));
    }
  }
  return batch;
}

template <typename T>
std::vector<T> values(const T* data, int64_t count) {
  return {data, data + count};
}

class StepStagerTest : public testing::Test {
 protected:
  StepStager::Staged stage(const ForwardBatch& batch, BatchFill fill = {}) {
    return stager_.stage(batch, fill, {.host = memory_.get(), .device = memory_.get()});
  }
  std::vector<int32_t> query_rows() const {
    std::vector<int32_t> rows;
    for (const DecodeQuery& query :
         std::span(stager_.plan().queries, static_cast<size_t>(stager_.plan().num_queries))) {
      rows.push_back(query.row);
    }
    return rows;
  }

  StepStager stager_{limits()};
  std::unique_ptr<std::byte[]> memory_ = std::make_unique<std::byte[]>(stager_.num_bytes());
};

TEST_F(StepStagerTest, SequencesThatFillABatchReadAndWriteNothing) {
  ForwardBatch batch = batch_of({5, 40, 17}, {1, 1, 1}, 3);
  batch.drawn_from = {-1, 4, 7};
  const StepStager::Staged staged = stage(batch, {.num_seqs = 5, .block_table_stride = 4});
  const BatchView& view = staged.view;
  EXPECT_EQ(view.num_tokens, 5);
  EXPECT_EQ(view.num_seqs, 5);
  EXPECT_EQ(view.num_logit_rows, 5);
  EXPECT_EQ(values(view.token_ids, 5), (std::vector<int32_t>{104, 139, 116, 0, 0}));
  EXPECT_EQ(values(view.positions, 5), (std::vector<int32_t>{4, 39, 16, 0, 0}));
  EXPECT_EQ(values(view.cu_seqlens_q, 6), (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(values(view.seq_lens, 5), (std::vector<int32_t>{5, 40, 17, 0, 0}));
  EXPECT_EQ(values(view.slot_mapping, 5), (std::vector<int64_t>{1004, 1039, 1016, -1, -1}));
  EXPECT_EQ(values(view.logit_rows, 5), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(values(staged.drawn_from, 5), (std::vector<int32_t>{-1, 4, 7, -1, -1}));
  EXPECT_EQ(view.block_table_stride, 4);
  EXPECT_EQ(
      values(view.block_table, 20),
      (std::vector<int32_t>{10, 11, 12, 0, 20, 21, 22, 0, 30, 31, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  const DecodeQuery& last = stager_.plan().queries[4];
  EXPECT_EQ(last.row, 4);
  EXPECT_EQ(last.seq, 4);
  EXPECT_EQ(last.seq_len, 0);
}

TEST_F(StepStagerTest, TheLongestContextsComeFirstWhateverTheStepBefore) {
  (void)stage(batch_of({5, 40, 17, 40}, {1, 1, 1, 1}, 3));
  EXPECT_EQ(query_rows(), (std::vector<int32_t>{1, 3, 2, 0}));
  (void)stage(batch_of({6, 41, 18, 41}, {1, 1, 1, 1}, 3));
  EXPECT_EQ(query_rows(), (std::vector<int32_t>{1, 3, 2, 0}));
  (void)stage(batch_of({48, 2, 47, 3}, {1, 1, 1, 1}, 3));
  EXPECT_EQ(query_rows(), (std::vector<int32_t>{0, 2, 3, 1}));
  (void)stage(batch_of({1, 2, 3}, {1, 1, 1}, 3));
  EXPECT_EQ(query_rows(), (std::vector<int32_t>{2, 1, 0}));
}

TEST_F(StepStagerTest, ChunksAreCutIntoTilesAndSingleTokensAreNot) {
  (void)stage(batch_of({50, 9, 70}, {50, 1, 33}, 5));
  const AttentionPlan& plan = stager_.plan();
  EXPECT_EQ(query_rows(), (std::vector<int32_t>{50}));
  // A tile has 128 / 4 tokens; positions that its last one sees, falling.
  std::vector<std::vector<int32_t>> tiles;
  for (const PrefillTile& tile : std::span(plan.tiles, static_cast<size_t>(plan.num_tiles))) {
    tiles.push_back({tile.seq, tile.first_row, tile.num_tokens, tile.first_position});
  }
  EXPECT_EQ(tiles, (std::vector<std::vector<int32_t>>{
                       {2, 83, 1, 69}, {2, 51, 32, 37}, {0, 32, 18, 32}, {0, 0, 32, 0}}));
}

TEST_F(StepStagerTest, WhereResultsMustNotDependOnChunksEveryTokenIsSingle) {
  StepStager stager(limits(true));
  (void)stager.stage(batch_of({7}, {3}, 1), {}, {.host = memory_.get(), .device = memory_.get()});
  const AttentionPlan& plan = stager.plan();
  EXPECT_EQ(plan.num_tiles, 0);
  ASSERT_EQ(plan.num_queries, 3);
  EXPECT_EQ(plan.queries[0].seq_len, 7);
  EXPECT_EQ(plan.queries[0].old_len, 4);
  EXPECT_EQ(plan.queries[2].seq_len, 5);
  EXPECT_EQ(plan.queries[2].old_len, 4);
}

TEST_F(StepStagerTest, OneLongContextAmongShortOnesIsSplit) {
  const BatchView split = stage(batch_of({4000, 9}, {1, 1}, 250)).view;
  EXPECT_EQ(stager_.plan().num_splits, 4);
  EXPECT_EQ(stager_.plan().split_len, kLeastSplitLen);
  const BatchView whole = stage(batch_of({1000, 9}, {1, 1}, 250)).view;
  EXPECT_EQ(stager_.plan().num_splits, 1);
  EXPECT_NE(split.plan_key, whole.plan_key);
}

TEST_F(StepStagerTest, ArraysLieAtTheSamePlacesWhetherOrNotTokensAreDrawn) {
  ForwardBatch batch = batch_of({5, 40}, {1, 1}, 3);
  const StepStager::Staged without = stage(batch);
  batch.drawn_from = {0, 1};
  const StepStager::Staged with = stage(batch);
  EXPECT_EQ(without.drawn_from, nullptr);
  EXPECT_EQ(with.view.block_table, without.view.block_table);
  EXPECT_EQ(with.view.logit_rows, without.view.logit_rows);
  EXPECT_GT(with.num_bytes, without.num_bytes);
}

}  // namespace
}  // namespace slipstream

#include "engine/step_batch.h"

#include <algorithm>

#include "base/check.h"

namespace slipstream {
namespace {

void append_tokens(const ScheduledSequence& scheduled, int32_t block_size, ForwardBatch& batch) {
  const Sequence& sequence = *scheduled.sequence;
  const int64_t end = scheduled.begin + scheduled.num_tokens;
  for (int64_t position = scheduled.begin; position < end; ++position) {
    const auto index = static_cast<size_t>(position);
    const int64_t block = sequence.blocks.blocks[index / static_cast<size_t>(block_size)];
    const bool is_last = scheduled.samples && position + 1 == end;
    const bool in_prompt = scheduled.wants_prompt_logits && position < scheduled.num_prompt_tokens;
    if (is_last || in_prompt) batch.logit_rows.push_back(static_cast<int32_t>(batch.num_tokens()));
    batch.token_ids.push_back(sequence.token_ids[index]);
    batch.positions.push_back(static_cast<int32_t>(position));
    batch.slot_mapping.push_back(block * block_size + position % block_size);
  }
  batch.cu_seqlens_q.push_back(static_cast<int32_t>(batch.num_tokens()));
  batch.seq_lens.push_back(static_cast<int32_t>(end));
}

template <typename T>
void move_range(std::vector<T>& values, int64_t from, int64_t to, int64_t count) {
  std::copy_n(values.begin() + from, count, values.begin() + to);
}

}  // namespace

void build_batch(const SchedulerOutput& output, int32_t block_size, ForwardBatch& batch) {
  batch.token_ids.clear();
  batch.positions.clear();
  batch.slot_mapping.clear();
  batch.logit_rows.clear();
  batch.seq_lens.clear();
  batch.cu_seqlens_q.assign(1, 0);
  batch.block_table_stride = 0;
  for (const ScheduledSequence& scheduled : output.scheduled) {
    append_tokens(scheduled, block_size, batch);
    batch.block_table_stride =
        std::max(batch.block_table_stride, std::ssize(scheduled.sequence->blocks.blocks));
  }
  batch.block_table.assign(output.scheduled.size() * static_cast<size_t>(batch.block_table_stride),
                           0);
  auto row = batch.block_table.begin();
  for (const ScheduledSequence& scheduled : output.scheduled) {
    const std::vector<int32_t>& blocks = scheduled.sequence->blocks.blocks;
    std::copy(blocks.begin(), blocks.end(), row);
    row += batch.block_table_stride;
  }
  SLIPSTREAM_CHECK(batch.num_tokens() == output.num_tokens, "the plan counts its tokens");
  SLIPSTREAM_CHECK(batch.num_logit_rows() == output.num_logit_rows, "the plan counts its rows");
}

void keep_requests(StepPlan& plan, const std::function<bool(RequestId)>& keep) {
  SchedulerOutput& output = plan.output;
  ForwardBatch& batch = plan.batch;
  int64_t num_kept = 0;
  int64_t num_tokens = 0;
  int64_t num_rows = 0;
  int64_t token_idx = 0;
  int64_t row_idx = 0;
  // Everything moves towards the front, so a range never covers what is still to be moved.
  for (int64_t seq_idx = 0; seq_idx < std::ssize(output.scheduled); ++seq_idx) {
    const ScheduledSequence scheduled = output.scheduled[static_cast<size_t>(seq_idx)];
    if (keep(scheduled.request())) {
      const int64_t count = scheduled.num_tokens;
      move_range(output.scheduled, seq_idx, num_kept, 1);
      move_range(batch.token_ids, token_idx, num_tokens, count);
      move_range(batch.positions, token_idx, num_tokens, count);
      move_range(batch.slot_mapping, token_idx, num_tokens, count);
      move_range(batch.seq_lens, seq_idx, num_kept, 1);
      move_range(batch.block_table, seq_idx * batch.block_table_stride,
                 num_kept * batch.block_table_stride, batch.block_table_stride);
      for (int64_t i = 0; i < scheduled.num_logit_rows; ++i) {
        const int32_t row = batch.logit_rows[static_cast<size_t>(row_idx + i)];
        batch.logit_rows[static_cast<size_t>(num_rows++)] =
            row - static_cast<int32_t>(token_idx - num_tokens);
      }
      num_tokens += count;
      batch.cu_seqlens_q[static_cast<size_t>(++num_kept)] = static_cast<int32_t>(num_tokens);
    }
    token_idx += scheduled.num_tokens;
    row_idx += scheduled.num_logit_rows;
  }
  output.scheduled.resize(static_cast<size_t>(num_kept));
  output.num_tokens = num_tokens;
  output.num_logit_rows = num_rows;
  batch.token_ids.resize(static_cast<size_t>(num_tokens));
  batch.positions.resize(static_cast<size_t>(num_tokens));
  batch.slot_mapping.resize(static_cast<size_t>(num_tokens));
  batch.seq_lens.resize(static_cast<size_t>(num_kept));
  batch.cu_seqlens_q.resize(static_cast<size_t>(num_kept) + 1);
  batch.block_table.resize(static_cast<size_t>(num_kept * batch.block_table_stride));
  batch.logit_rows.resize(static_cast<size_t>(num_rows));
}

void fill_pending(StepPlan& plan, const std::function<int32_t(size_t)>& known) {
  for (size_t seq_idx = 0; seq_idx < plan.output.scheduled.size(); ++seq_idx) {
    int32_t& id = plan.batch.token_ids[static_cast<size_t>(plan.batch.cu_seqlens_q[seq_idx])];
    if (id == kPendingToken) id = known(seq_idx);
  }
}

}  // namespace slipstream

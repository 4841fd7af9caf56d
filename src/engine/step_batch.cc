#include "engine/step_batch.h"

#include <algorithm>

#include "base/check.h"

namespace slipstream {
namespace {

// What is written so far of a batch whose arrays have their sizes.
struct Written {
  size_t num_tokens = 0;
  size_t num_rows = 0;
  size_t num_seqs = 0;
};

void write_tokens(const ScheduledSequence& scheduled, int32_t block_size, ForwardBatch& batch,
                  Written& written) {
  const Sequence& sequence = *scheduled.sequence;
  const int64_t end = scheduled.begin + scheduled.num_tokens;
  int64_t block_idx = scheduled.begin / block_size;
  int64_t offset = scheduled.begin - block_idx * block_size;
  for (int64_t position = scheduled.begin; position < end; ++position) {
    const bool is_last = scheduled.samples && position + 1 == end;
    const bool in_prompt = scheduled.wants_prompt_logits && position < scheduled.num_prompt_tokens;
    const size_t token_idx = written.num_tokens++;
    if (is_last || in_prompt) {
      batch.logit_rows[written.num_rows++] = static_cast<int32_t>(token_idx);
    }
    const int64_t block = sequence.blocks.blocks[static_cast<size_t>(block_idx)];
    batch.token_ids[token_idx] = sequence.token_ids[static_cast<size_t>(position)];
    batch.positions[token_idx] = static_cast<int32_t>(position);
    batch.slot_mapping[token_idx] = block * block_size + offset;
    if (++offset == block_size) {
      offset = 0;
      ++block_idx;
    }
  }
  batch.seq_lens[written.num_seqs++] = static_cast<int32_t>(end);
  batch.cu_seqlens_q[written.num_seqs] = static_cast<int32_t>(written.num_tokens);
}

// Rows as wide as the longest, the others filled with zeros.
void write_block_table(const SchedulerOutput& output, ForwardBatch& batch) {
  size_t stride = 0;
  for (const ScheduledSequence& scheduled : output.scheduled) {
    stride = std::max(stride, scheduled.sequence->blocks.blocks.size());
  }
  batch.block_table_stride = static_cast<int64_t>(stride);
  batch.block_table.resize(output.scheduled.size() * stride);
  int32_t* row = batch.block_table.data();
  for (const ScheduledSequence& scheduled : output.scheduled) {
    const std::vector<int32_t>& blocks = scheduled.sequence->blocks.blocks;
    std::copy(blocks.begin(), blocks.end(), row);
    std::fill(row + blocks.size(), row + stride, 0);
    row += stride;
  }
}

template <typename T>
void move_range(std::vector<T>& values, int64_t from, int64_t to, int64_t count) {
  std::copy_n(values.begin() + from, count, values.begin() + to);
}

}  // namespace

void build_batch(const SchedulerOutput& output, int32_t block_size, ForwardBatch& batch) {
  const auto num_tokens = static_cast<size_t>(output.num_tokens);
  batch.token_ids.resize(num_tokens);
  batch.positions.resize(num_tokens);
  batch.slot_mapping.resize(num_tokens);
  batch.logit_rows.resize(static_cast<size_t>(output.num_logit_rows));
  batch.seq_lens.resize(output.scheduled.size());
  batch.cu_seqlens_q.resize(output.scheduled.size() + 1);
  batch.cu_seqlens_q[0] = 0;
  Written written;
  for (const ScheduledSequence& scheduled : output.scheduled) {
    SLIPSTREAM_CHECK(written.num_tokens + static_cast<size_t>(scheduled.num_tokens) <= num_tokens,
                     "the plan counts its tokens");
    SLIPSTREAM_CHECK(
        written.num_rows + static_cast<size_t>(scheduled.num_logit_rows) <= batch.logit_rows.size(),
        "the plan counts its rows");
    write_tokens(scheduled, block_size, batch, written);
  }
  SLIPSTREAM_CHECK(written.num_tokens == num_tokens, "the plan counts its tokens");
  SLIPSTREAM_CHECK(written.num_rows == batch.logit_rows.size(), "the plan counts its rows");
  write_block_table(output, batch);
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

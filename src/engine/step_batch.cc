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
    const bool is_last = position + 1 == sequence.num_tokens();
    const bool in_prompt = sequence.wants_prompt_logits && position < sequence.num_prompt_tokens;
    if (is_last || in_prompt) batch.logit_rows.push_back(static_cast<int32_t>(batch.num_tokens()));
    batch.token_ids.push_back(sequence.token_ids[index]);
    batch.positions.push_back(static_cast<int32_t>(position));
    batch.slot_mapping.push_back(block * block_size + position % block_size);
  }
  batch.cu_seqlens_q.push_back(static_cast<int32_t>(batch.num_tokens()));
  batch.seq_lens.push_back(static_cast<int32_t>(end));
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

}  // namespace slipstream

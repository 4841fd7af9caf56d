// Drawing on the device: rows go there, tokens and log-probabilities come back, both through pinned
// memory, so that nobody waits before the results are asked for.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "ops/cuda/device_state.h"
#include "ops/cuda/logprobs.h"
#include "ops/cuda/sample.h"
#include "ops/cuda/sample_state.h"

namespace slipstream::cuda {
namespace {

constexpr size_t kLeastFillBytes = 2 << 20;  // a step of new requests, as a rule
constexpr int64_t kMostKeptRows = 64;

size_t fill_bytes(const SampleState& state) {
  const size_t num_ids = state.prompt_ids.size() + state.answer_ids.size() + state.biases.size() +
                         state.early_ids.size();
  return align(num_ids * sizeof(int32_t)) + align(state.biases.size() * sizeof(float));
}

Status open_states(DeviceState& state) {
  const OpLimits& limits = state.limits;
  if (limits.max_sample_states == 0) return {};
  const auto num_states = static_cast<size_t>(limits.max_sample_states);
  SampleStateMemory& memory = state.sample_states;
  const int64_t stride = (limits.vocab_size + kCountsPerVec - 1) / kCountsPerVec * kCountsPerVec;
  memory.counts =
      Buffer(num_states * static_cast<size_t>(stride) * sizeof(uint16_t), device_memory());
  memory.lists = Buffer(num_states * sizeof(SampleLists), device_memory());
  memory.states = {memory.counts.as<uint16_t>(), memory.lists.as<SampleLists>(), stride};
  memory.num_kept = std::min(limits.max_sample_states, kMostKeptRows);
  memory.kept = Buffer(static_cast<size_t>(memory.num_kept * limits.vocab_size) * sizeof(float),
                       device_memory());
  // The largest state fits, and what it is described by.
  const size_t most_ids =
      static_cast<size_t>(limits.max_context) + 2 * kMostStateBiases + kMostStateEarlyIds;
  memory.staging_bytes = std::max(kLeastFillBytes, align(most_ids * sizeof(int32_t)) + 1024);
  for (FillStaging& staging : memory.stagings) {
    SLIPSTREAM_RETURN_IF_ERROR(staging.host.allocate(memory.staging_bytes));
    check(cudaEventCreateWithFlags(&staging.read, cudaEventDisableTiming), "event");
  }
  return {};
}

// Launches what has been staged, and takes the other staging once the device has read it.
void launch_fills(DeviceState& state) {
  SampleStateMemory& memory = state.sample_states;
  FillStaging& staging = memory.stagings[memory.staging];
  if (staging.fills.empty()) return;
  const size_t bytes = staging.fills.size() * sizeof(SampleStateFill);
  auto* const fills =
      reinterpret_cast<SampleStateFill*>(staging.host.as<std::byte>() + staging.used);
  std::memcpy(fills, staging.fills.data(), bytes);
  check(fill_states(fills, static_cast<int>(staging.fills.size()), memory.states, state.stream),
        "fill of sampling states");
  staging.used += align(bytes);
  staging.fills.clear();
  check(cudaEventRecord(staging.read, state.stream), "fill of sampling states");
}

void next_fill_staging(DeviceState& state) {
  SampleStateMemory& memory = state.sample_states;
  memory.staging = (memory.staging + 1) % memory.stagings.size();
  FillStaging& staging = memory.stagings[memory.staging];
  check(cudaEventSynchronize(staging.read), "fill of sampling states");
  staging.used = 0;
}

// Fills state.row_groups, and sets the rows' kept_row.
void group_rows(DeviceState& state, std::span<SampleRow> rows) {
  std::vector<RowGroup>& groups = state.row_groups;
  groups.assign(1, {});
  int32_t num_kept = 0;
  for (SampleRow& row : rows) {
    SLIPSTREAM_CHECK(row.state < state.limits.max_sample_states, "the row's state is there");
    SLIPSTREAM_CHECK(row.num_logprobs <= kMostLogprobs, "so many log-probabilities have room");
    const bool keeps = row.state >= 0 && row.num_logprobs >= 0;
    if (keeps && num_kept == state.sample_states.num_kept) {
      groups.push_back({.begin = groups.back().end, .end = groups.back().end});
      num_kept = 0;
    }
    row.kept_row = keeps ? num_kept++ : -1;
    RowGroup& group = groups.back();
    ++group.end;
    group.has_states = group.has_states || row.state >= 0;
    group.has_logprobs = group.has_logprobs || row.num_logprobs >= 0;
  }
}

void launch_group(DeviceState& state, TensorView logits, const SampleSlot& slot,
                  const RowGroup& group) {
  const SampleStateMemory& memory = state.sample_states;
  auto* const x = static_cast<float*>(logits.data);
  const int64_t vocab_size = logits.dim(1);
  const SampleRow* const rows = slot.rows.as<SampleRow>() + group.begin;
  const auto num_rows = static_cast<int>(group.end - group.begin);
  int32_t* const ids = slot.ids.as<int32_t>() + group.begin;
  auto* const kept = memory.kept.as<float>();
  if (group.has_states) {
    SLIPSTREAM_CHECK(vocab_size == state.limits.vocab_size, "states count this vocabulary");
    check(apply_states(x, vocab_size, rows, num_rows, memory.states, kept, state.stream), "sample");
  }
  check(sample(x, vocab_size, rows, num_rows, memory.states, ids, state.stream), "sample");
  if (!group.has_logprobs) return;
  check(logprobs(x, vocab_size, rows, num_rows, kept, ids,
                 slot.logprobs.as<SampledLogprobs>() + group.begin, state.stream),
        "log-probabilities");
}

}  // namespace

Status open_sampling(DeviceState& state) {
  const auto tokens = static_cast<size_t>(state.limits.max_tokens);
  for (SampleSlot& slot : state.samples) {
    SLIPSTREAM_RETURN_IF_ERROR(slot.host_rows.allocate(tokens * sizeof(SampleRow)));
    SLIPSTREAM_RETURN_IF_ERROR(slot.host_ids.allocate(tokens * sizeof(int32_t)));
    SLIPSTREAM_RETURN_IF_ERROR(slot.host_logprobs.allocate(tokens * sizeof(SampledLogprobs)));
    slot.rows = Buffer(tokens * sizeof(SampleRow), device_memory());
    slot.ids = Buffer(tokens * sizeof(int32_t), device_memory());
    slot.logprobs = Buffer(tokens * sizeof(SampledLogprobs), device_memory());
    check(cudaEventCreate(&slot.done), "event");
  }
  return open_states(state);
}

void set_sample_state(OpContext& ctx, int32_t idx, const SampleState& sample_state) {
  DeviceState& state = state_of(ctx);
  SampleStateMemory& memory = state.sample_states;
  SLIPSTREAM_CHECK(idx >= 0 && idx < state.limits.max_sample_states, "the state is there");
  SLIPSTREAM_CHECK(sample_state.biases.size() <= kMostStateBiases &&
                       sample_state.early_ids.size() <= kMostStateEarlyIds,
                   "the lists have room");
  const size_t bytes = fill_bytes(sample_state);
  const FillStaging& last = memory.stagings[memory.staging];
  const size_t fills_bytes = align((last.fills.size() + 1) * sizeof(SampleStateFill));
  if (last.used + bytes + fills_bytes > memory.staging_bytes) {
    launch_fills(state);
    next_fill_staging(state);
  }
  FillStaging& staging = memory.stagings[memory.staging];
  SLIPSTREAM_CHECK(staging.used + bytes <= memory.staging_bytes, "a state fits its staging memory");
  std::byte* const host = staging.host.as<std::byte>() + staging.used;
  auto* const ids = reinterpret_cast<int32_t*>(host);
  auto* const biases =
      reinterpret_cast<float*>(host + bytes - align(sample_state.biases.size() * sizeof(float)));
  int32_t* next = std::copy(sample_state.prompt_ids.begin(), sample_state.prompt_ids.end(), ids);
  next = std::copy(sample_state.answer_ids.begin(), sample_state.answer_ids.end(), next);
  for (size_t i = 0; i < sample_state.biases.size(); ++i) {
    *next++ = sample_state.biases[i].first;
    biases[i] = sample_state.biases[i].second;
  }
  std::copy(sample_state.early_ids.begin(), sample_state.early_ids.end(), next);
  staging.fills.push_back({.state = idx,
                           .num_prompt_ids = static_cast<int32_t>(sample_state.prompt_ids.size()),
                           .num_answer_ids = static_cast<int32_t>(sample_state.answer_ids.size()),
                           .num_biases = static_cast<int32_t>(sample_state.biases.size()),
                           .num_early_ids = static_cast<int32_t>(sample_state.early_ids.size()),
                           .ids = ids,
                           .biases = biases});
  staging.used += bytes;
}

void sample(OpContext& ctx, TensorView logits, std::span<const SampleRow> rows, int slot) {
  DeviceState& state = state_of(ctx);
  SLIPSTREAM_CHECK(std::ssize(rows) <= state.limits.max_tokens, "a row a token at most");
  SampleSlot& drawn = state.samples[static_cast<size_t>(slot)];
  check(cudaEventSynchronize(drawn.done), "previous draw");  // it still reads host_rows
  drawn.num_rows = std::ssize(rows);
  launch_fills(state);
  if (!rows.empty()) {
    const std::span<SampleRow> host_rows(drawn.host_rows.as<SampleRow>(), rows.size());
    std::copy(rows.begin(), rows.end(), host_rows.begin());
    group_rows(state, host_rows);
    check(cudaMemcpyAsync(drawn.rows.data(), host_rows.data(), host_rows.size_bytes(),
                          cudaMemcpyHostToDevice, state.stream),
          "sample");
    bool has_logprobs = false;
    for (const RowGroup& group : state.row_groups) {
      launch_group(state, logits, drawn, group);
      has_logprobs = has_logprobs || group.has_logprobs;
    }
    check(cudaMemcpyAsync(drawn.host_ids.as<void>(), drawn.ids.data(),
                          rows.size() * sizeof(int32_t), cudaMemcpyDeviceToHost, state.stream),
          "sample");
    if (has_logprobs) {
      check(cudaMemcpyAsync(drawn.host_logprobs.as<void>(), drawn.logprobs.data(),
                            rows.size() * sizeof(SampledLogprobs), cudaMemcpyDeviceToHost,
                            state.stream),
            "log-probabilities");
    }
  }
  check(cudaEventRecord(drawn.done, state.stream), "sample");
  const int staging = (state.next_staging + kNumSlots - 1) % kNumSlots;
  drawn.began = state.stagings[static_cast<size_t>(staging)].began;
  drawn.is_new = true;
}

std::span<const int32_t> sampled(OpContext& ctx, int slot) {
  DeviceState& state = state_of(ctx);
  SampleSlot& drawn = state.samples[static_cast<size_t>(slot)];
  check(cudaEventSynchronize(drawn.done), "step");
  if (std::exchange(drawn.is_new, false)) {
    float ms = 0.0f;
    check(cudaEventElapsedTime(&ms, drawn.began, drawn.done), "step");
    state.busy_ms += static_cast<double>(ms);
  }
  return {drawn.host_ids.as<const int32_t>(), static_cast<size_t>(drawn.num_rows)};
}

std::span<const SampledLogprobs> sampled_logprobs(OpContext& ctx, int slot) {
  const SampleSlot& drawn = state_of(ctx).samples[static_cast<size_t>(slot)];
  return {drawn.host_logprobs.as<const SampledLogprobs>(), static_cast<size_t>(drawn.num_rows)};
}

int64_t busy_ns(const OpContext& ctx) { return static_cast<int64_t>(state_of(ctx).busy_ms * 1e6); }

}  // namespace slipstream::cuda

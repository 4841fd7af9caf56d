#include "ops/cuda/nvtx_ops.h"

#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "base/strings.h"
#include "ops/cuda/device_state.h"

namespace slipstream::cuda {
namespace {

struct Front {
  const Ops* inner = nullptr;
  nvtxDomainHandle_t domain = nullptr;
  Ops table;
};

// Entries of a table are plain functions, so what they share is found from here.
Front& front() {
  static Front the_front;
  return the_front;
}

void push(const char* name) {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  nvtxDomainRangePushEx(front().domain, &attributes);
}

void pop() { nvtxDomainRangePop(front().domain); }

class Range {
 public:
  explicit Range(const char* name) { push(name); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  ~Range() { pop(); }
};

// A string literal as a template's argument.
template <size_t kSize>
struct Name {
  consteval Name(const char (&literal)[kSize]) {  // NOLINT: implicit by design
    std::copy_n(literal, kSize, text);
  }
  char text[kSize];
};

// The entry that calls the inner table's within a range.
template <auto kEntry, Name kName>
struct Ranged;
template <typename Return, typename... Args, Return (*Ops::*kEntry)(OpContext&, Args...),
          Name kName>
struct Ranged<kEntry, kName> {
  static Return call(OpContext& ctx, Args... args) {
    const Range range(kName.text);
    return (front().inner->*kEntry)(ctx, args...);
  }
};

template <auto kEntry, Name kName>
void set(Ops& table) {
  if (table.*kEntry != nullptr) table.*kEntry = Ranged<kEntry, kName>::call;
}

void end_step(DeviceState& state) {
  if (std::exchange(state.in_nvtx_step, false)) pop();
}

BatchView begin_step(OpContext& ctx, const ForwardBatch& batch, BatchFill fill) {
  DeviceState& state = state_of(ctx);
  end_step(state);
  push(str("step of ", batch.num_tokens(), " tokens, ", batch.num_seqs(), " sequences").c_str());
  state.in_nvtx_step = true;
  return front().inner->begin_step(ctx, batch, fill);
}

void sample(OpContext& ctx, TensorView logits, std::span<const SampleRow> rows, int slot) {
  {
    const Range range("sample");
    front().inner->sample(ctx, logits, rows, slot);
  }
  end_step(state_of(ctx));
}

// Named as in the tables of ops/op_profile.h.
void linear(OpContext& ctx, const Activations& x, std::span<const LinearPart> parts) {
  int64_t rows = 0;
  for (const LinearPart& part : parts) rows += part.weight->rows;
  const Range range(str("linear ", rows, "x", parts.front().weight->cols).c_str());
  front().inner->linear(ctx, x, parts);
}

Ops make_table(const Ops& inner) {
  Ops table = inner;
  table.begin_step = begin_step;
  table.linear = linear;
  if (inner.sample != nullptr) table.sample = sample;
  set<&Ops::embed, "embed">(table);
  set<&Ops::rms_norm, "rms_norm">(table);
  set<&Ops::add_rms_norm, "add_rms_norm">(table);
  set<&Ops::head_rms_norm, "head_rms_norm">(table);
  set<&Ops::to_activations, "to_activations">(table);
  set<&Ops::rope_table, "rope_table">(table);
  set<&Ops::rope, "rope">(table);
  set<&Ops::kv_append, "kv_append">(table);
  set<&Ops::norm_rope_append, "norm_rope_append">(table);
  set<&Ops::attention, "attention">(table);
  set<&Ops::silu_mul, "silu_mul">(table);
  set<&Ops::add, "add">(table);
  set<&Ops::gather_rows, "gather_rows">(table);
  set<&Ops::replay, "replay">(table);
  set<&Ops::sampled, "wait for tokens">(table);
  set<&Ops::measure_read_gb_s, "measure_read_gb_s">(table);
  set<&Ops::measure_limits, "measure_limits">(table);
  return table;
}

}  // namespace

const Ops& with_nvtx_ranges(const Ops& inner) {
  // Loads the library of the profiler that has started this process, if one has.
  static const bool listens = [&inner] {
    front().inner = &inner;
    front().domain = nvtxDomainCreateA("slipstream");
    if (front().domain == nullptr) return false;
    front().table = make_table(inner);
    return true;
  }();
  return listens ? front().table : inner;
}

}  // namespace slipstream::cuda

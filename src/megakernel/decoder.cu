#include "megakernel/decoder.h"

#include <cuda_runtime.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/strings.h"
#include "megakernel/pack.h"
#include "megakernel/program_check.h"
#include "ops/cuda/device_state.h"

namespace slipstream {
namespace {

using cuda::check;

// Slots asked for and not landed: a little more than what bandwidth times latency asks for,
// measured.
constexpr int kMostInFlight = 2;
// From look to look into the ring of tokens; and how much later than asked for Linux may end the
// sleep between them, which else is 50 us.
constexpr std::chrono::microseconds kLookInterval(20);
constexpr unsigned long kTimerSlackNs = 1000;

StreamFormat stream_format(DType dtype) {
  return dtype == DType::kF8E4M3 ? StreamFormat::kF8E4M3
         : dtype == DType::kI4   ? StreamFormat::kI4
                                 : StreamFormat::kBF16;
}

PackedRows rows_of(const Weight& weight, const FloatVector* bias) {
  return {.values = weight.payload,
          .scales = weight.row_scales,
          .group_scales = weight.group_scales,
          .bias = bias == nullptr ? nullptr : bias->data_or_null()};
}

}  // namespace

struct PersistentDecoder::State {
  explicit State(const DecodeModel& of, const DecodeProgram& the_program)
      : model(of), program(the_program) {}

  DecodeModel model;
  DecodeProgram program;
  const DecodeKernel* kernel = nullptr;
  int64_t shared_bytes = 0;
  DecodeArgs args;
  Buffer streams, row_table, norms, qk_norms, kv_layers, block_table, positions, cos_sin, words,
      abort_word, stamps;
  cuda::PinnedBuffer ring, stop, tables;
  size_t words_bytes = 0;
  cudaStream_t stream = nullptr;
  cudaStream_t side_stream = nullptr;  // for what must reach a kernel that runs
  cudaEvent_t done = nullptr;
  std::vector<int32_t> tokens;  // of the launch
  bool has_ended = true;
  bool aborted = false;

  ~State() {
    if (stream != nullptr) (void)cudaStreamSynchronize(stream);
    if (side_stream != nullptr) (void)cudaStreamDestroy(side_stream);
    if (done != nullptr) (void)cudaEventDestroy(done);
  }

  std::atomic_ref<uint64_t> ring_word(size_t i) const {
    return std::atomic_ref(ring.as<uint64_t>()[i]);
  }
  std::atomic_ref<uint32_t> stop_word() const { return std::atomic_ref(*stop.as<uint32_t>()); }

  Status open(int64_t max_context);
  void pack_layers();
  void take_words();
  void copy_norms();
};

Result<DecodeProgram> PersistentDecoder::plan(const DecoderSpec& spec,
                                              const DecoderWeights& weights, const KVGroupSpec& kv,
                                              const Ops& ops) {
  if (on_host(ops)) return bad_usage("it runs on GPUs only");
  if (kv.dtype != DType::kBF16) {
    return bad_usage(str("the KV cache is ", dtype_name(kv.dtype), "; it knows bf16"));
  }
  if (kv.block_size != kBlockTokens) {
    return bad_usage(
        str("the KV cache has blocks of ", kv.block_size, " tokens, not ", kBlockTokens));
  }
  const DType dtype = weights.layers.front().q.dtype;
  for (const LayerWeights& layer : weights.layers) {
    for (const Weight* weight :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      if (weight->dtype != dtype) return bad_usage("its matrices are of different formats");
    }
  }
  if (dtype != DType::kBF16 && dtype != DType::kF8E4M3 && dtype != DType::kI4) {
    return bad_usage(
        str("its matrices are ", dtype_name(dtype), "; it knows bf16, fp8_e4m3 and int4"));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(
      DecodeProgram program,
      make_program(spec, stream_format(dtype), stream_format(weights.lm_head.dtype)));
  const DecodeKernel* const kernel = find_decode_kernel(program.key);
  if (kernel == nullptr) {
    return bad_usage(str("no kernel is compiled for ", program.heads_per_kv_head(), " heads of ",
                         program.head_dim, " a KV head in ", dtype_name(dtype)));
  }
  SLIPSTREAM_RETURN_IF_ERROR(check_program(program));
  const DeviceRoom room = device_room(*kernel);
  SLIPSTREAM_RETURN_IF_ERROR(
      check_fits(program, {.num_multiprocessors = room.num_multiprocessors,
                           .shared_bytes = room.shared_bytes,
                           .ring_offset = ring_offset(*kernel, program.products.data())}));
  return program;
}

Result<std::unique_ptr<PersistentDecoder>> PersistentDecoder::open(const DecodeModel& model,
                                                                   const DecodeProgram& program,
                                                                   int64_t max_context) try {
  auto state = std::make_unique<State>(model, program);
  SLIPSTREAM_RETURN_IF_ERROR(state->open(max_context));
  return std::unique_ptr<PersistentDecoder>(new PersistentDecoder(std::move(state)));
} catch (const std::bad_alloc&) {
  return does_not_fit(
      str("the persistent kernel's weights need ", program.streams_bytes(), " bytes more"));
}

PersistentDecoder::PersistentDecoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
PersistentDecoder::~PersistentDecoder() = default;

Status PersistentDecoder::State::open(int64_t max_context) {
  const DeviceMemory& memory = *model.ops.memory;
  kernel = find_decode_kernel(program.key);
  shared_bytes = device_room(*kernel).shared_bytes;
  stream = cuda::state_of(model.ctx).stream;
  check(cudaStreamCreateWithFlags(&side_stream, cudaStreamNonBlocking), "a stream");
  check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "an event");
  SLIPSTREAM_RETURN_IF_ERROR(ring.allocate(kMaxTokens * sizeof(uint64_t)));
  SLIPSTREAM_RETURN_IF_ERROR(stop.allocate(sizeof(uint32_t)));
  const auto most_blocks = static_cast<size_t>(max_context / kBlockTokens + 2);
  SLIPSTREAM_RETURN_IF_ERROR(tables.allocate((most_blocks + kMaxTokens) * sizeof(int32_t)));
  tokens.reserve(kMaxTokens);

  args.ring_offset = ring_offset(*kernel, program.products.data());
  const int64_t ring_bytes = shared_bytes - args.ring_offset;
  const int64_t slot_bytes = 2 * half_slot_bytes(program.key.layers);
  args.num_ring_slots =
      static_cast<int32_t>(std::min<int64_t>(kMaxRingSlots, ring_bytes / slot_bytes));
  args.most_in_flight = std::min(kMostInFlight, args.num_ring_slots);

  streams = Buffer(static_cast<size_t>(program.streams_bytes()), memory);
  block_table = Buffer(most_blocks * sizeof(int32_t), memory);
  positions = Buffer(kMaxTokens * sizeof(int32_t), memory);
  cos_sin = Buffer(static_cast<size_t>(kMaxTokens) * program.head_dim * sizeof(float), memory);
  abort_word = Buffer(sizeof(uint32_t), memory);
  abort_word.zero();
  std::copy(program.products.begin(), program.products.end(), args.products);
  args.num_layers = program.num_layers;
  args.hidden = program.hidden_size;
  args.vocab = program.vocab_size;
  args.num_heads = program.num_heads;
  args.num_kv_heads = program.num_kv_heads;
  args.heads_per_kv_head = program.heads_per_kv_head();
  args.log2_parts = program.log2_parts;
  args.attention_width = program.attention_width();
  args.attention_per_cta = program.attention_per_cta;
  args.norm_eps = model.spec.norm_eps;
  args.inverse_hidden = 1.0f / static_cast<float>(program.hidden_size);
  constexpr float kLog2E = 1.4426950408889634f;
  args.score_scale = model.spec.layers.front().attention.scale * kLog2E;
  args.streams = streams.as<std::byte>();
  args.stream_stride = program.stream_stride;
  args.embed = reinterpret_cast<const uint16_t*>(model.weights.embed.payload);
  args.block_table = block_table.as<int32_t>();
  args.cos_sin = cos_sin.as<float>();
  args.ring = ring.as<uint64_t>();
  args.stop = stop.as<uint32_t>();
  args.abort = abort_word.as<uint32_t>();
  stamps = Buffer(sizeof(uint64_t) * kDecodeCtas * kMaxStamps, memory);
  args.stamps = stamps.as<uint64_t>();

  std::vector<uint64_t> pages;
  for (int layer = 0; layer < program.num_layers; ++layer) {
    const KVLayerView view = model.kv.layer(layer);
    pages.push_back(reinterpret_cast<uint64_t>(view.k));
    args.kv_v_offset = static_cast<uint16_t*>(view.v) - static_cast<uint16_t*>(view.k);
  }
  kv_layers = Buffer(pages.size() * sizeof(uint64_t), memory);
  memory.copy_in(kv_layers.data(), pages.data(), pages.size() * sizeof(uint64_t));
  args.kv_layers = kv_layers.as<uint16_t*>();
  copy_norms();
  take_words();
  pack_layers();
  return {};
}

void PersistentDecoder::State::copy_norms() {
  const DeviceMemory& memory = *model.ops.memory;
  const auto row_bytes = static_cast<size_t>(program.hidden_size) * sizeof(float);
  const auto head_bytes = static_cast<size_t>(program.head_dim) * sizeof(float);
  const auto num_layers = static_cast<size_t>(program.num_layers);
  norms = Buffer((2 * num_layers + 1) * row_bytes, memory);
  args.norms = norms.as<float>();
  const auto copy = [&](Buffer& to, size_t offset, const FloatVector& from, size_t bytes) {
    check(cudaMemcpyAsync(to.as<std::byte>() + offset, from.data(), bytes, cudaMemcpyDeviceToDevice,
                          stream),
          "copy of norms");
  };
  const bool has_qk_norms = model.spec.layers.front().attention.qk_norm;
  if (has_qk_norms) {
    qk_norms = Buffer(2 * num_layers * head_bytes, memory);
    args.qk_norms = qk_norms.as<float>();
  }
  for (size_t i = 0; i < num_layers; ++i) {
    const LayerWeights& layer = model.weights.layers[i];
    copy(norms, 2 * i * row_bytes, layer.attn_norm, row_bytes);
    copy(norms, (2 * i + 1) * row_bytes, layer.mlp_norm, row_bytes);
    if (!has_qk_norms) continue;
    copy(qk_norms, 2 * i * head_bytes, layer.q_norm, head_bytes);
    copy(qk_norms, (2 * i + 1) * head_bytes, layer.k_norm, head_bytes);
  }
  copy(norms, 2 * num_layers * row_bytes, model.weights.final_norm, row_bytes);
}

// The exchanged words, one buffer, so that one fill clears them.
void PersistentDecoder::State::take_words() {
  std::vector<std::pair<uint32_t**, size_t>> parts;
  const auto width = static_cast<size_t>(program.attention_width());
  const auto num_parts = size_t{1} << program.log2_parts;
  const auto num_heads = static_cast<size_t>(program.num_heads);
  const auto intermediate = static_cast<size_t>(program.products[kDown].num_cols);
  uint32_t* best = nullptr;
  parts.emplace_back(&best, 2 * 2 * kDecodeCtas);
  parts.emplace_back(&args.x_words, 2 * static_cast<size_t>(program.hidden_size));
  parts.emplace_back(&args.qkv_words, 2 * static_cast<size_t>(program.qkv_rows()));
  parts.emplace_back(&args.part_words, 2 * num_parts * width);
  parts.emplace_back(&args.part_stats, 2 * num_parts * num_heads * 2);
  parts.emplace_back(&args.attention_words, 2 * width);
  parts.emplace_back(&args.mlp_words, intermediate);
  for (const auto& [place, count] : parts) words_bytes += cuda::align(count * sizeof(uint32_t));
  words = Buffer(words_bytes, *model.ops.memory);
  auto* at = words.as<std::byte>();
  for (const auto& [place, count] : parts) {
    *place = reinterpret_cast<uint32_t*>(at);
    at += cuda::align(count * sizeof(uint32_t));
  }
  args.best_words = reinterpret_cast<uint64_t*>(best);
}

void PersistentDecoder::State::pack_layers() {
  const DecoderWeights& weights = model.weights;
  std::array<size_t, kNumProducts> offsets{};  // of rows
  size_t layer_rows = 0;
  for (size_t i = 0; i < kNumProducts; ++i) {
    const ProductPhase& phase = program.products[i];
    args.row_table_offset[i] = static_cast<int32_t>(layer_rows);
    offsets[i] = layer_rows;
    if (phase.has_table != 0) {
      layer_rows += static_cast<size_t>(phase.max_tiles) * kDecodeCtas * kTileRows;
    }
  }
  args.row_table_layer = static_cast<int32_t>(layer_rows);
  if (program.has_tables()) {
    const size_t rows = layer_rows * static_cast<size_t>(program.num_layers);
    row_table = Buffer(rows * 2 * sizeof(float), *model.ops.memory);
    args.row_table = row_table.as<float>();
  }
  const auto pack = [&](int layer, DecodeProduct product, PackedRows a, PackedRows b = {},
                        PackedRows c = {}) {
    PackProduct one{.products = program.products.data(),
                    .product = product,
                    .layer = layer,
                    .streams = streams.as<std::byte>(),
                    .stream_stride = program.stream_stride,
                    .parts = {a, b, c},
                    .num_rows = product == kHead ? program.vocab_size : program.hidden_size,
                    .heads_per_kv_head = program.heads_per_kv_head(),
                    .head_dim = program.head_dim};
    if (program.products[product].has_table != 0) {
      one.row_table =
          row_table.as<float>() + 2 * (static_cast<size_t>(layer) * layer_rows + offsets[product]);
    }
    const char* const error = pack_product(one, stream);
    SLIPSTREAM_CHECK(error == nullptr, str("packing for the persistent kernel: ", error));
  };
  for (int i = 0; i < program.num_layers; ++i) {
    const LayerWeights& layer = weights.layers[static_cast<size_t>(i)];
    pack(i, kQkv, rows_of(layer.q, &layer.q_bias), rows_of(layer.k, &layer.k_bias),
         rows_of(layer.v, &layer.v_bias));
    pack(i, kOut, rows_of(layer.o, &layer.o_bias));
    pack(i, kGateUp, rows_of(layer.gate, &layer.gate_bias), rows_of(layer.up, &layer.up_bias));
    pack(i, kDown, rows_of(layer.down, &layer.down_bias));
  }
  pack(program.num_layers, kHead, rows_of(weights.lm_head, nullptr));
  check(cudaStreamSynchronize(stream), "packing for the persistent kernel");
}

Status PersistentDecoder::start(const DecodeLaunch& launch) {
  State& state = *state_;
  SLIPSTREAM_CHECK(state.has_ended, "one launch at a time");
  (void)::prctl(PR_SET_TIMERSLACK, kTimerSlackNs);  // of this thread; a refusal costs only time
  SLIPSTREAM_CHECK(launch.max_tokens >= 1 && launch.max_tokens <= kMaxTokens, "tokens of a launch");
  SLIPSTREAM_CHECK(std::ssize(launch.end_ids) <= kMaxEndIds, "ids that end a launch");
  DecodeArgs& args = state.args;
  ++args.run;
  args.first_token = launch.token_id;
  args.first_position = static_cast<int32_t>(launch.position);
  args.max_tokens = launch.max_tokens;
  args.num_end_ids = static_cast<int32_t>(launch.end_ids.size());
  std::copy(launch.end_ids.begin(), launch.end_ids.end(), args.end_ids);
  args.temperature = launch.temperature;
  args.seed = launch.seed;
  args.choice_idx = launch.choice_idx;
  state.stop_word().store(0);
  state.tokens.clear();

  // The pinned tables are free: the launch before has ended, and copies come first in its stream.
  const size_t num_blocks =
      static_cast<size_t>(launch.position + launch.max_tokens - 1) / kBlockTokens + 1;
  SLIPSTREAM_CHECK(num_blocks <= launch.block_table.size(), "a block for every position");
  auto* const table = state.tables.as<int32_t>();
  std::copy_n(launch.block_table.begin(), num_blocks, table);
  int32_t* const positions = table + num_blocks;
  for (int32_t i = 0; i < launch.max_tokens; ++i) positions[i] = args.first_position + i;
  const auto tokens = static_cast<size_t>(launch.max_tokens);
  check(cudaMemcpyAsync(state.block_table.data(), table, num_blocks * sizeof(int32_t),
                        cudaMemcpyHostToDevice, state.stream),
        "copy of a block table");
  check(cudaMemcpyAsync(state.positions.data(), positions, tokens * sizeof(int32_t),
                        cudaMemcpyHostToDevice, state.stream),
        "copy of positions");
  if (state.aborted) {
    check(cudaMemsetAsync(state.abort_word.data(), 0, sizeof(uint32_t), state.stream), "a launch");
  }
  check(cudaMemsetAsync(state.words.data(), 0, state.words_bytes, state.stream), "exchanged words");
  const RopeConfig& rope = state.model.spec.rope;
  state.model.ops.rope_table(state.model.ctx, state.positions.as<int32_t>(),
                             {.rotary_dim = rope.rotary_dim,
                              .interleaved = rope.interleaved,
                              .inv_freq = state.model.rope.inv_freq.data(),
                              .attention_factor = state.model.rope.attention_factor},
                             TensorView::contiguous(state.cos_sin.data(), DType::kF32,
                                                    {launch.max_tokens, rope.rotary_dim}));
  const char* const error = launch_decode(*state.kernel, args, state.shared_bytes, state.stream);
  if (error != nullptr) return failed(str("the persistent kernel was not launched: ", error));
  check(cudaEventRecord(state.done, state.stream), "persistent kernel");
  state.has_ended = false;
  state.aborted = false;
  return {};
}

std::span<const int32_t> PersistentDecoder::wait(int64_t num_known, int64_t timeout_ns) {
  State& state = *state_;
  const auto began = std::chrono::steady_clock::now();
  const auto run = static_cast<uint64_t>(state.args.run);
  while (!state.has_ended) {
    const size_t next = state.tokens.size();
    const uint64_t word = next < kMaxTokens ? state.ring_word(next).load() : 0;
    if (word >> 32 == run && !state.aborted) {
      const auto low = static_cast<uint32_t>(word);
      const auto id = static_cast<int32_t>(low & ~kRingEnd);
      state.tokens.push_back(id < state.program.vocab_size ? id : kNoToken);
      if ((low & kRingEnd) != 0) {
        check(cudaEventSynchronize(state.done), "persistent kernel");
        state.has_ended = true;
      }
      continue;
    }
    if (std::ssize(state.tokens) > num_known) break;
    if (state.aborted && cudaEventQuery(state.done) == cudaSuccess) {
      state.has_ended = true;
      break;
    }
    if (std::chrono::steady_clock::now() - began >= std::chrono::nanoseconds(timeout_ns)) break;
    std::this_thread::sleep_for(kLookInterval);  // the kernel waits for nobody
  }
  return state.tokens;
}

bool PersistentDecoder::ended() const { return state_->has_ended; }

void PersistentDecoder::stop() { state_->stop_word().store(1); }

void PersistentDecoder::abort() {
  stop();
  check(cudaMemsetAsync(state_->abort_word.data(), 1, sizeof(uint32_t), state_->side_stream),
        "end of a persistent kernel");
  state_->aborted = true;
}

void PersistentDecoder::set_most_in_flight(int32_t slots) {
  state_->args.most_in_flight = std::clamp(slots, 1, state_->args.num_ring_slots);
}

void PersistentDecoder::withhold_token(int32_t token) { state_->args.withheld_token = token; }

int32_t PersistentDecoder::num_ring_slots() const { return state_->args.num_ring_slots; }

std::vector<DecodePhase> PersistentDecoder::phases() const {
  const State& state = *state_;
  if (!state.has_ended || std::ssize(state.tokens) <= kStampedToken) return {};
  const DecodeProgram& program = state.program;
  std::vector<uint64_t> stamps(size_t{kDecodeCtas} * kMaxStamps);
  state.model.ops.memory->copy_out(stamps.data(), state.stamps.data(),
                                   stamps.size() * sizeof(uint64_t));
  std::vector<DecodePhase> phases = {{.name = "qkv"},  {.name = "attention"},
                                     {.name = "o"},    {.name = "gate_up"},
                                     {.name = "down"}, {.name = "lm_head"}};
  enum Idx : size_t { kQkvIdx, kAttentionIdx, kOutIdx, kGateUpIdx, kDownIdx, kHeadIdx };
  for (int cta = 0; cta < kDecodeCtas; ++cta) {
    const uint64_t* const marks = stamps.data() + static_cast<size_t>(cta) * kMaxStamps;
    const int last = 2 + kLayerStamps * program.num_layers;
    const double us_per_clock = static_cast<double>(marks[kEndNsStamp] - marks[kBeginNsStamp]) /
                                static_cast<double>(marks[last] - marks[0]) / 1e3 / kDecodeCtas;
    const auto between = [&](int from, int to) {
      return static_cast<double>(marks[to] - marks[from]) * us_per_clock;
    };
    for (int layer = 0; layer < program.num_layers; ++layer) {
      const int begin = kLayerStamps * layer;  // the mark before the layer's first
      const int first = begin + 1;
      phases[kQkvIdx].wait_us += between(begin, first + kQkvFirst);
      phases[kQkvIdx].us += between(begin, first + kQkvDone);
      phases[kAttentionIdx].us += between(first + kQkvDone, first + kAttentionDone);
      phases[kOutIdx].us += between(first + kAttentionDone, first + kOutDone);
      phases[kGateUpIdx].wait_us += between(first + kOutDone, first + kGateUpFirst);
      phases[kGateUpIdx].us += between(first + kOutDone, first + kGateUpDone);
      phases[kDownIdx].us += between(first + kGateUpDone, first + kDownDone);
    }
    phases[kHeadIdx].wait_us += between(last - 2, last - 1);
    phases[kHeadIdx].us += between(last - 2, last);
    const auto bytes_of = [&](DecodeProduct product) {
      return product_bytes(program.products[product], cta) *
             (product == kHead ? 1 : program.num_layers);
    };
    phases[kQkvIdx].bytes += bytes_of(kQkv);
    phases[kOutIdx].bytes += bytes_of(kOut);
    phases[kGateUpIdx].bytes += bytes_of(kGateUp);
    phases[kDownIdx].bytes += bytes_of(kDown);
    phases[kHeadIdx].bytes += bytes_of(kHead);
  }
  const int64_t position = state.args.first_position + kStampedToken;
  phases[kAttentionIdx].bytes = position * 2 * program.num_kv_heads * program.head_dim *
                                int64_t{sizeof(uint16_t)} * program.num_layers;
  return phases;
}

}  // namespace slipstream

// Binds a checkpoint's tensors, or seeded random ones, to the spec and packs them for the ops.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/log.h"
#include "base/random.h"
#include "base/strings.h"
#include "loader/checkpoint.h"
#include "model/decoder.h"

namespace slipstream {
namespace {

// One axis of a tensor: its size in the whole model and the part that this device holds.
struct Axis {
  int64_t size = 0;
  IndexRange mine;
  bool is_split() const { return mine.count != size; }
};

Axis whole(int64_t size) { return {size, {0, size}}; }

struct MatrixSlot {
  std::string name;
  Axis rows, cols;
  Weight* weight = nullptr;
  WeightRole role = WeightRole::kLinear;
  const Weight* first_of_input = nullptr;  // of the matrices that read the same input
  bool is_repeated = false;  // the part of a tied embedding that is a device's LM head
};

struct VectorSlot {
  std::string name;
  Axis size;
  FloatVector* values = nullptr;
};

struct Slots {
  std::vector<MatrixSlot> matrices;
  std::vector<VectorSlot> vectors;

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const MatrixSlot& slot : matrices) all.push_back(slot.name);
    for (const VectorSlot& slot : vectors) all.push_back(slot.name);
    return all;
  }
};

std::string layer_name(const std::string& pattern, int layer_idx) {
  const size_t mark = pattern.find("%d");
  SLIPSTREAM_CHECK(mark != std::string::npos, "a layer's name holds its index");
  return pattern.substr(0, mark) + str(layer_idx) + pattern.substr(mark + 2);
}

// Appends one layer's slots; only this function knows which tensors a LayerSpec has.
void add_layer_slots(const DecoderSpec& spec, const WeightNames& names, int layer_idx,
                     TpShard shard, LayerWeights& layer, Slots& slots) {
  const AttentionSpec& attention = spec.layers[static_cast<size_t>(layer_idx)].attention;
  const MlpSpec& mlp = spec.layers[static_cast<size_t>(layer_idx)].mlp;
  const int64_t head_dim = attention.head_dim;
  const auto of_heads = [head_dim](int64_t num_heads, IndexRange heads) {
    return Axis{num_heads * head_dim, {heads.begin * head_dim, heads.count * head_dim}};
  };
  const Axis hidden = whole(spec.hidden_size);
  const Axis q_width = of_heads(attention.num_heads, head_range(attention, shard));
  const Axis kv_width = of_heads(attention.num_kv_heads, kv_head_range(attention, shard));
  const Axis intermediate = {mlp.intermediate_size, mlp_range(mlp, shard)};
  // The bias of an output whose terms are summed over devices.
  const Axis bias_of_sum = shard.rank == 0 ? hidden : Axis{spec.hidden_size, {}};
  const auto matrix = [&](const std::string& name, Axis rows, Axis cols, Weight& weight,
                          const Weight& first_of_input) {
    slots.matrices.push_back(
        {layer_name(name, layer_idx), rows, cols, &weight, WeightRole::kLinear, &first_of_input});
  };
  const auto vector = [&](const std::string& name, Axis size, FloatVector& values) {
    slots.vectors.push_back({layer_name(name, layer_idx), size, &values});
  };
  vector(names.attn_norm, hidden, layer.attn_norm);
  matrix(names.q, q_width, hidden, layer.q, layer.q);
  matrix(names.k, kv_width, hidden, layer.k, layer.q);
  matrix(names.v, kv_width, hidden, layer.v, layer.q);
  matrix(names.o, hidden, q_width, layer.o, layer.o);
  if (attention.qkv_bias) {
    vector(names.q_bias, q_width, layer.q_bias);
    vector(names.k_bias, kv_width, layer.k_bias);
    vector(names.v_bias, kv_width, layer.v_bias);
  }
  if (attention.out_bias) vector(names.o_bias, bias_of_sum, layer.o_bias);
  if (attention.qk_norm) {
    vector(names.q_norm, whole(head_dim), layer.q_norm);
    vector(names.k_norm, whole(head_dim), layer.k_norm);
  }
  vector(names.mlp_norm, hidden, layer.mlp_norm);
  matrix(names.gate, intermediate, hidden, layer.gate, layer.gate);
  matrix(names.up, intermediate, hidden, layer.up, layer.gate);
  matrix(names.down, hidden, intermediate, layer.down, layer.down);
  if (mlp.bias) {
    vector(names.gate_bias, intermediate, layer.gate_bias);
    vector(names.up_bias, intermediate, layer.up_bias);
    vector(names.down_bias, bias_of_sum, layer.down_bias);
  }
}

// Pointers into `weights`, which must stay where it is. A tied LM head has no slot where it is the
// whole embedding.
Slots make_slots(const DecoderSpec& spec, const WeightNames& names, TpShard shard,
                 DecoderWeights& weights) {
  Slots slots;
  weights.layers.resize(spec.layers.size());
  const Axis hidden = whole(spec.hidden_size);
  slots.matrices.push_back(
      {names.embed, whole(spec.vocab_size), hidden, &weights.embed, WeightRole::kVocabulary});
  for (int layer_idx = 0; layer_idx < static_cast<int>(spec.layers.size()); ++layer_idx) {
    add_layer_slots(spec, names, layer_idx, shard, weights.layers[static_cast<size_t>(layer_idx)],
                    slots);
  }
  slots.vectors.push_back({names.final_norm, hidden, &weights.final_norm});
  const Axis vocab = {spec.vocab_size, vocab_range(spec.vocab_size, shard)};
  if (!spec.tied_embeddings) {
    slots.matrices.push_back(
        {names.lm_head, vocab, hidden, &weights.lm_head, WeightRole::kVocabulary});
  } else if (vocab.is_split()) {
    slots.matrices.push_back(
        {names.embed, vocab, hidden, &weights.lm_head, WeightRole::kVocabulary, nullptr, true});
  }
  return slots;
}

// Where matrices keep the dtypes of the files: an input is written in one form, so a matrix that is
// not E4M3 there takes those that share its input with it.
void keep_stored_dtypes(const Checkpoint& checkpoint, Slots& slots) {
  std::set<const Weight*> unquantized;
  for (const MatrixSlot& slot : slots.matrices) {
    const bool is_e4m3 = checkpoint.find(slot.name)->format == &quant_format(QuantType::kE4M3);
    if (!is_e4m3) unquantized.insert(slot.first_of_input);
  }
  for (MatrixSlot& slot : slots.matrices) {
    if (slot.role == WeightRole::kLinear && unquantized.contains(slot.first_of_input)) {
      slot.role = WeightRole::kUnquantizedLinear;
    }
  }
}

// Columns are dealt out in whole blocks of the format: a block's values share a scale.
Status check_columns(const MatrixSlot& slot, QuantType type) {
  if (type == QuantType::kE4M3 && (slot.rows.is_split() || slot.cols.is_split())) {
    return invalid_model(str(quote(slot.name), ": FP8 matrices with scales are not split over ",
                             "devices: take one device or a checkpoint in bf16"));
  }
  const QuantFormat& format = quant_format(type);
  const IndexRange mine = slot.cols.mine;
  if (!slot.cols.is_split() ||
      (mine.begin % format.block_elements == 0 && mine.count % format.block_elements == 0)) {
    return {};
  }
  return invalid_model(str(quote(slot.name), ": the ", slot.cols.size, " columns are ", format.name,
                           " in blocks of ", format.block_elements,
                           ", and a device's share would be ", mine.count,
                           ": take fewer devices or a format of smaller blocks"));
}

// Every missing, mis-shaped or indivisible tensor, before anything is packed.
Status check_shapes(const Checkpoint& checkpoint, const Slots& slots) {
  SLIPSTREAM_RETURN_IF_ERROR(checkpoint.require(slots.names()));
  constexpr size_t kMaxListed = 8;
  std::vector<std::string> problems;
  for (const MatrixSlot& slot : slots.matrices) {
    const auto matrix = checkpoint.matrix(slot.name, slot.rows.size, slot.cols.size);
    const Status status = matrix.ok() ? check_columns(slot, matrix->type) : matrix.status();
    if (!status.ok()) problems.push_back(status.message());
  }
  if (problems.empty()) return {};
  std::string text;
  for (size_t i = 0; i < std::min(problems.size(), kMaxListed); ++i) {
    text.append(i > 0 ? "; " : "").append(problems[i]);
  }
  if (problems.size() > kMaxListed) text += str("; and ", problems.size() - kMaxListed, " more");
  return invalid_model(text);
}

// Activations are quantised by what they are, and K and V have no scales.
bool is_ignored_scale(const std::string& name) {
  for (const char* ending : {".input_scale", ".input_scale_ub", ".activation_scale",
                             ".output_scale", ".q_scale", ".k_scale", ".v_scale"}) {
    if (ends_with(name, ending)) return true;
  }
  return false;
}

// Tensors that nothing uses are harmless but worth a word: a family may be misread.
void warn_about_unused(const Checkpoint& checkpoint, const Slots& slots, const WeightNames& names) {
  const std::vector<std::string> used_names = slots.names();
  std::set<std::string> used(used_names.begin(), used_names.end());
  used.insert(names.lm_head);        // a tied head may be stored as well
  used.insert("rope_freqs.weight");  // read with the configuration
  std::vector<std::string> unused = checkpoint.unused(used);
  // Old files store RoPE's frequencies, which follow from the configuration.
  std::erase_if(unused,
                [](const std::string& name) { return ends_with(name, ".rotary_emb.inv_freq"); });
  const auto num_scales = std::erase_if(unused, is_ignored_scale);
  if (num_scales > 0) {
    log_info("load", "ignored_scales=", num_scales,
             " of=activations,kv reason='activations are quantised per token, K and V unscaled'");
  }
  if (unused.empty()) return;
  constexpr size_t kMaxListed = 4;
  std::string listed;
  for (size_t i = 0; i < std::min(unused.size(), kMaxListed); ++i) {
    listed.append(i > 0 ? "," : "").append(quote(unused[i]));
  }
  log_warn("load", "unused_tensors=", unused.size(), " first=", listed);
}

// The figures that describe the whole once all slots are filled.
void summarize(const Slots& slots, DecoderWeights& weights) {
  const bool shares_embedding = weights.lm_head.empty();
  if (shares_embedding) weights.lm_head = weights.embed;
  std::map<QuantType, int64_t> bytes_by_type;
  for (const MatrixSlot& slot : slots.matrices) {
    if (!slot.is_repeated) weights.num_parameters += slot.rows.size * slot.cols.size;
    bytes_by_type[slot.weight->type] += slot.weight->streamed_bytes();
    weights.bytes_per_token += slot.weight->streamed_bytes();
  }
  for (const VectorSlot& slot : slots.vectors) {
    weights.num_parameters += slot.size.size;
    weights.bytes_per_token += slot.size.mine.count * static_cast<int64_t>(sizeof(float));
  }
  // Of an embedding that is not also the LM head, a token reads one row.
  if (!shares_embedding) {
    weights.bytes_per_token -= weights.embed.payload_bytes;
    weights.bytes_per_token += weights.embed.payload_bytes / weights.embed.rows;
  }
  const auto most =
      std::max_element(bytes_by_type.begin(), bytes_by_type.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  weights.format = quant_format(most->first).name;
}

// See RandomMatrix.
Buffer random_values(const RandomMatrix& matrix, const QuantFormat& format, ThreadPool& pool) {
  const int64_t num_blocks = matrix.cols / format.block_elements;
  const int64_t row_bytes = num_blocks * format.block_bytes;
  const float limit = matrix.limit();
  const auto first_col = static_cast<uint64_t>(matrix.first_col);
  Buffer buffer(static_cast<size_t>(matrix.rows * row_bytes));
  pool.run(matrix.rows, [&](int64_t row, int) {
    SplitMix64 random(SplitMix64(matrix.seed + static_cast<uint64_t>(row)).next());
    random.skip(first_col);
    std::vector<float> values(static_cast<size_t>(format.block_elements));
    std::byte* block = buffer.as<std::byte>() + row * row_bytes;
    for (int64_t i = 0; i < num_blocks; ++i, block += format.block_bytes) {
      for (float& value : values) value = random.symmetric() * limit;
      format.quantize_block(values.data(), block);
    }
  });
  return buffer;
}

Result<Weight> random_weight(const MatrixSlot& slot, uint64_t seed, const QuantFormat& wanted,
                             const PackTarget& target) {
  const RandomMatrix matrix{.rows = slot.rows.mine.count,
                            .cols = slot.cols.mine.count,
                            .seed = seed + static_cast<uint64_t>(slot.rows.mine.begin),
                            .first_col = slot.cols.mine.begin,
                            .whole_cols = slot.cols.size};
  const Ops& ops = target.ops;
  if (ops.pack_random != nullptr && wanted.type == QuantType::kBF16) {
    return ops.pack_random(target.ctx, matrix, slot.role);
  }
  // As GGUF files do, F16 where a row is no whole number of blocks.
  const bool fits = slot.cols.size % wanted.block_elements == 0;
  const QuantFormat& format = fits ? wanted : quant_format(QuantType::kF16);
  SLIPSTREAM_RETURN_IF_ERROR(check_columns(slot, format.type));
  const Buffer values = random_values(matrix, format, *target.ctx.pool);
  return ops.pack(target.ctx, {values.as<std::byte>(), format.type, matrix.rows, matrix.cols},
                  slot.role);
}

// The slot's part of a matrix: rows where they lie, columns copied together into `copy`.
SourceMatrix part_of(const SourceMatrix& source, const MatrixSlot& slot, ThreadPool& pool,
                     Buffer& copy) {
  SourceMatrix part = source;
  part.rows = slot.rows.mine.count;
  part.data += slot.rows.mine.begin * source.row_bytes();
  if (!slot.cols.is_split()) return part;
  part.cols = slot.cols.mine.count;
  const QuantFormat& format = quant_format(source.type);
  const std::byte* const from =
      part.data + slot.cols.mine.begin / format.block_elements * format.block_bytes;
  copy = Buffer(static_cast<size_t>(part.bytes()));
  pool.run(part.rows, [&](int64_t row, int) {
    std::copy_n(from + row * source.row_bytes(), part.row_bytes(),
                copy.as<std::byte>() + row * part.row_bytes());
  });
  part.data = copy.as<const std::byte>();
  return part;
}

Status load_matrix(const Checkpoint& checkpoint, const MatrixSlot& slot, const PackTarget& target) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const SourceMatrix source,
                              checkpoint.matrix(slot.name, slot.rows.size, slot.cols.size));
  Buffer copy;
  const SourceMatrix part = part_of(source, slot, *target.ctx.pool, copy);
  SLIPSTREAM_RETURN_IF_ERROR(checkpoint.check_finite(slot.name, part, slot.rows.mine.begin));
  SLIPSTREAM_ASSIGN_OR_RETURN(*slot.weight, target.ops.pack(target.ctx, part, slot.role));
  const bool is_copied = slot.weight->owner != nullptr;
  SLIPSTREAM_CHECK(is_copied || copy.bytes() == 0, "a split matrix is not the file's");
  // A packed copy replaces the original, so that both are never resident together.
  if (is_copied) checkpoint.drop(slot.name);
  return {};
}

Status load_vector(const Checkpoint& checkpoint, const VectorSlot& slot, const PackTarget& target) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<float> values,
                              checkpoint.vector(slot.name, slot.size.size));
  const IndexRange mine = slot.size.mine;
  *slot.values = FloatVector(
      std::span(values).subspan(static_cast<size_t>(mine.begin), static_cast<size_t>(mine.count)),
      *target.ops.memory);
  return {};
}

}  // namespace

Result<DecoderWeights> load_weights(const Checkpoint& checkpoint, const DecoderSpec& spec,
                                    const WeightNames& names, const PackTarget& target,
                                    const LoadProgress& progress) {
  DecoderWeights weights;
  Slots slots = make_slots(spec, names, target.shard, weights);
  SLIPSTREAM_RETURN_IF_ERROR(check_shapes(checkpoint, slots));
  if (target.ctx.keep_stored_dtypes) keep_stored_dtypes(checkpoint, slots);
  warn_about_unused(checkpoint, slots, names);

  for (const VectorSlot& slot : slots.vectors) {
    SLIPSTREAM_RETURN_IF_ERROR(load_vector(checkpoint, slot, target));
  }
  // Of the files; a device reads its part of each.
  const auto file_bytes = [&](const MatrixSlot& slot) {
    return static_cast<int64_t>(checkpoint.find(slot.name)->bytes);
  };
  int64_t total_bytes = 0;
  for (const MatrixSlot& slot : slots.matrices) total_bytes += file_bytes(slot);
  int64_t done_bytes = 0;
  for (const MatrixSlot& slot : slots.matrices) {
    SLIPSTREAM_RETURN_IF_ERROR(load_matrix(checkpoint, slot, target));
    done_bytes += file_bytes(slot);
    if (progress) progress(done_bytes, total_bytes);
  }
  summarize(slots, weights);
  return weights;
}

std::vector<ByteRange> streamed_ranges(const DecoderWeights& weights) {
  std::vector<ByteRange> ranges;
  const auto add = [&ranges](const Weight& weight) {
    ranges.emplace_back(weight.payload, static_cast<size_t>(weight.payload_bytes));
  };
  for (const LayerWeights& layer : weights.layers) {
    for (const Weight* weight :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      add(*weight);
    }
  }
  add(weights.lm_head);
  return ranges;
}

Result<DecoderWeights> dummy_weights(const DecoderSpec& spec, QuantType type, uint64_t seed,
                                     const PackTarget& target) {
  const QuantFormat& wanted = quant_format(type);
  if (wanted.quantize_block == nullptr) {
    return bad_usage(str("random weights cannot be made in ", wanted.name,
                         ", which is read-only here; Q8_0, Q4_0, BF16 and others can"));
  }
  // Names are only for messages of `pack`; any pattern serves.
  WeightNames names;
  names.embed = names.final_norm = names.lm_head = "random";
  for (std::string* name :
       {&names.attn_norm, &names.q, &names.k, &names.v, &names.o, &names.q_bias, &names.k_bias,
        &names.v_bias, &names.o_bias, &names.q_norm, &names.k_norm, &names.mlp_norm, &names.gate,
        &names.up, &names.down, &names.gate_bias, &names.up_bias, &names.down_bias}) {
    *name = "random.%d";
  }
  DecoderWeights weights;
  const Slots slots = make_slots(spec, names, target.shard, weights);
  for (const VectorSlot& slot : slots.vectors) {
    const std::vector<float> ones(static_cast<size_t>(slot.size.mine.count), 1.0f);
    *slot.values = FloatVector(ones, *target.ops.memory);
  }
  const uint64_t embedding_seed = seed;
  for (const MatrixSlot& slot : slots.matrices) {
    const uint64_t slot_seed = slot.is_repeated ? embedding_seed : seed++;
    SLIPSTREAM_ASSIGN_OR_RETURN(*slot.weight,
                                random_weight(slot, SplitMix64(slot_seed).next(), wanted, target));
    if (slot.weight->owner == nullptr) {
      return failed(str("backend ", target.ops.name, " borrows weights; random ones have no file"));
    }
  }
  summarize(slots, weights);
  return weights;
}

}  // namespace slipstream

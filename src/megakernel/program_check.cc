#include "megakernel/program_check.h"

#include <array>
#include <string>
#include <vector>

#include "base/strings.h"

namespace slipstream {
namespace {

constexpr std::array<const char*, kNumProducts> kNames = {"qkv", "o", "gate_up", "down", "lm_head"};
// Of x that a CTA keeps in shared memory.
constexpr int kResidualRows = 64;
// While a product's first slot is in registers and another is read, a third is on its way.
constexpr int kLeastSlots = 3;
constexpr int kCopyUnit = 16;  // bytes

Status wrong(int product, const std::string& what) {
  return failed(str("the persistent kernel's program is wrong: ", kNames[product], " ", what));
}

struct Expected {
  int64_t rows = 0;
  int64_t cols = 0;
};
std::array<Expected, kNumProducts> expected_shapes(const DecodeProgram& program) {
  const int64_t hidden = program.hidden_size;
  const int64_t intermediate = program.products[kDown].num_cols;
  std::array<Expected, kNumProducts> shapes;
  shapes[kQkv] = {program.qkv_rows(), hidden};
  shapes[kOut] = {hidden, program.attention_width()};
  shapes[kGateUp] = {2 * intermediate, hidden};
  shapes[kDown] = {hidden, intermediate};
  shapes[kHead] = {program.vocab_size, hidden};
  return shapes;
}

Status check_rows(const ProductPhase& phase, int product, int64_t num_rows) {
  std::vector<int> owners(static_cast<size_t>(phase.num_units) * kUnitRows, 0);
  for (int cta = 0; cta < kDecodeCtas; ++cta) {
    const TileShare share = tile_share(phase.num_units, cta);
    if (share.num_units < 1) return wrong(product, str("gives CTA ", cta, " nothing"));
    if (share.num_tiles() > phase.max_tiles) {
      return wrong(product, str("gives CTA ", cta, " more than max_tiles"));
    }
    int next_row = 0;  // among the CTA's
    for (int tile = 0; tile < share.num_tiles(); ++tile) {
      const int rows = kTileRows >> share.fold(tile);
      if (share.first_row(tile) != next_row) {
        return wrong(product, str("tile ", tile, " of CTA ", cta, " begins elsewhere"));
      }
      for (int row = 0; row < rows; ++row) {
        const int64_t at = int64_t{share.first_unit} * kUnitRows + next_row + row;
        if (at >= std::ssize(owners)) {
          return wrong(product, str("tile ", tile, " of CTA ", cta, " ends beyond its rows"));
        }
        ++owners[static_cast<size_t>(at)];
      }
      next_row += rows;
    }
    if (next_row != share.num_units * kUnitRows) {
      return wrong(product, str("tiles of CTA ", cta, " miss rows"));
    }
  }
  for (size_t row = 0; row < owners.size(); ++row) {
    if (owners[row] != 1) {
      return wrong(product, str("row ", row, " is computed ", owners[row], " times"));
    }
  }
  if (std::ssize(owners) < num_rows || std::ssize(owners) >= num_rows + kUnitRows) {
    return wrong(product, str("has ", owners.size(), " rows for ", num_rows));
  }
  return {};
}

Status check_columns(const ProductPhase& phase, int product, int64_t num_cols) {
  if (phase.num_cols != num_cols) {
    return wrong(product, str("has ", phase.num_cols, " columns for ", num_cols));
  }
  if (int64_t{phase.num_slices} * kSliceCols < num_cols ||
      int64_t{phase.num_slices - 1} * kSliceCols >= num_cols) {
    return wrong(product, str("has ", phase.num_slices, " slices"));
  }
  int next = 0;
  for (int round = 0; round < phase.num_rounds; ++round) {
    const SliceRound slices = slice_round(phase, round);
    if (slices.first != next || slices.count < 1 || slices.count > kConsumerWarps) {
      return wrong(product,
                   str("round ", round, " has slices from ", slices.first, " on, ", slices.count));
    }
    const int upper = slices.count - slices.lower();
    if (slices.lower() > kConsumerWarps / 2 || upper > kConsumerWarps / 2 || upper < 0) {
      return wrong(product, str("round ", round, " has too many slices for half the warps"));
    }
    next += slices.count;
  }
  return next == phase.num_slices ? Status() : wrong(product, "rounds miss slices");
}

Status check_streams(const DecodeProgram& program) {
  for (int cta = 0; cta < kDecodeCtas; ++cta) {
    int64_t end = 0;
    for (int layer = 0; layer <= program.num_layers; ++layer) {
      const bool head = layer == program.num_layers;
      for (int product = head ? kHead : kQkv; product < (head ? kNumProducts : kHead); ++product) {
        if (product_offset(program.products.data(), cta, layer, product) != end) {
          return wrong(product, str("layer ", layer, " overlaps in the stream of CTA ", cta));
        }
        end += product_bytes(program.products[static_cast<size_t>(product)], cta);
      }
    }
    if (end > program.stream_stride) {
      return failed(str("the persistent kernel's program is wrong: the stream of CTA ", cta,
                        " ends at ", end, ", beyond stream_stride"));
    }
  }
  return {};
}

// What CTAs hand to each other.
Status check_vectors(const DecodeProgram& program) {
  for (int cta = 0; cta < kDecodeCtas; ++cta) {
    const TileShare out = tile_share(program.products[kOut].num_units, cta);
    const TileShare down = tile_share(program.products[kDown].num_units, cta);
    if (out.first_unit != down.first_unit || out.num_units != down.num_units) {
      return wrong(kDown, str("gives CTA ", cta, " other rows of x than o does"));
    }
    if (out.num_units * kUnitRows > kResidualRows) {
      return wrong(kOut, str("gives CTA ", cta, " more rows than it keeps"));
    }
  }
  static_assert(kUnitRows == 4, "a unit of gate_up is two values: one word");
  const int64_t width = program.attention_width();
  const int64_t merged = int64_t{program.attention_per_cta} * kDecodeCtas;
  if (merged < width || program.attention_per_cta > 32) {
    return wrong(kOut, str("reads ", width, " values of attention; ", merged, " are merged"));
  }
  if (program.num_kv_heads << program.log2_parts > kDecodeCtas) {
    return wrong(kQkv, "has more parts of attention than CTAs");
  }
  return {};
}

// What the rest takes for granted.
Status check_sizes(const DecodeProgram& program) {
  const auto bad = [](const std::string& what) {
    return failed("the persistent kernel's program is wrong: " + what);
  };
  if (program.num_layers < 1 || program.num_layers > kMaxLayers) {
    return bad(str("it has ", program.num_layers, " layers"));
  }
  if (program.num_kv_heads < 1 || program.num_heads < program.num_kv_heads ||
      program.num_heads % program.num_kv_heads != 0 || program.head_dim < 1) {
    return bad(str(program.num_heads, " heads share ", program.num_kv_heads));
  }
  if (program.key.head_dim != program.head_dim ||
      program.key.heads_per_kv_head != program.heads_per_kv_head()) {
    return bad("its kernel is compiled for other heads");
  }
  if (program.log2_parts < 0 || program.log2_parts > 7) return bad("its parts of attention");
  if (program.stream_stride % kCopyUnit != 0) return bad("its stream_stride is no whole copy");
  const StreamFormat layers = program.key.layers;
  for (int product = 0; product < kNumProducts; ++product) {
    const ProductPhase& phase = program.products[static_cast<size_t>(product)];
    if (phase.num_units < 1 || phase.num_cols < 1 || phase.num_slices < 1 || phase.num_rounds < 1 ||
        phase.round_slices < 1) {
      return wrong(product, "is empty");
    }
    if (product == kHead) continue;
    if (layers == StreamFormat::kF8E4M3 && phase.has_table == 0) {
      return wrong(product, "has no scales");
    }
    const int most_rounds = product != kDown              ? kMostScaledRounds
                            : layers == StreamFormat::kI4 ? kMostI4DownRounds
                                                          : phase.num_rounds;
    if (is_scaled(layers) && phase.num_rounds > most_rounds) {
      return wrong(product, "has more rounds than are scaled together");
    }
    if (layers == StreamFormat::kI4 && phase.num_cols % kSliceCols != 0) {
      return wrong(product, "has a group of columns that is not full");
    }
  }
  return {};
}

}  // namespace

Status check_program(const DecodeProgram& program) {
  SLIPSTREAM_RETURN_IF_ERROR(check_sizes(program));
  const auto shapes = expected_shapes(program);
  for (int product = 0; product < kNumProducts; ++product) {
    const auto idx = static_cast<size_t>(product);
    const ProductPhase& phase = program.products[idx];
    SLIPSTREAM_RETURN_IF_ERROR(check_rows(phase, product, shapes[idx].rows));
    SLIPSTREAM_RETURN_IF_ERROR(check_columns(phase, product, shapes[idx].cols));
    if (phase.num_slices > program.most_slices) return wrong(product, "has more than most_slices");
    if (phase.has_table != 0 && phase.max_tiles > kMaxTableTiles) {
      return wrong(product, "has more rows of a table than a CTA keeps");
    }
    const StreamFormat format = product == kHead ? program.key.lm_head : program.key.layers;
    if (phase.format != format) return wrong(product, "has another format than the kernel");
  }
  SLIPSTREAM_RETURN_IF_ERROR(check_streams(program));
  return check_vectors(program);
}

Status check_fits(const DecodeProgram& program, const ProgramLimits& limits) {
  if (limits.num_multiprocessors < kDecodeCtas) {
    return does_not_fit(str("the persistent kernel needs ", kDecodeCtas,
                            " multiprocessors; the GPU has ", limits.num_multiprocessors));
  }
  const int64_t ring_bytes = limits.shared_bytes - limits.ring_offset;
  const int64_t least_bytes = int64_t{kLeastSlots} * 2 * half_slot_bytes(program.key.layers);
  if (ring_bytes < least_bytes) {
    return does_not_fit(str("an input of ", program.most_slices * kSliceCols,
                            " values leaves the persistent kernel ", ring_bytes,
                            " bytes of shared memory for weights; it needs ", least_bytes));
  }
  return {};
}

}  // namespace slipstream

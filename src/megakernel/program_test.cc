#include "megakernel/program.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "base/mmap_file.h"
#include "base/random.h"
#include "loader/hf_config.h"
#include "megakernel/program_check.h"
#include "model/families/families.h"

namespace slipstream {
namespace {

DecoderSpec spec_of(int64_t hidden, int64_t intermediate, int heads, int kv_heads, int head_dim,
                    int64_t vocab, int num_layers = 3) {
  DecoderSpec spec;
  spec.hidden_size = hidden;
  spec.vocab_size = vocab;
  spec.rope.rotary_dim = head_dim;
  LayerSpec layer;
  layer.attention.num_heads = heads;
  layer.attention.num_kv_heads = kv_heads;
  layer.attention.head_dim = head_dim;
  layer.mlp.intermediate_size = intermediate;
  spec.layers.assign(static_cast<size_t>(num_layers), layer);
  return spec;
}
DecoderSpec small_spec() { return spec_of(576, 1536, 9, 3, 64, 4099); }

TEST(DecodeProgram, FitsTheBenchmarkedShapes) {
  int num_shapes = 0;
  for (const auto& file :
       std::filesystem::directory_iterator(SLIPSTREAM_SOURCE_DIR "/bench/shapes")) {
    const auto text = read_text_file(file.path().string(), 1 << 20);
    ASSERT_TRUE(text.ok());
    const auto config = HfConfig::from_text(text.value(), "", "config");
    ASSERT_TRUE(config.ok());
    const auto model = describe_config(config.value());
    ASSERT_TRUE(model.ok()) << model.status().message();
    const auto program = make_program(model.value().spec, StreamFormat::kBF16, StreamFormat::kBF16);
    if (model.value().spec.hidden_size > 4096) continue;  // wider attention than it merges
    ASSERT_TRUE(program.ok()) << file.path() << ": " << program.status().message();
    EXPECT_TRUE(check_program(program.value()).ok()) << check_program(program.value()).message();
    ++num_shapes;
  }
  EXPECT_GE(num_shapes, 5);
}

TEST(DecodeProgram, SaysWhyAModelDoesNotFit) {
  const auto why = [](const DecoderSpec& spec, StreamFormat layers = StreamFormat::kBF16) {
    return make_program(spec, layers, StreamFormat::kBF16).status().message();
  };
  DecoderSpec spec = small_spec();
  EXPECT_TRUE(make_program(spec, StreamFormat::kBF16, StreamFormat::kBF16).ok());
  spec.layers[1].attention.window = 512;
  EXPECT_NE(why(spec).find("sliding window"), std::string::npos);
  spec = small_spec();
  spec.rope.interleaved = true;
  EXPECT_NE(why(spec).find("neighbouring"), std::string::npos);
  spec = small_spec();
  spec.rope.rotary_dim = 32;
  EXPECT_NE(why(spec).find("part of each head"), std::string::npos);
  spec = small_spec();
  spec.layers.back().mlp.intermediate_size = 2048;
  EXPECT_NE(why(spec).find("differ"), std::string::npos);
  EXPECT_NE(why(spec_of(256, 1024, 4, 4, 64, 4096)).find("hidden_size is 256"), std::string::npos);
  EXPECT_NE(why(spec_of(8192, 28672, 64, 8, 128, 32000)).find("8192 wide"), std::string::npos);
  EXPECT_NE(why(spec_of(576, 1536, 9, 3, 64, 100)).find("vocab_size is 100"), std::string::npos);
  EXPECT_NE(why(spec_of(1024, 65536, 16, 8, 64, 4096), StreamFormat::kF8E4M3).find("tiles"),
            std::string::npos);
  EXPECT_NE(why(spec_of(576, 1536, 9, 3, 64, 4096), StreamFormat::kI4).find("576 columns"),
            std::string::npos);
  EXPECT_NE(why(spec_of(1024, 24704, 16, 8, 64, 4096), StreamFormat::kI4).find("24576"),
            std::string::npos);
  EXPECT_NE(why(spec_of(5120, 8192, 16, 8, 64, 4096), StreamFormat::kI4).find("INT4"),
            std::string::npos);
}

// Whatever the shape: a reason, or a program in which every row and column is computed once.
TEST(DecodeProgram, HoldsForAnyShape) {
  SplitMix64 random(11);
  int num_programs = 0;
  int num_i4 = 0;
  for (int i = 0; i < 300; ++i) {
    const int head_dim = std::array{64, 96, 128}[random.below(3)];
    const int kv_heads = static_cast<int>(1 + random.below(16));
    const int heads = kv_heads * static_cast<int>(1 + random.below(8));
    const auto layers =
        std::array{StreamFormat::kBF16, StreamFormat::kF8E4M3, StreamFormat::kI4}[random.below(3)];
    const bool is_i4 = layers == StreamFormat::kI4;
    const auto hidden =
        static_cast<int64_t>(is_i4 ? 128 * (3 + random.below(30)) : 4 * (100 + random.below(1200)));
    const auto intermediate = static_cast<int64_t>(is_i4 ? 128 * (3 + random.below(150))
                                                         : 2 * (100 + random.below(9000)));
    const auto vocab = static_cast<int64_t>(400 + random.below(60000));
    const auto program =
        make_program(spec_of(hidden, intermediate, heads, kv_heads, head_dim, vocab), layers,
                     StreamFormat::kBF16);
    if (!program.ok()) {
      EXPECT_FALSE(program.status().message().empty());
      continue;
    }
    ++num_programs;
    num_i4 += is_i4;
    const Status status = check_program(program.value());
    EXPECT_TRUE(status.ok()) << hidden << " " << intermediate << " " << heads << "/" << kv_heads
                             << ": " << status.message();
  }
  EXPECT_GT(num_programs, 60);
  EXPECT_GT(num_i4, 20);
}

TEST(ProgramCheck, RefusesWhatIsWrong) {
  const auto made = make_program(small_spec(), StreamFormat::kBF16, StreamFormat::kBF16);
  ASSERT_TRUE(made.ok());
  const DecodeProgram& good = made.value();
  const std::vector<std::pair<std::string, std::function<void(DecodeProgram&)>>> mutants = {
      {"rows", [](DecodeProgram& p) { p.products[kQkv].num_units -= 2; }},
      {"rows", [](DecodeProgram& p) { p.products[kHead].num_units += 1; }},
      {"nothing", [](DecodeProgram& p) { p.products[kOut].num_units = 100; }},
      {"columns", [](DecodeProgram& p) { p.products[kOut].num_cols -= 4; }},
      {"slices", [](DecodeProgram& p) { p.products[kGateUp].num_slices += 1; }},
      {"slices", [](DecodeProgram& p) { p.products[kGateUp].num_rounds += 1; }},
      {"slices", [](DecodeProgram& p) { p.products[kDown].round_slices -= 1; }},
      {"max_tiles", [](DecodeProgram& p) { p.products[kHead].max_tiles -= 1; }},
      {"most_slices", [](DecodeProgram& p) { p.most_slices = 4; }},
      {"format", [](DecodeProgram& p) { p.products[kDown].format = StreamFormat::kF8E4M3; }},
      {"stream_stride", [](DecodeProgram& p) { p.stream_stride -= kStageBytes; }},
      {"merged", [](DecodeProgram& p) { p.attention_per_cta -= 1; }},
      {"parts", [](DecodeProgram& p) { p.log2_parts = 6; }},
      {"columns", [](DecodeProgram& p) { p.hidden_size = 580; }},
      {"layers", [](DecodeProgram& p) { p.num_layers = 0; }},
      {"layers", [](DecodeProgram& p) { p.num_layers = kMaxLayers + 1; }},
      {"share", [](DecodeProgram& p) { p.num_kv_heads = 2; }},
      {"other heads", [](DecodeProgram& p) { p.key.head_dim = 128; }},
      {"parts", [](DecodeProgram& p) { p.log2_parts = -1; }},
      {"whole copy", [](DecodeProgram& p) { p.stream_stride += 8; }},
      {"empty", [](DecodeProgram& p) { p.products[kDown].num_units = -4; }},
      {"empty", [](DecodeProgram& p) { p.products[kQkv].round_slices = 0; }},
      {"scales", [](DecodeProgram& p) { p.key.layers = StreamFormat::kF8E4M3; }},
  };
  EXPECT_TRUE(check_program(good).ok());
  for (const auto& [word, mutate] : mutants) {
    DecodeProgram bad = good;
    mutate(bad);
    const Status status = check_program(bad);
    EXPECT_FALSE(status.ok()) << word;
    EXPECT_NE(status.message().find(word), std::string::npos) << word << ": " << status.message();
  }
}

TEST(ProgramCheck, RefusesWhatIsWrongOfInt4) {
  const auto made =
      make_program(spec_of(1536, 8960, 12, 2, 128, 4096), StreamFormat::kI4, StreamFormat::kBF16);
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_TRUE(check_program(made.value()).ok());
  DecodeProgram bad = made.value();
  bad.products[kDown].num_rounds = kMostI4DownRounds + 1;
  EXPECT_NE(check_program(bad).message().find("scaled together"), std::string::npos);
  bad = made.value();
  bad.products[kOut].num_cols -= 64;
  EXPECT_NE(check_program(bad).message().find("not full"), std::string::npos);
  bad = made.value();
  bad.stream_stride -= kI4SliceBytes;
  EXPECT_NE(check_program(bad).message().find("stream_stride"), std::string::npos);
}

// A CTA's slots, as the producer asks for them, are its stream without gaps, and fit.
TEST(DecodeProgram, SlotsAreTheStream) {
  for (const StreamFormat format :
       {StreamFormat::kBF16, StreamFormat::kF8E4M3, StreamFormat::kI4}) {
    for (const int num_units : {128, 129, 192, 224, 300, 448, 1000, 1537}) {
      const ProductPhase phase{.num_units = num_units,
                               .num_slices = 23,
                               .num_rounds = 2,
                               .round_slices = 12,
                               .format = format};
      for (int cta = 0; cta < kDecodeCtas; ++cta) {
        const TileShare share = tile_share(num_units, cta);
        int64_t bytes = 0;
        SlotBlock block;
        int tile = 0;
        for (; tile < share.num_tiles(); tile += block.num_tiles) {
          EXPECT_EQ(tiles_bytes(phase, share, tile), bytes);
          block = slot_block(format, share, tile);
          EXPECT_EQ(block.bytes % 16, 0);
          EXPECT_LE(block.bytes * kConsumerWarps / 2, half_slot_bytes(format));
          bytes += int64_t{block.num_slots} * block.bytes * phase.num_slices;
        }
        EXPECT_EQ(tile, share.num_tiles());
        EXPECT_EQ(product_bytes(phase, cta), bytes);
      }
    }
  }
}

TEST(ProgramCheck, AsksForMultiprocessorsAndSharedMemory) {
  const auto made = make_program(small_spec(), StreamFormat::kBF16, StreamFormat::kBF16);
  ASSERT_TRUE(made.ok());
  ProgramLimits limits{.num_multiprocessors = 132, .shared_bytes = 232448, .ring_offset = 60000};
  EXPECT_TRUE(check_fits(made.value(), limits).ok());
  limits.num_multiprocessors = 114;
  EXPECT_NE(check_fits(made.value(), limits).message().find("has 114"), std::string::npos);
  limits = {.num_multiprocessors = 132, .shared_bytes = 101376, .ring_offset = 60000};
  EXPECT_NE(check_fits(made.value(), limits).message().find("shared memory"), std::string::npos);
}

}  // namespace
}  // namespace slipstream

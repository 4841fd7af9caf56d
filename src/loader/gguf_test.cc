// GGUF: what a valid file gives, and that every kind of broken one is refused in one line with
// the exit code for invalid models. M numbers are the rows of the catalogue of bad model files.
#include "loader/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/strings.h"
#include "core/half.h"
#include "loader/model_files_for_test.h"

namespace slipstream {
namespace {

constexpr uint32_t kF32 = 0;
constexpr uint32_t kQ8_0 = 8;

Result<GgufFile> parse(std::string_view text) {
  return GgufFile::from_bytes(to_bytes(text), "test.gguf");
}

void expect_refused(std::string_view text, const std::string& needle) {
  const auto file = parse(text);
  ASSERT_FALSE(file.ok()) << "accepted, expected: " << needle;
  EXPECT_EQ(file.status().code(), StatusCode::kInvalidModel);
  EXPECT_NE(file.status().message().find(needle), std::string::npos) << file.status().message();
  EXPECT_EQ(file.status().message().find('\n'), std::string::npos);
  EXPECT_TRUE(starts_with(file.status().message(), "test.gguf: ")) << file.status().message();
}

// A file with one key of each kind and two tensors.
GgufBuilder small_file() {
  GgufBuilder file;
  file.text_key("general.architecture", "llama");
  file.u32("llama.block_count", 2);
  file.key("llama.eps", kGgufF32, raw(0.5f));
  file.key("flag", kGgufBool, raw(uint8_t{1}));
  file.key("tokens", kGgufArray,
           raw<uint32_t>(kGgufString) + raw<uint64_t>(2) + gguf_string("a") + gguf_string(""));
  file.key("scores", kGgufArray,
           raw<uint32_t>(kGgufF32) + raw<uint64_t>(2) + raw(1.5f) + raw(-2.0f));
  file.key("kinds", kGgufArray,
           raw<uint32_t>(kGgufU8) + raw<uint64_t>(3) + std::string("\1\2\377", 3));
  file.tensor("norm", {8}, kF32, std::string(32, '\0'));
  file.tensor("matrix", {32, 2, 1}, kQ8_0, std::string(68, '\1'));
  return file;
}

TEST(Gguf, ReadsMetadataAndTensors) {
  auto opened = parse(small_file().text());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const GgufFile file = std::move(opened).value();  // moved: pointers must survive
  const GgufMetadata& metadata = file.metadata();
  EXPECT_EQ(metadata.get_string("general.architecture", "").value(), "llama");
  EXPECT_EQ(metadata.get_int("llama.block_count", 0).value(), 2);
  EXPECT_EQ(metadata.get_number("llama.eps", 0).value(), 0.5);
  EXPECT_EQ(metadata.get_number("llama.block_count", 0).value(), 2.0);
  EXPECT_TRUE(metadata.get_bool("flag", false).value());
  EXPECT_EQ(*metadata.get_strings("tokens").value(), (std::vector<std::string_view>{"a", ""}));
  EXPECT_EQ(*metadata.get_numbers("scores").value(), (std::vector<double>{1.5, -2.0}));
  EXPECT_EQ(*metadata.get_ints("kinds").value(), (std::vector<int64_t>{1, 2, 255}));
  EXPECT_EQ(metadata.get_int("absent", -7).value(), -7);
  EXPECT_EQ(metadata.get_ints("absent").value(), nullptr);

  ASSERT_EQ(file.tensors().size(), 2u);
  const GgufTensor* matrix = file.find_tensor("matrix");
  ASSERT_NE(matrix, nullptr);
  EXPECT_EQ(matrix->shape, (std::vector<int64_t>{1, 2, 32}));
  EXPECT_EQ(matrix->bytes, 68u);
  EXPECT_EQ(matrix->format, &quant_format(QuantType::kQ8_0));
  EXPECT_EQ(matrix->data[0], std::byte{1});
  EXPECT_EQ(file.find_tensor("other"), nullptr);
}

TEST(Gguf, VocabularyOnlyFilesHaveNoTensors) {
  GgufBuilder builder;
  builder.text_key("tokenizer.ggml.model", "gpt2");
  const auto file = parse(builder.text());
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_TRUE(file->tensors().empty());
}

TEST(Gguf, M8_EveryTruncationIsRefused) {
  GgufBuilder builder = small_file();
  // Ends on the alignment, so that no byte is mere padding.
  builder.tensor("last", {16}, kF32, std::string(64, '\1'));
  const std::string whole = builder.text();
  ASSERT_TRUE(parse(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto file = parse(std::string_view(whole).substr(0, size));
    ASSERT_FALSE(file.ok()) << "cut at byte " << size << " of " << whole.size();
    ASSERT_EQ(file.status().code(), StatusCode::kInvalidModel) << size;
  }
}

TEST(Gguf, M8_AppendedBytesAreRefused) {
  const std::string whole = small_file().text();
  expect_refused(whole + std::string(32, '\0'), "follow the last tensor");
}

TEST(Gguf, M14_CountsBeyondTheFileAreRefusedBeforeAnyAllocation) {
  for (const int64_t count : {int64_t{70'000}, int64_t{1} << 32, int64_t{INT64_MAX}}) {
    GgufBuilder builder = small_file();
    builder.num_keys = count;
    expect_refused(builder.text(), "metadata keys");
    builder = small_file();
    builder.num_tensors = count;
    expect_refused(builder.text(), "tensors");
  }
  // 2^63 and 2^64 - 1, which no signed count can express.
  for (const uint64_t count : {uint64_t{1} << 63, ~uint64_t{0}}) {
    std::string text = small_file().text();
    text.replace(8, 8, raw(count));
    expect_refused(text, "tensors");
    text = small_file().text();
    text.replace(16, 8, raw(count));
    expect_refused(text, "metadata keys");
  }
}

TEST(Gguf, M14_StringsBeyondTheFileAreRefused) {
  for (const uint64_t length : {uint64_t{1} << 20, uint64_t{1} << 63, ~uint64_t{0}}) {
    GgufBuilder builder;
    builder.key("key", kGgufString, raw(length) + "text");
    expect_refused(builder.text(), "past the end");
    builder = GgufBuilder();
    builder.keys.push_back(raw(length) + std::string(32, 'k'));
    expect_refused(builder.text(), "past the end");
  }
}

TEST(Gguf, M14_DimensionCountsOutsideOneToFourAreRefused) {
  for (const uint32_t num_dims : {0u, 5u, 0xFFFFFFFFu}) {
    GgufBuilder builder;
    builder.tensors.push_back(gguf_string("t") + raw(num_dims) + std::string(64, '\0'));
    expect_refused(builder.text(), "dimensions");
  }
}

TEST(Gguf, M14_NestedArraysAndUnknownTypesAreRefused) {
  GgufBuilder builder;
  builder.key("key", kGgufArray, raw<uint32_t>(kGgufArray) + raw<uint64_t>(1) + std::string(64, 0));
  expect_refused(builder.text(), "array of arrays");
  builder = GgufBuilder();
  builder.key("key", kGgufArray, raw<uint32_t>(13) + raw<uint64_t>(1) + std::string(64, '\0'));
  expect_refused(builder.text(), "element type 13");
  builder = GgufBuilder();
  builder.key("key", 0x80000000u, std::string(16, '\0'));
  expect_refused(builder.text(), "unknown value type");
}

TEST(Gguf, M14_ArrayCountsBeyondTheFileAreRefused) {
  for (const uint32_t type : {kGgufU8, kGgufU32, kGgufF32, kGgufString, kGgufU64}) {
    for (const uint64_t count : {uint64_t{100'000}, uint64_t{1} << 61, ~uint64_t{0}}) {
      GgufBuilder builder;
      builder.key("key", kGgufArray, raw(type) + raw(count) + std::string(64, '\0'));
      expect_refused(builder.text(), "past the end");
    }
  }
}

TEST(Gguf, M15_AlignmentsThatAreNoSmallPowerOfTwoAreRefused) {
  for (const uint32_t alignment : {0u, 3u, 8192u, 0x80000000u, 0xFFFFFFFFu}) {
    GgufBuilder builder = small_file();
    builder.u32("general.alignment", alignment);
    expect_refused(builder.text(), "'general.alignment'");
  }
  GgufBuilder builder = small_file();
  builder.text_key("general.alignment", "32");
  expect_refused(builder.text(), "'general.alignment'");
}

TEST(Gguf, M15_AnotherAlignmentIsHonoured) {
  GgufBuilder builder;
  builder.alignment = 256;
  builder.u32("general.alignment", 256);
  builder.tensor("a", {1}, kF32, raw(1.0f));
  builder.tensor("b", {1}, kF32, raw(2.0f));
  const auto file = parse(builder.text());
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->find_tensor("b")->data - file->find_tensor("a")->data, 256);
}

TEST(Gguf, M15_SizesThatOverflowAreRefused) {
  const uint64_t big = uint64_t{1} << 32;
  for (const auto& dims : std::vector<std::vector<uint64_t>>{{big, big},
                                                             {uint64_t{1} << 62, 4},
                                                             {big, big, big, big},
                                                             {uint64_t{1} << 63},
                                                             {~0ull}}) {
    GgufBuilder builder;
    builder.entry("t", dims, kF32, 0);
    builder.data = std::string(64, '\0');
    const auto file = parse(builder.text());
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.status().code(), StatusCode::kInvalidModel);
  }
  GgufBuilder builder;
  builder.entry("t", {4194305, 4194305, 4194305}, kF32, 0);
  expect_refused(builder.text(), "overflows");
}

TEST(Gguf, M15_OffsetsOutsideTheDataAreRefused) {
  for (const uint64_t offset : {uint64_t{64}, uint64_t{1} << 40, ~uint64_t{31}}) {
    GgufBuilder builder;
    builder.entry("t", {8}, kF32, offset);
    builder.data = std::string(64, '\0');
    expect_refused(builder.text(), "past the end");
  }
  GgufBuilder builder;
  builder.entry("t", {8}, kF32, 4);
  builder.data = std::string(64, '\0');
  expect_refused(builder.text(), "multiple of the alignment");
}

TEST(Gguf, M15_OverlappingTensorsAreRefused) {
  GgufBuilder builder;
  builder.entry("a", {16}, kF32, 0);
  builder.entry("b", {8}, kF32, 32);
  builder.data = std::string(64, '\0');
  expect_refused(builder.text(), "'a' and 'b' overlap");
}

TEST(Gguf, M14_EmptyTensorsAndPartialBlocksAreRefused) {
  GgufBuilder builder;
  builder.entry("t", {0}, kF32, 0);
  expect_refused(builder.text(), "dimension of 0");
  builder = GgufBuilder();
  builder.tensor("t", {33}, kQ8_0, std::string(68, '\0'));
  expect_refused(builder.text(), "blocks of 32");
}

TEST(Gguf, M14_DuplicateKeysAndTensorsAreRefused) {
  GgufBuilder builder = small_file();
  builder.u32("flag", 1);
  expect_refused(builder.text(), "key 'flag': appears twice");
  builder = small_file();
  builder.tensor("norm", {8}, kF32, std::string(32, '\0'));
  expect_refused(builder.text(), "tensor 'norm' appears twice");
}

TEST(Gguf, M16_ATypeOtherThanTheExpectedNamesTheKey) {
  const auto file = parse(small_file().text());
  ASSERT_TRUE(file.ok());
  const GgufMetadata& metadata = file->metadata();
  for (const Status& status :
       {metadata.get_int("flag", 0).status(), metadata.get_int("llama.eps", 0).status(),
        metadata.get_number("tokens", 0).status(),
        metadata.get_bool("llama.block_count", 0).status(),
        metadata.get_string("scores", "").status(), metadata.get_strings("scores").status(),
        metadata.get_numbers("kinds").status(), metadata.get_ints("tokens").status(),
        metadata.get_strings("general.architecture").status()}) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidModel);
    EXPECT_TRUE(starts_with(status.message(), "key '")) << status.message();
  }
}

TEST(Gguf, M16_NumbersThatAreNotFiniteAreRefused) {
  for (const float value : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    GgufBuilder builder;
    builder.key("theta", kGgufF32, raw(value));
    const auto file = parse(builder.text());
    ASSERT_TRUE(file.ok());
    EXPECT_NE(file->metadata().get_number("theta", 1).status().message().find("'theta'"),
              std::string::npos);
  }
}

TEST(Gguf, M16_ValuesNoIntegerHoldsAreRefused) {
  GgufBuilder builder;
  builder.key("big", kGgufU64, raw(uint64_t{1} << 63));
  expect_refused(builder.text(), "'big'");
  builder = GgufBuilder();
  builder.key("odd", kGgufBool, raw(uint8_t{2}));
  expect_refused(builder.text(), "'odd'");
}

TEST(Gguf, OtherVersionsByteOrdersAndMagicsAreRefused) {
  GgufBuilder builder = small_file();
  builder.version = 1;
  expect_refused(builder.text(), "version 1");
  builder.version = 0x03000000;
  expect_refused(builder.text(), "big-endian");
  builder.version = 3;
  builder.magic = "GGUX";
  expect_refused(builder.text(), "not a GGUF file");
}

TEST(Gguf, TypesNotReadAreListedByNameAndUnknownOnesRefused) {
  GgufBuilder builder;
  builder.tensor("t", {256}, 23, std::string(136, '\0'));
  const auto file = parse(builder.text());
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->tensors()[0].format, nullptr);
  EXPECT_EQ(file->tensors()[0].bytes, 136u);
  EXPECT_EQ(ggml_type_name(23), "IQ4_XS");
  EXPECT_EQ(ggml_type_name(99), "type 99");
  builder = GgufBuilder();
  builder.tensor("t", {256}, 99, std::string(136, '\0'));
  expect_refused(builder.text(), "unknown tensor type 99");
}

TEST(Gguf, M19_NoBitFlipInTheHeaderGoesBeyondTheFile) {
  const GgufBuilder builder = small_file();
  const std::string whole = builder.text();
  size_t num_refused = 0;
  for (size_t bit = 0; bit < builder.header().size() * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const auto file = parse(flipped);
    if (!file.ok()) {
      EXPECT_EQ(file.status().code(), StatusCode::kInvalidModel);
      ++num_refused;
      continue;
    }
    // What is accepted can be read whole.
    unsigned sum = 0;
    for (const GgufTensor& tensor : file->tensors()) {
      for (uint64_t i = 0; i < tensor.bytes; ++i) sum += static_cast<unsigned>(tensor.data[i]);
    }
    EXPECT_LT(sum, 255u * whole.size());
  }
  EXPECT_GT(num_refused, builder.header().size() * 2);
}

class GgufSplit : public testing::Test {
 protected:
  // Three shards, metadata in the first, one tensor each.
  GgufBuilder shard(uint32_t number, uint32_t count = 3, uint32_t num_tensors = 3) const {
    GgufBuilder builder;
    builder.u32("split.no", number).u32("split.count", count);
    builder.u32("split.tensors.count", num_tensors);
    if (number == 0) builder.text_key("general.architecture", "llama");
    builder.tensor(str("t", number), {8}, kF32, std::string(32, '\1'));
    return builder;
  }
  std::string name(int number) const { return str("m-0000", number, "-of-00003.gguf"); }
  void write_all() const {
    for (int number = 1; number <= 3; ++number) {
      folder_.write(name(number), shard(static_cast<uint32_t>(number - 1)).text());
    }
  }
  void expect_open_fails(const std::string& file, StatusCode code,
                         const std::string& needle) const {
    const auto opened = GgufFile::open((folder_ / file).string());
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.status().code(), code) << opened.status().message();
    EXPECT_NE(opened.status().message().find(needle), std::string::npos)
        << opened.status().message();
  }
  TempFolder folder_;
};

TEST_F(GgufSplit, AllShardsOpenThroughTheFirst) {
  write_all();
  const auto file = GgufFile::open((folder_ / name(1)).string());
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->tensors().size(), 3u);
  EXPECT_EQ(file->metadata().get_string("general.architecture", "").value(), "llama");
  ASSERT_NE(file->find_tensor("t2"), nullptr);
  EXPECT_TRUE(ends_with(file->tensor_path(*file->find_tensor("t2")), name(3)));
  file->drop(*file->find_tensor("t2"));
  EXPECT_EQ(file->find_tensor("t2")->data[31], std::byte{1});
}

TEST_F(GgufSplit, ALaterShardNamesTheFirst) {
  write_all();
  expect_open_fails(name(2), StatusCode::kBadUsage, name(1));
}

TEST_F(GgufSplit, M9_AMissingShardIsNamed) {
  write_all();
  std::filesystem::remove(folder_ / name(3));
  expect_open_fails(name(1), StatusCode::kInvalidModel, name(3));
}

TEST_F(GgufSplit, M9_ShardsUnderEachOthersNamesAreRefused) {
  write_all();
  folder_.write(name(2), shard(2).text());
  expect_open_fails(name(1), StatusCode::kInvalidModel, "expected shard 2");
}

TEST_F(GgufSplit, M9_ATensorInTwoShardsIsRefused) {
  write_all();
  GgufBuilder builder = shard(1);
  builder.tensor("t0", {8}, kF32, std::string(32, '\1'));
  folder_.write(name(2), builder.text());
  expect_open_fails(name(1), StatusCode::kInvalidModel, "'t0' appears twice");
}

TEST_F(GgufSplit, M9_AWrongTotalOfTensorsIsRefused) {
  write_all();
  folder_.write(name(1), shard(0, 3, 4).text());
  expect_open_fails(name(1), StatusCode::kInvalidModel, "split.tensors.count");
}

TEST_F(GgufSplit, ARenamedFirstShardSaysWhatIsWrong) {
  write_all();
  std::filesystem::rename(folder_ / name(1), folder_ / "renamed.gguf");
  expect_open_fails("renamed.gguf", StatusCode::kInvalidModel, "original names");
}

TEST_F(GgufSplit, M8_ATruncatedShardIsRefused) {
  write_all();
  const std::string whole = shard(2).text();
  folder_.write(name(3), whole.substr(0, whole.size() - 1));
  expect_open_fails(name(1), StatusCode::kInvalidModel, name(3));
}

TEST(Gguf, M20_MissingEmptyAndUnreadablePathsAreOneLine) {
  TempFolder folder;
  EXPECT_EQ(GgufFile::open((folder / "none.gguf").string()).status().code(), StatusCode::kBadUsage);
  EXPECT_EQ(GgufFile::open(folder.write("empty.gguf", "")).status().code(),
            StatusCode::kInvalidModel);
  EXPECT_EQ(GgufFile::open(folder.path()).status().code(), StatusCode::kBadUsage);
}

}  // namespace
}  // namespace slipstream

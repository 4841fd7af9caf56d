// safetensors: what a valid file gives, and that every kind of broken one is refused in one line.
// M numbers are the rows of the catalogue of bad model files.
#include "loader/safetensors.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/strings.h"
#include "loader/model_files_for_test.h"

namespace slipstream {
namespace {

namespace fs = std::filesystem;

Result<SafetensorsFile> parse(std::string_view text) {
  return SafetensorsFile::from_bytes(to_bytes(text), "test.safetensors");
}

void expect_refused(std::string_view text, const std::string& needle) {
  const auto file = parse(text);
  ASSERT_FALSE(file.ok()) << "accepted, expected: " << needle;
  EXPECT_EQ(file.status().code(), StatusCode::kInvalidModel);
  EXPECT_NE(file.status().message().find(needle), std::string::npos) << file.status().message();
  EXPECT_EQ(file.status().message().find('\n'), std::string::npos);
  EXPECT_TRUE(starts_with(file.status().message(), "test.safetensors: "));
}

// Expects a refusal of {entries} over `num_data_bytes` of data.
void expect_header_refused(const std::string& entries, size_t num_data_bytes,
                           const std::string& needle) {
  expect_refused(safetensors_text(str("{", entries, "}"), num_data_bytes), needle);
}

std::string small_file() {
  return safetensors_text("{\"__metadata__\":{\"format\":\"pt\"}," +
                              safetensors_entry("b", "F32", "[2,3]", 8, 32) + "," +
                              safetensors_entry("a", "BF16", "[4]", 0, 8) + "}   ",
                          32);
}

TEST(Safetensors, ReadsTensorsInNameOrder) {
  auto opened = parse(small_file());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const SafetensorsFile file = std::move(opened).value();  // moved: pointers must survive
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(file.tensors()[0].format, &quant_format(QuantType::kBF16));
  const SafetensorsTensor* b = file.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b->dtype, DType::kF32);
  EXPECT_EQ(b->bytes, 24u);
  EXPECT_EQ(b->data - file.tensors()[0].data, 8);
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST(Safetensors, ScalarsAndEmptyTensorsAreLegal) {
  const auto file =
      parse(safetensors_text(std::string("{") + safetensors_entry("s", "I64", "[]", 0, 8) + "," +
                                 safetensors_entry("e", "F32", "[0,5]", 8, 8) + "}",
                             8));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_TRUE(file->find("s")->shape.empty());
  EXPECT_EQ(file->find("e")->bytes, 0u);
  EXPECT_TRUE(parse(safetensors_text("{}", 0)).ok());
}

TEST(Safetensors, M1_HeaderLengthsThatCannotBeAreRefused) {
  expect_refused("", "0 bytes are too few");
  expect_refused("1234567", "7 bytes are too few");
  expect_refused(raw<uint64_t>(0), "'{'");
  expect_refused(raw<uint64_t>(3) + "{}", "past the end");
  expect_refused(raw<uint64_t>(~uint64_t{0}) + "{}", "limit");
  expect_refused(raw<uint64_t>(uint64_t{1} << 63) + "{}", "limit");
  expect_refused(raw<uint64_t>(100'000'001) + "{}", "limit");
  expect_refused(raw<uint64_t>(100'000'000) + "{}", "past the end");
}

TEST(Safetensors, M2_HeadersThatAreNotJsonAreRefused) {
  expect_refused(safetensors_text("{\"\xff\xfe\":1}", 0), "not valid JSON");
  expect_refused(safetensors_text("{not json}", 0), "not valid JSON");
  expect_refused(safetensors_text("{} x", 0), "not valid JSON");
  expect_refused(safetensors_text("{}{}", 0), "not valid JSON");
  expect_refused(safetensors_text(" {}", 0), "'{'");
  expect_refused(safetensors_text("\xef\xbb\xbf{}", 0), "'{'");
  expect_refused(safetensors_text("[]", 0), "'{'");
  expect_refused(safetensors_text(std::string("{") + std::string(40, ' '), 0), "not valid JSON");
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  expect_refused(safetensors_text(deep, 0), "array");
  deep = "{\"a\":{\"shape\":";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  expect_refused(safetensors_text(deep, 0), "nested deeper");
}

TEST(Safetensors, M2_EntriesOfAnotherFormAreRefused) {
  for (const char* entries :
       {"\"a\":1",
        "\"a\":null",
        "\"a\":\"F32\"",
        "\"a\":[]",
        "\"a\":{}",
        "\"__metadata__\":1",
        "\"__metadata__\":{\"a\":1}",
        "\"__metadata__\":{\"a\":[]}",
        "\"__metadata__\":{\"a\":{}}",
        "\"a\":{\"dtype\":\"F32\"}",
        "\"a\":{\"dtype\":1}",
        "\"a\":{\"shape\":1}",
        "\"a\":{\"shape\":\"F32\"}",
        "\"a\":{\"shape\":{}}",
        "\"a\":{\"shape\":[\"1\"]}",
        "\"a\":{\"dtype\":[]}",
        "\"a\":{\"surprise\":1}",
        "\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}",
        "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}",
        "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[]}",
        "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}",
        "\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}",
        "\"a\":{\"dtype\":\"U8\",\"shape\":[true],\"data_offsets\":[0,1]}",
        "\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}"}) {
    const auto file = parse(safetensors_text(str("{", entries, "}"), 1));
    ASSERT_FALSE(file.ok()) << entries;
    EXPECT_EQ(file.status().code(), StatusCode::kInvalidModel);
  }
}

TEST(Safetensors, M3_DuplicateTensorsAndKeysAreRefused) {
  expect_header_refused(
      safetensors_entry("a", "U8", "[1]", 0, 1) + "," + safetensors_entry("a", "U8", "[1]", 1, 2),
      2, "'a' appears twice");
  expect_header_refused(
      "\"a\":{\"dtype\":\"U8\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}", 4,
      "key 'dtype' appears twice");
  expect_header_refused("\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[4]}", 4,
                        "key 'shape' appears twice");
  expect_header_refused("\"__metadata__\":{},\"__metadata__\":{}", 0, "appears twice");
}

TEST(Safetensors, M4_OverlappingOffsetsAreRefused) {
  expect_header_refused(
      safetensors_entry("a", "U8", "[4]", 0, 4) + "," + safetensors_entry("b", "U8", "[4]", 2, 6),
      6, "inside another tensor");
  expect_header_refused(
      safetensors_entry("a", "U8", "[4]", 0, 4) + "," + safetensors_entry("b", "U8", "[4]", 0, 4),
      4, "inside another tensor");
}

TEST(Safetensors, M4_HolesReversedNegativeAndOutsideOffsetsAreRefused) {
  expect_header_refused(
      safetensors_entry("a", "U8", "[1]", 0, 1) + "," + safetensors_entry("b", "U8", "[1]", 2, 3),
      3, "after a hole");
  expect_header_refused(safetensors_entry("a", "U8", "[1]", 1, 2), 2, "after a hole");
  expect_header_refused(safetensors_entry("a", "U8", "[1]", 1, 0), 1, "backwards");
  expect_header_refused("\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}", 1,
                        "negative");
  expect_header_refused("\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}", 1,
                        "negative");
  expect_header_refused(safetensors_entry("a", "U8", "[8]", 0, 8), 4, "truncated");
  expect_header_refused(safetensors_entry("a", "U8", "[4]", 0, 4), 8, "appended");
  expect_header_refused(
      "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,18446744073709551616]}", 1,
      "64-bit integer");
}

TEST(Safetensors, M4_EmptyTensorsInsideAnotherAreRefused) {
  expect_header_refused(
      safetensors_entry("a", "U8", "[4]", 0, 4) + "," + safetensors_entry("e", "U8", "[0]", 2, 2),
      4, "inside another tensor");
}

TEST(Safetensors, M5_ShapesThatDoNotMakeTheRangeAreRefused) {
  expect_header_refused(safetensors_entry("a", "F32", "[2]", 0, 4), 4, "shape and dtype make 8");
  expect_header_refused(safetensors_entry("a", "F32", "[]", 0, 8), 8, "shape and dtype make 4");
}

TEST(Safetensors, M5_ShapeProductsThatWrapAreRefused) {
  // 2^62 + 1 elements of 32 bits wrap to 4 bytes.
  expect_header_refused(safetensors_entry("a", "F32", "[4611686018427387905]", 0, 4), 4,
                        "overflows");
  expect_header_refused(safetensors_entry("a", "F32", "[4194305,4194305,4194305]", 0, 4), 4,
                        "overflows");
  expect_header_refused(safetensors_entry("a", "F32", "[9223372036854775808]", 0, 4), 4,
                        "a dimension of");
}

TEST(Safetensors, M6_UnknownAndMisalignedDtypesAreRefused) {
  expect_header_refused(safetensors_entry("a", "F33", "[1]", 0, 4), 4, "unknown dtype 'F33'");
  expect_header_refused(safetensors_entry("a", "f32", "[1]", 0, 4), 4, "unknown dtype");
  expect_header_refused(safetensors_entry("a", "F4", "[3]", 0, 2), 2, "whole bytes");
  EXPECT_TRUE(
      parse(safetensors_text(str("{", safetensors_entry("a", "F4", "[4]", 0, 2), "}"), 2)).ok());
}

TEST(Safetensors, M7_ManyTinyTensorsLoadOrAreRefused) {
  const auto many = [](size_t count) {
    std::string header = "{";
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) header += ',';
      const std::string begin = std::to_string(i);
      header.append("\"t").append(begin).append(R"(":{"dtype":"U8","shape":[1],"data_offsets":[)");
      header.append(begin).append(",").append(std::to_string(i + 1)).append("]}");
    }
    return safetensors_text(header + "}", count);
  };
  const auto file = parse(many(100'000));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->tensors().size(), 100'000u);
  expect_refused(many(262'145), "more than 262144 tensors");
}

TEST(Safetensors, M8_EveryTruncationIsRefused) {
  const std::string whole = small_file();
  ASSERT_TRUE(parse(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto file = parse(std::string_view(whole).substr(0, size));
    ASSERT_FALSE(file.ok()) << "cut at byte " << size << " of " << whole.size();
    ASSERT_EQ(file.status().code(), StatusCode::kInvalidModel) << size;
  }
}

TEST(Safetensors, M19_NoBitFlipInTheHeaderGoesBeyondTheFile) {
  const std::string whole = small_file();
  size_t num_refused = 0;
  for (size_t bit = 0; bit < (whole.size() - 32) * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const auto file = parse(flipped);
    if (!file.ok()) {
      EXPECT_EQ(file.status().code(), StatusCode::kInvalidModel);
      ++num_refused;
      continue;
    }
    unsigned sum = 0;
    for (const SafetensorsTensor& tensor : file->tensors()) {
      for (uint64_t i = 0; i < tensor.bytes; ++i) sum += static_cast<unsigned>(tensor.data[i]);
    }
    EXPECT_EQ(sum, 32u) << "all data bytes, once";
  }
  EXPECT_GT(num_refused, whole.size());
}

class ShardedWeights : public testing::Test {
 protected:
  std::string tensor_file(const std::string& name) const {
    return safetensors_text(str("{", safetensors_entry(name, "F32", "[2]", 0, 8), "}"), 8);
  }
  void write_index(const std::string& weight_map) const {
    folder_.write("model.safetensors.index.json",
                  "{\"metadata\":{\"total_size\":16},\"weight_map\":{" + weight_map + "}}");
  }
  void write_two_shards() const {
    folder_.write("s1.safetensors", tensor_file("a"));
    folder_.write("s2.safetensors", tensor_file("b"));
    write_index(R"("a":"s1.safetensors","b":"s2.safetensors")");
  }
  void expect_open_fails(const std::string& needle) const {
    const auto opened = ShardedSafetensors::open(folder_.path());
    ASSERT_FALSE(opened.ok()) << "accepted, expected: " << needle;
    EXPECT_EQ(opened.status().code(), StatusCode::kInvalidModel) << opened.status().message();
    EXPECT_NE(opened.status().message().find(needle), std::string::npos)
        << opened.status().message();
  }
  TempFolder folder_;
};

TEST_F(ShardedWeights, TheIndexNamesEveryShard) {
  write_two_shards();
  const auto weights = ShardedSafetensors::open(folder_.path());
  ASSERT_TRUE(weights.ok()) << weights.status().message();
  ASSERT_EQ(weights->files().size(), 2u);
  EXPECT_NE(weights->files()[1].find("b"), nullptr);
}

TEST_F(ShardedWeights, ASingleFileNeedsNoIndex) {
  folder_.write("model.safetensors", tensor_file("a"));
  const auto weights = ShardedSafetensors::open(folder_.path());
  ASSERT_TRUE(weights.ok()) << weights.status().message();
  EXPECT_EQ(weights->files().size(), 1u);
}

TEST_F(ShardedWeights, M8_EveryTruncationOfAShardIsRefused) {
  write_two_shards();
  const std::string whole = tensor_file("b");
  for (size_t size = 0; size < whole.size(); ++size) {
    folder_.write("s2.safetensors", whole.substr(0, size));
    const auto weights = ShardedSafetensors::open(folder_.path());
    ASSERT_FALSE(weights.ok()) << size;
    ASSERT_EQ(weights.status().code(), StatusCode::kInvalidModel) << size;
  }
}

TEST_F(ShardedWeights, M9_MissingShardsAreAllNamed) {
  write_two_shards();
  write_index(R"("a":"s1.safetensors","b":"s3.safetensors","c":"s4.safetensors")");
  expect_open_fails("2 of 3 shards missing: 's3.safetensors', 's4.safetensors'");
}

TEST_F(ShardedWeights, M9_ShardNamesThatLeaveTheFolderAreRefused) {
  write_two_shards();
  for (const char* name :
       {"../s1.safetensors", "/etc/passwd", "sub/s1.safetensors", "..", "", ".hidden.safetensors",
        "s1.bin", "a\\\\b.safetensors", "s1.safetensors\\u0000"}) {
    write_index(str("\"a\":\"", name, "\""));
    expect_open_fails("not the plain name");
  }
}

TEST_F(ShardedWeights, M9_LinksOutOfTheFolderAreRefused) {
  write_two_shards();
  const TempFolder outside;
  outside.write("secret.safetensors", tensor_file("a"));
  fs::remove(folder_ / "s1.safetensors");
  fs::create_symlink(outside / "secret.safetensors", folder_ / "s1.safetensors");
  expect_open_fails("leads out of the model's folder");
}

TEST_F(ShardedWeights, M9_LinksOfAHuggingFaceCacheAreFollowed) {
  const fs::path blobs = folder_ / "blobs";
  const fs::path snapshot = folder_ / "snapshots/0123abcd";
  fs::create_directories(blobs);
  fs::create_directories(snapshot);
  write_file(blobs / "etag", tensor_file("a"));
  write_file(snapshot / "model.safetensors.index.json", R"({"weight_map":{"a":"s1.safetensors"}})");
  fs::create_symlink("../../blobs/etag", snapshot / "s1.safetensors");
  const auto weights = ShardedSafetensors::open(snapshot.string());
  ASSERT_TRUE(weights.ok()) << weights.status().message();
  EXPECT_NE(weights->files()[0].find("a"), nullptr);
}

TEST_F(ShardedWeights, M9_ATensorInTwoShardsIsRefused) {
  write_two_shards();
  folder_.write("s2.safetensors",
                safetensors_text(std::string("{") + safetensors_entry("a", "F32", "[2]", 0, 8) +
                                     "," + safetensors_entry("b", "F32", "[2]", 8, 16) + "}",
                                 16));
  expect_open_fails("tensor 'a' is also in");
}

TEST_F(ShardedWeights, M9_ATensorTheNamedShardLacksIsRefused) {
  write_two_shards();
  write_index(R"("a":"s1.safetensors","b":"s1.safetensors")");
  expect_open_fails("not in the shard the index names for them: 'b'");
}

TEST_F(ShardedWeights, M9_IndexesOfAnotherFormAreRefused) {
  for (const char* index :
       {"", "[]", "{}", "{\"weight_map\":1}", "{\"weight_map\":\"s1.safetensors\"}",
        "{\"weight_map\":[]}", "{\"weight_map\":{}}", "{\"weight_map\":{\"a\":1}}",
        "{\"weight_map\":{\"a\":{}}}", "{\"weight_map\":{\"a\":null}}", "{\"weight_map\":{\"a\":[",
        "{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s1.safetensors\"}}"}) {
    folder_.write("s1.safetensors", tensor_file("a"));
    folder_.write("model.safetensors.index.json", index);
    const auto weights = ShardedSafetensors::open(folder_.path());
    ASSERT_FALSE(weights.ok()) << index;
    EXPECT_EQ(weights.status().code(), StatusCode::kInvalidModel) << weights.status().message();
  }
}

TEST_F(ShardedWeights, PickledWeightsAreNamedAndNotRead) {
  folder_.write("pytorch_model.bin", "PK");
  expect_open_fails("pickled");
}

TEST_F(ShardedWeights, AFolderWithoutWeightsSaysSo) { expect_open_fails("holds neither"); }

}  // namespace
}  // namespace slipstream

#include "ops/gemm_choices.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/temp_folder_for_test.h"

namespace slipstream {
namespace {

const GemmShape kShape{.num_tokens = 512, .num_rows = 6144, .num_cols = 4096, .y_stride = 6144};
const GemmChoices::Algorithm kFast{0x1234567890abcdef, 0, 3, 4, 5, 6, 7, ~uint64_t{0}};

GemmShape with_tokens(int64_t num_tokens) {
  GemmShape shape = kShape;
  shape.num_tokens = num_tokens;
  return shape;
}

TEST(GemmChoicesTest, WhatOneStartMeasuresTheNextOneFinds) {
  const TempFolder folder;
  const std::string path = folder.path() + "/not/there/yet.txt";
  GemmChoices first(path);
  EXPECT_EQ(first.find(kShape), nullptr);
  first.add(kShape, kFast);
  first.add(with_tokens(8), {});
  GemmChoices second(path);
  ASSERT_NE(second.find(kShape), nullptr);
  EXPECT_EQ(*second.find(kShape), kFast);
  EXPECT_NE(second.find(with_tokens(8)), nullptr);
  for (const int64_t num_tokens : {16, 511, 513}) {
    EXPECT_EQ(second.find(with_tokens(num_tokens)), nullptr);
  }
  GemmShape other = kShape;
  other.input = DType::kF8E4M3;
  EXPECT_EQ(second.find(other), nullptr);
}

TEST(GemmChoicesTest, LinesThatAreNoneArePassedOver) {
  const TempFolder folder;
  const std::string path = folder.path() + "/choices.txt";
  {
    std::ofstream file(path);
    file << "\n1 2 3\nnonsense\n-5 6144 4096 2 2 6144 1 2 3 4 5 6 7 8\n"
         << "512 6144 4096 2 2 6144 1 2 3 4 5 6 7 8 9\n"
         << "512 6144 4096 2 2 6144 1 2 3 4 5 6 7 1ffffffffffffffff\n";
  }
  GemmChoices choices(path);
  EXPECT_EQ(choices.find(kShape), nullptr);
  choices.add(kShape, kFast);
  EXPECT_NE(GemmChoices(path).find(kShape), nullptr);
}

TEST(GemmChoicesTest, AFileThatCannotBeWrittenCostsNothingElse) {
  GemmChoices choices("/dev/null/choices.txt");
  choices.add(kShape, kFast);
  EXPECT_NE(choices.find(kShape), nullptr);
}

}  // namespace
}  // namespace slipstream

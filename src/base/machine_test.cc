// R9: which memory limit of a control group counts, and what of it is taken.
#include "base/machine.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/temp_folder_for_test.h"

namespace slipstream {
namespace {

class MemoryLimitTest : public testing::Test {
 protected:
  void write(const std::string& folder, const std::string& name, const std::string& text) {
    std::filesystem::create_directories(root_ / folder);
    write_file(root_ / folder / name, text);
  }
  void write_group(const std::string& folder, const std::string& limit, const std::string& usage,
                   const std::string& stat) {
    write(folder, "memory.max", limit);
    write(folder, "memory.current", usage);
    write(folder, "memory.stat", stat);
  }
  std::optional<MemoryLimit> limit() const {
    return memory_limit(root_.path(), (root_ / "membership").string());
  }

  TempFolder root_;
};

TEST_F(MemoryLimitTest, R9_PagesOfFilesAreNotUsed) {
  write("", "membership", "0::/service\n");
  write_group("service", "1000000\n", "900000\n",
              "anon 100\nfile 700\ninactive_file 300000\nactive_file 200000\nslab 9\n");
  ASSERT_TRUE(limit().has_value());
  EXPECT_EQ(limit()->limit_bytes, 1'000'000);
  EXPECT_EQ(limit()->used_bytes, 400'000);
}

TEST_F(MemoryLimitTest, R9_TheGroupAboveCountsWhenItHasLessLeft) {
  write("", "membership", "1:name=systemd:/x\n0::/slice/service\n");
  write_group("slice", "500000\n", "450000\n", "");
  write_group("slice/service", "1000000\n", "100000\n", "");
  EXPECT_EQ(limit()->left_bytes(), 50'000);
  write_group("slice", "max\n", "450000\n", "");
  EXPECT_EQ(limit()->left_bytes(), 900'000);
}

TEST_F(MemoryLimitTest, R9_AContainerSeesItsGroupAtTheRoot) {
  write("", "membership", "0::/of/the/host\n");
  write_group("", "800\n", "300\n", "");
  EXPECT_EQ(limit()->left_bytes(), 500);
}

TEST_F(MemoryLimitTest, R9_TheFirstVersionOfGroupsIsRead) {
  write("", "membership", "4:cpu,memory:/box\n3:cpuset:/other\n");
  write("memory/box", "memory.limit_in_bytes", "1000\n");
  write("memory/box", "memory.usage_in_bytes", "600\n");
  write("memory/box", "memory.stat", "total_active_file 100\ntotal_inactive_file 200\n");
  EXPECT_EQ(limit()->left_bytes(), 700);
}

TEST_F(MemoryLimitTest, R9_WithoutALimitThereIsNone) {
  EXPECT_FALSE(limit().has_value());
  write("", "membership", "0::relative\nnonsense\n:::\n0::\n");
  EXPECT_FALSE(limit().has_value());
  write_group("", "max\n", "300\n", "");
  EXPECT_FALSE(limit().has_value());
}

}  // namespace
}  // namespace slipstream

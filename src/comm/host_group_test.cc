// Collectives of the host's threads: right, the same bits for every member and every time.
#include "comm/host_group.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <vector>

#include "base/random.h"

namespace slipstream {
namespace {

// Calls `member` for each of `world_size` members, each in a thread of its own.
void run_group(int world_size, const std::function<void(Communicator&)>& member) {
  const auto members = make_host_group(world_size);
  std::vector<std::jthread> threads;
  for (const auto& each : members) threads.emplace_back([&member, &each] { member(*each); });
}

std::vector<float> values_of(int rank, int64_t count) {
  SplitMix64 random(static_cast<uint64_t>(rank));
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = random.symmetric();
  return values;
}

TEST(HostGroup, SumsAreTakenInRankOrderWhateverTheShape) {
  OpContext ctx;
  for (const int world_size : {1, 2, 3, 4, 8}) {
    for (const auto& shape : {std::pair<int64_t, int64_t>{1, 1}, {1, 15}, {3, 17}, {5, 1000}}) {
      const int64_t rows = shape.first;
      const int64_t cols = shape.second;
      const int64_t count = rows * cols;
      std::vector<float> want = values_of(0, count);
      for (int rank = 1; rank < world_size; ++rank) {
        const std::vector<float> terms = values_of(rank, count);
        for (size_t i = 0; i < want.size(); ++i) want[i] += terms[i];
      }
      std::vector<std::vector<float>> got(static_cast<size_t>(world_size));
      run_group(world_size, [&](Communicator& comm) {
        std::vector<float>& mine = got[static_cast<size_t>(comm.rank())];
        for (int repeat = 0; repeat < 20; ++repeat) {
          mine = values_of(comm.rank(), count);
          comm.all_reduce_sum(ctx, TensorView::contiguous(mine.data(), DType::kF32, {rows, cols}));
        }
      });
      for (const std::vector<float>& each : got) EXPECT_EQ(each, want) << world_size;
    }
  }
}

TEST(HostGroup, EveryMemberReceivesAllColumnsOfUnequalRanges) {
  OpContext ctx;
  constexpr int64_t kRows = 3;
  const std::vector<IndexRange> columns = {{0, 5}, {5, 0}, {5, 1}, {6, 7}};
  std::vector<std::vector<float>> got(columns.size());
  run_group(4, [&](Communicator& comm) {
    const IndexRange mine = columns[static_cast<size_t>(comm.rank())];
    std::vector<float>& all = got[static_cast<size_t>(comm.rank())];
    all.assign(kRows * 13, -1.0f);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t col = mine.begin; col < mine.end(); ++col) {
        all[static_cast<size_t>(row * 13 + col)] = static_cast<float>(row * 13 + col);
      }
    }
    comm.all_gather_columns(ctx, TensorView::contiguous(all.data(), DType::kF32, {kRows, 13}),
                            columns);
  });
  for (const std::vector<float>& all : got) {
    for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], static_cast<float>(i));
  }
}

TEST(SoloCommunicator, LeavesValuesAsTheyAre) {
  OpContext ctx;
  SoloCommunicator solo;
  EXPECT_EQ(solo.rank(), 0);
  EXPECT_EQ(solo.world_size(), 1);
  std::vector<float> values = {1.0f, 2.0f};
  const std::vector<IndexRange> columns = {{0, 2}};
  const TensorView view = TensorView::contiguous(values.data(), DType::kF32, {1, 2});
  solo.all_reduce_sum(ctx, view);
  solo.all_gather_columns(ctx, view, columns);
  EXPECT_EQ(values, (std::vector<float>{1.0f, 2.0f}));
}

}  // namespace
}  // namespace slipstream

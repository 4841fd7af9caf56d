#include "comm/host_group.h"

#include <algorithm>
#include <array>
#include <barrier>

namespace slipstream {
namespace {

// What a member shows the others between two barriers.
struct alignas(64) Shown {
  float* values = nullptr;
  int64_t num_elements = 0;
};

struct HostGroup {
  explicit HostGroup(int world_size)
      : barrier(world_size), shown(static_cast<size_t>(world_size)) {}
  std::barrier<> barrier;
  std::vector<Shown> shown;  // [world_size]; each written by its own member
};

bool is_contiguous(const TensorView& view) {
  int64_t step = 1;
  for (int axis = view.rank - 1; axis >= 0; --axis) {
    if (view.dim(axis) > 1 && view.stride[static_cast<size_t>(axis)] != step) return false;
    step *= view.dim(axis);
  }
  return true;
}

class HostCommunicator final : public Communicator {
 public:
  HostCommunicator(int rank, std::shared_ptr<HostGroup> group)
      : Communicator(rank, static_cast<int>(group->shown.size())), group_(std::move(group)) {}

  // Each member sums one share of the elements and writes it to all.
  void all_reduce_sum(OpContext&, TensorView values) override {
    show(values);
    constexpr int64_t kLine = 16;  // floats of a cache line, so that members do not share one
    const int64_t num_lines = (values.num_elements() + kLine - 1) / kLine;
    const int64_t begin = num_lines * rank() / world_size() * kLine;
    const int64_t end =
        std::min(num_lines * (rank() + 1) / world_size() * kLine, values.num_elements());
    std::array<float, 1024> sums;
    for (int64_t at = begin; at < end; at += std::ssize(sums)) {
      const int64_t count = std::min(std::ssize(sums), end - at);
      std::copy_n(group_->shown[0].values + at, count, sums.begin());
      for (size_t other = 1; other < group_->shown.size(); ++other) {
        const float* const terms = group_->shown[other].values + at;
        for (int64_t i = 0; i < count; ++i) sums[static_cast<size_t>(i)] += terms[i];
      }
      for (const Shown& each : group_->shown) std::copy_n(sums.begin(), count, each.values + at);
    }
    group_->barrier.arrive_and_wait();
  }

  void all_gather_columns(OpContext&, TensorView all,
                          std::span<const IndexRange> columns) override {
    SLIPSTREAM_CHECK(std::ssize(columns) == world_size(), "a range of columns per member");
    show(all);
    for (int other = 0; other < world_size(); ++other) {
      if (other == rank()) continue;
      const IndexRange range = columns[static_cast<size_t>(other)];
      const float* const from = group_->shown[static_cast<size_t>(other)].values;
      for (int64_t row = 0; row < all.dim(0); ++row) {
        std::copy_n(from + row * all.dim(1) + range.begin, range.count,
                    all.f32_row(row) + range.begin);
      }
    }
    // Nobody goes on and overwrites what another still reads.
    group_->barrier.arrive_and_wait();
  }

 private:
  // Returns when every member's values are complete and can be seen.
  void show(const TensorView& values) {
    SLIPSTREAM_CHECK(values.dtype == DType::kF32, "collectives of the host are of floats");
    SLIPSTREAM_CHECK(is_contiguous(values), "collectives take contiguous values");
    group_->shown[static_cast<size_t>(rank())] = {static_cast<float*>(values.data),
                                                  values.num_elements()};
    group_->barrier.arrive_and_wait();
    for (const Shown& each : group_->shown) {
      SLIPSTREAM_CHECK(each.num_elements == values.num_elements(), "members agree on the shape");
    }
  }

  std::shared_ptr<HostGroup> group_;  // members end in any order; the last one frees it
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_host_group(int world_size) {
  SLIPSTREAM_CHECK(world_size >= 1, "a group has members");
  const auto group = std::make_shared<HostGroup>(world_size);
  std::vector<std::unique_ptr<Communicator>> members;
  for (int rank = 0; rank < world_size; ++rank) {
    members.push_back(std::make_unique<HostCommunicator>(rank, group));
  }
  return members;
}

}  // namespace slipstream

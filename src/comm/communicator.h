// Communicator: one device's end of a group of devices that compute one model together.
//
// Every member makes the same calls in the same order, each with views of its own memory and from
// its own thread, and all members hold the same bits afterwards. A collective is queued behind the
// ops of its context like any op. There is no error to return: a member that does not arrive stops
// the group, so whatever can fail (files, memory) comes before the first collective.
#pragma once

#include <cstdint>
#include <span>

#include "base/check.h"
#include "core/tensor.h"
#include "ops/ops.h"

namespace slipstream {

struct IndexRange {
  int64_t begin = 0;
  int64_t count = 0;
  int64_t end() const { return begin + count; }
  bool operator==(const IndexRange&) const = default;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }

  // values = the sum of all members' values, element by element. Contiguous, of one shape and
  // dtype.
  virtual void all_reduce_sum(OpContext& ctx, TensorView values) = 0;

  // all[rows, columns] of every member receives columns[r] from member r, for every r. The ranges
  // are the same everywhere, in rank order, and cover each column once; each member has computed
  // its own in place.
  virtual void all_gather_columns(OpContext& ctx, TensorView all,
                                  std::span<const IndexRange> columns) = 0;

 protected:
  Communicator(int rank, int world_size) : rank_(rank), world_size_(world_size) {
    SLIPSTREAM_CHECK(rank >= 0 && rank < world_size, "a rank lies within its group");
  }

 private:
  const int rank_;
  const int world_size_;
};

// One device alone: a sum of one and a gathering of all that there is.
class SoloCommunicator final : public Communicator {
 public:
  SoloCommunicator() : Communicator(0, 1) {}
  void all_reduce_sum(OpContext&, TensorView) override {}
  void all_gather_columns(OpContext&, TensorView, std::span<const IndexRange>) override {}
};

}  // namespace slipstream

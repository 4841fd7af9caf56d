// RankQueue: the merges that wait in a long piece, lowest rank first and of equal ranks leftmost.
//
// One list per rank, because merges of one rank arrive almost always from left to right: taking
// the next one reads memory in order, where one heap over a long run of the same character would
// jump through all of it. What arrives out of order goes to the list's own small heap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace slipstream {

class RankQueue {
 public:
  struct Entry {
    uint32_t position = 0;
    uint32_t length = 0;
    int32_t id = -1;
  };

  // Ranks are below `num_ranks` from here on. Drops what is left.
  void reset(size_t num_ranks);
  void push(uint32_t rank, const Entry& entry);
  bool empty() const { return ranks_.empty(); }
  // The queue is not empty.
  Entry pop();

 private:
  struct List {
    std::vector<Entry> in_order;  // by position, from `next` on
    size_t next = 0;
    std::vector<Entry> late;  // min-heap by position
    bool empty() const { return next == in_order.size() && late.empty(); }
    void clear();
  };

  std::vector<int32_t> list_of_rank_;  // -1: none yet
  std::vector<uint32_t> used_ranks_;   // list i belongs to used_ranks_[i]
  std::vector<List> lists_;            // the first used_ranks_.size() are in use
  std::vector<uint32_t> ranks_;        // min-heap of the ranks whose lists are not empty
};

}  // namespace slipstream

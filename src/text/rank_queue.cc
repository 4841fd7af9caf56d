#include "text/rank_queue.h"

#include <algorithm>
#include <functional>

namespace slipstream {
namespace {

bool is_right_of(const RankQueue::Entry& a, const RankQueue::Entry& b) {
  return a.position > b.position;
}

}  // namespace

void RankQueue::List::clear() {
  in_order.clear();
  next = 0;
  late.clear();
}

void RankQueue::reset(size_t num_ranks) {
  for (size_t idx = 0; idx < used_ranks_.size(); ++idx) {
    list_of_rank_[used_ranks_[idx]] = -1;
    lists_[idx].clear();
  }
  used_ranks_.clear();
  ranks_.clear();
  if (list_of_rank_.size() < num_ranks) list_of_rank_.resize(num_ranks, -1);
}

void RankQueue::push(uint32_t rank, const Entry& entry) {
  int32_t& idx = list_of_rank_[rank];
  if (idx < 0) {
    idx = static_cast<int32_t>(used_ranks_.size());
    used_ranks_.push_back(rank);
    if (lists_.size() < used_ranks_.size()) lists_.emplace_back();
  }
  List& list = lists_[static_cast<size_t>(idx)];
  if (list.empty()) {
    list.clear();
    ranks_.push_back(rank);
    std::push_heap(ranks_.begin(), ranks_.end(), std::greater<>());
  }
  const bool is_last =
      list.next == list.in_order.size() || list.in_order.back().position <= entry.position;
  if (is_last) {
    list.in_order.push_back(entry);
  } else {
    list.late.push_back(entry);
    std::push_heap(list.late.begin(), list.late.end(), is_right_of);
  }
}

RankQueue::Entry RankQueue::pop() {
  List& list = lists_[static_cast<size_t>(list_of_rank_[ranks_.front()])];
  Entry out;
  const bool from_late =
      !list.late.empty() && (list.next == list.in_order.size() ||
                             list.late.front().position < list.in_order[list.next].position);
  if (from_late) {
    out = list.late.front();
    std::pop_heap(list.late.begin(), list.late.end(), is_right_of);
    list.late.pop_back();
  } else {
    out = list.in_order[list.next++];
  }
  if (list.empty()) {
    std::pop_heap(ranks_.begin(), ranks_.end(), std::greater<>());
    ranks_.pop_back();
  }
  return out;
}

}  // namespace slipstream

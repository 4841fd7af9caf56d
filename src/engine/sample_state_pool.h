// SampleStatePool: who has which of the device's sampling states. Engine thread.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace slipstream {

class SampleStatePool {
 public:
  explicit SampleStatePool(int32_t num_states) : num_states_(num_states) {
    for (int32_t idx = num_states; idx > 0; --idx) free_.push_back(idx - 1);
  }
  SampleStatePool(const SampleStatePool&) = delete;
  SampleStatePool& operator=(const SampleStatePool&) = delete;

  int32_t num_states() const { return num_states_; }

  // A state that goes back to the pool, which must outlive it. The device may still work with it
  // then: whoever has it next fills it behind that work.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(idx_, other.idx_);
      std::swap(num_counted_, other.num_counted_);
      return *this;
    }
    ~Lease() { give_back(); }

    bool held() const { return pool_ != nullptr; }
    int32_t idx() const { return idx_; }
    void give_back() {
      if (held()) std::exchange(pool_, nullptr)->free_.push_back(idx_);
    }
    // How many tokens of the answer the state has counted when all that is queued is done; -1: it
    // was not filled yet.
    int64_t num_counted() const { return num_counted_; }
    void set_num_counted(int64_t num_counted) { num_counted_ = num_counted; }

   private:
    friend class SampleStatePool;
    SampleStatePool* pool_ = nullptr;
    int32_t idx_ = -1;
    int64_t num_counted_ = -1;
  };

  // One that is not held when there is none left.
  Lease take() {
    Lease lease;
    if (free_.empty()) return lease;
    lease.pool_ = this;
    lease.idx_ = free_.back();
    free_.pop_back();
    return lease;
  }

 private:
  int32_t num_states_;
  std::vector<int32_t> free_;
};

}  // namespace slipstream

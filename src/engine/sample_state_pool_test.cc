#include "engine/sample_state_pool.h"

#include <gtest/gtest.h>

#include <utility>

namespace slipstream {
namespace {

TEST(SampleStatePool, GivesEachStateToOneAtATime) {
  SampleStatePool pool(2);
  SampleStatePool::Lease first = pool.take();
  {
    const SampleStatePool::Lease second = pool.take();
    ASSERT_TRUE(first.held() && second.held());
    EXPECT_NE(first.idx(), second.idx());
    EXPECT_FALSE(pool.take().held());
  }
  EXPECT_TRUE(pool.take().held()) << "what was held came back";
  const int32_t idx = first.idx();
  SampleStatePool::Lease moved = std::move(first);
  EXPECT_EQ(moved.idx(), idx);
  moved.set_num_counted(7);
  moved.give_back();
  moved.give_back();
  EXPECT_FALSE(moved.held());
  const SampleStatePool::Lease third = pool.take();
  SampleStatePool::Lease fourth = pool.take();
  EXPECT_TRUE(third.held() && fourth.held());
  EXPECT_FALSE(pool.take().held());
  EXPECT_EQ(fourth.num_counted(), -1) << "whoever has it next fills it";
}

}  // namespace
}  // namespace slipstream

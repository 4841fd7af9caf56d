#include "ops/op_profile.h"

#include <gtest/gtest.h>

#include "base/thread_pool.h"

namespace slipstream {
namespace {

ForwardBatch batch_of(int num_seqs, int32_t context) {
  ForwardBatch batch;
  batch.cu_seqlens_q = {0};
  for (int32_t seq = 0; seq < num_seqs; ++seq) {
    batch.token_ids.push_back(0);
    batch.cu_seqlens_q.push_back(seq + 1);
    batch.seq_lens.push_back(context);
  }
  return batch;
}

class OpProfileTest : public testing::Test {
 protected:
  void SetUp() override {
    ctx_.pool = &pool_;
    ASSERT_TRUE(ref_.open(ctx_, {.max_tokens = 8, .max_cols = 64}).ok());
  }
  // A step of two norms of [2, 4].
  void step(const Ops& ops, int num_seqs) {
    (void)ops.begin_step(ctx_, batch_of(num_seqs, 10));
    for (int i = 0; i < 2; ++i) ops.rms_norm(ctx_, x_, weight_.data(), 1e-5f, y_);
  }

  const Ops& ref_ = *cpu_ops(CpuIsa::kRef);
  ThreadPool pool_{1};
  OpContext ctx_;
  std::vector<float> weight_ = {1, 2, 3, 4};
  std::vector<float> values_ = {1, -2, 3, -4, 5, 6, 7, 8};
  std::vector<float> out_ = std::vector<float>(8);
  TensorView x_ = TensorView::contiguous(values_.data(), DType::kF32, {2, 4});
  TensorView y_ = TensorView::contiguous(out_.data(), DType::kF32, {2, 4});
};

TEST_F(OpProfileTest, CountsTheOpsOfFullStepsAfterTheFirst) {
  OpProfile profile(2, 3, 1);
  const Ops& ops = profile.attach(ref_);
  ctx_.profile = &profile;
  for (const int num_seqs : {1, 7, 3, 2, 4, 5, 6}) step(ops, num_seqs);  // those of 3 and of 4
  const std::vector<OpTime> times = profile.times(ctx_);
  EXPECT_EQ(profile.num_steps(), 2);
  EXPECT_EQ(profile.num_tokens(), 3 + 4);
  ASSERT_EQ(times.size(), 1u);
  const OpTime& norm = times[0];
  EXPECT_EQ(norm.name, "rms_norm");
  EXPECT_EQ(norm.num_calls, 4);
  EXPECT_EQ(norm.bytes, 4.0 * 2 * 8 * sizeof(float));
  EXPECT_GT(norm.us, 0.0);
  EXPECT_GE(profile.span_us(), norm.us * 0.99);
}

TEST_F(OpProfileTest, ComputesWhatTheTableComputes) {
  step(ref_, 1);
  const std::vector<float> wanted = out_;
  OpProfile profile(1, 1, 0);
  const Ops& ops = profile.attach(ref_);
  ctx_.profile = &profile;
  for (int i = 0; i < 2; ++i) {  // timed, and not
    out_.assign(out_.size(), 0.0f);
    step(ops, 1);
    EXPECT_EQ(out_, wanted);
  }
}

}  // namespace
}  // namespace slipstream

#include "ops/op_profile.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "base/temp_folder_for_test.h"
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
    (void)ops.begin_step(ctx_, batch_of(num_seqs, 10), {});
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

// Rows of a table that is idle for 5 us after every op of 10 us, by its own marks.
TEST_F(OpProfileTest, TracesOpsAsLongAsTheDeviceTookAndStepsAroundThem) {
  Ops device = ref_;
  device.mark = [](OpContext&, int) {};
  device.between_us = [](OpContext&, int begin, int end) {
    const auto at = [](int idx) { return 15.0 * (idx / 2) + 10.0 * (idx % 2); };
    return at(end) - at(begin);
  };
  const TempFolder folder;
  const std::string path = (folder / "trace.json").string();
  {
    const auto writer = TraceWriter::open(path).value();  // reads names after the profile is gone
    OpProfile profile(2, 1, 0);
    profile.trace_to(*writer);
    const Ops& ops = profile.attach(device);
    ctx_.profile = &profile;
    for (const int num_seqs : {3, 4, 5}) step(ops, num_seqs);
    (void)profile.times(ctx_);
  }
  std::vector<Json> lanes;
  std::vector<Json> ops;
  std::vector<Json> steps;
  const Result<Json> trace = parse_json(read_file(path), path);
  ASSERT_TRUE(trace.ok()) << trace.status().message();
  for (const Json& event : trace.value()) {
    if (event["name"] == "thread_name") lanes.push_back(event["args"]["name"]);
    if (event["name"] == "rms_norm") ops.push_back(event);
    if (event["name"] == "step") steps.push_back(event);
  }
  EXPECT_EQ(lanes, (std::vector<Json>{"steps", "ops"}));
  ASSERT_EQ(steps.size(), 2u);
  ASSERT_EQ(ops.size(), 4u);
  const auto start_us = [](const Json& event) { return event["ts"].get<double>(); };
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_NE(steps[i]["tid"], ops[i]["tid"]);
    EXPECT_EQ(steps[i]["args"], (Json{{"tokens", 3 + i}, {"sequences", 3 + i}}));
    EXPECT_NEAR(steps[i]["dur"].get<double>(), 25.0, 0.01);
    EXPECT_NEAR(start_us(ops[2 * i]), start_us(steps[i]), 0.01);
    EXPECT_NEAR(start_us(ops[2 * i + 1]), start_us(steps[i]) + 15.0, 0.01);
  }
  EXPECT_GT(start_us(steps[1]), start_us(steps[0]));
  for (const Json& op : ops) {
    EXPECT_NEAR(op["dur"].get<double>(), 10.0, 0.01);
    EXPECT_EQ(op["args"]["bytes"], 2 * 8 * sizeof(float));
  }
}

TEST_F(OpProfileTest, NamesTheFormatOfProductsOnly) {
  const Weight weight = [&] {
    const SourceMatrix source{reinterpret_cast<const std::byte*>(values_.data()), QuantType::kF32,
                              2, 4};
    return ref_.pack(ctx_, source, WeightRole::kLinear).value();
  }();
  OpProfile profile(1, 1, 0);
  const Ops& ops = profile.attach(ref_);
  ctx_.profile = &profile;
  step(ops, 1);
  const LinearPart part{&weight, nullptr, TensorView::contiguous(out_.data(), DType::kF32, {2, 2})};
  ops.linear(ctx_, x_, {&part, 1});
  for (const OpTime& op : profile.times(ctx_)) {
    EXPECT_EQ(op.format, op.name == "linear 2x4" ? "F32" : "") << op.name;
    EXPECT_EQ(op.flops, op.name == "linear 2x4" ? 2.0 * 2 * 2 * 4 : 0.0) << op.name;
  }
}

}  // namespace
}  // namespace slipstream

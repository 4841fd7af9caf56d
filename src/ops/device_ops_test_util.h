// The GPU's ops, opened as the cases of ops_cases.h need them, for tests of what it packs. Skips
// without a GPU.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "ops/ops.h"
#include "ops/ops_cases.h"

namespace slipstream {

class DeviceOpsTest : public testing::Test {
 protected:
  // Of what kLinear matrices are packed as; for SetUp.
  void open(DType weight_dtype) {
    std::string why;
    ops_ = cuda_ops(&why);
    if (ops_ == nullptr) GTEST_SKIP() << why;
    ctx_.pool = &pool_;
    ctx_.weight_dtype = weight_dtype;
    OpLimits limits = op_case_limits();
    limits.max_logit_rows = limits.max_tokens;
    limits.max_head_dim = 64;
    const Status opened = ops_->open(ctx_, limits);
    ASSERT_TRUE(opened.ok()) << opened.message();
  }

  Weight packed(const SourceMatrix& source, WeightRole role) {
    auto weight = ops_->pack(ctx_, source, role);
    EXPECT_TRUE(weight.ok()) << weight.status().message();
    return weight.ok() ? std::move(weight).value() : Weight{};
  }
  template <typename T>
  std::vector<T> read(const void* from, int64_t count) const {
    std::vector<T> values(static_cast<size_t>(count));
    ops_->memory->copy_out(values.data(), from, values.size() * sizeof(T));
    return values;
  }

  const Ops* ops_ = nullptr;
  ThreadPool pool_{2};
  OpContext ctx_;
};

}  // namespace slipstream

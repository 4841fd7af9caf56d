#include "engine/fake_executor.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"

namespace slipstream {
namespace {

// Above the other logits, which are 0: more than Gumbel noise makes up for at temperatures to 2.
constexpr float kWinnerLogit = 40.0f;

bool is_readable(std::string_view bytes) {
  const auto letter_or_blank = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == ' ' || c == ',' || c == '.';
  };
  return !bytes.empty() && std::all_of(bytes.begin(), bytes.end(), letter_or_blank);
}

class FakeExecutor final : public Executor {
 public:
  explicit FakeExecutor(FakeExecutorOptions options)
      : options_(std::move(options)), pacer_(options_.step_ns) {
    SLIPSTREAM_CHECK(!options_.answer_ids.empty(), "answers are made of something");
  }

  const char* name() const override { return "fake"; }
  bool can_run(const ForwardBatch&) const override { return true; }

  TensorView forward(const ForwardBatch& batch) override {
    if (options_.step_ns > 0) {
      const std::chrono::nanoseconds start(pacer_.next_start(steady_now_ns()));
      std::this_thread::sleep_until(std::chrono::steady_clock::time_point(start));
    }
    const int64_t num_rows = batch.num_logit_rows();
    const auto row_width = static_cast<size_t>(options_.vocab_size);
    // Rows are cleared whole: who samples may have written anywhere.
    logits_.assign(static_cast<size_t>(num_rows) * row_width, 0.0f);
    for (int64_t row = 0; row < num_rows; ++row) {
      const auto token_idx = static_cast<size_t>(batch.logit_rows[static_cast<size_t>(row)]);
      const int32_t id = next_id(batch.token_ids[token_idx], batch.positions[token_idx]);
      logits_[static_cast<size_t>(row) * row_width + static_cast<size_t>(id)] = kWinnerLogit;
    }
    return TensorView::contiguous(logits_.data(), DType::kF32, {num_rows, options_.vocab_size});
  }

 private:
  int32_t next_id(int32_t token_id, int32_t position) const {
    const uint64_t place = (static_cast<uint64_t>(static_cast<uint32_t>(position)) << 32) |
                           static_cast<uint32_t>(token_id);
    return options_.answer_ids[SplitMix64(place).below(options_.answer_ids.size())];
  }

  FakeExecutorOptions options_;
  StepPacer pacer_;
  std::vector<float> logits_;  // [num_rows, vocab_size]
};

}  // namespace

int64_t StepPacer::next_start(int64_t now_ns) {
  const int64_t start_ns = std::max(now_ns, earliest_ns_);
  earliest_ns_ = start_ns + step_ns_;
  return start_ns;
}

std::unique_ptr<Executor> make_fake_executor(FakeExecutorOptions options) {
  return std::make_unique<FakeExecutor>(std::move(options));
}

std::vector<int32_t> fake_answer_ids(int64_t vocab_size, const std::vector<int32_t>& end_ids,
                                     const Tokenizer* tokenizer) {
  std::vector<int32_t> readable, others;
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (std::binary_search(end_ids.begin(), end_ids.end(), id)) continue;
    if (tokenizer != nullptr && tokenizer->is_special(id)) continue;
    others.push_back(id);
    if (tokenizer != nullptr && is_readable(tokenizer->token_bytes(id))) readable.push_back(id);
  }
  if (!readable.empty()) return readable;
  if (others.empty()) others.push_back(0);  // a vocabulary of nothing but ends
  return others;
}

}  // namespace slipstream

#include "engine/sim_stream.h"

#include <algorithm>
#include <memory>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "engine/active_request.h"

namespace slipstream {
namespace {

constexpr int32_t kEos = 11;

// Ids 0..10 give text: words that overlap each other, and code points in pieces. 11 ends answers.
constexpr std::string_view kTokenizer =
    R"({"added_tokens":[{"id":11,"content":"<end>","special":true}],)"
    R"("decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]},)"
    R"("model":{"type":"BPE","byte_fallback":true,"vocab":{"a":0,"b":1,"ab":2,"aab":3,)"
    R"("<0xC3>":4,"<0xA9>":5,"<0xF0>":6,"<0x9F>":7,"<0x98>":8,"<0x80>":9," a":10},"merges":[]}})";

struct Answer {
  std::string text;
  size_t num_tokens = 0;
  FinishReason finish = FinishReason::kNone;
  bool by_string = false;
};

// The text of `ids`; without `at_end`, less the code point that more tokens may complete.
std::string text_of(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool at_end) {
  std::string bytes;
  for (const int32_t id : ids) {
    if (id != kEos) bytes += tokenizer.token_bytes(id);
  }
  for (size_t at = 0; !at_end && at < bytes.size();) {
    const Utf8Step step = utf8_decode(bytes, at);
    if (step.truncated) bytes.resize(at);
    at += step.length;
  }
  return utf8_sanitized(bytes);
}

// Bytes of `text` up to the end of the match that ends first, and of those the longest.
struct Match {
  size_t begin = 0;
  size_t end = 0;
};
Match find_stop(std::string_view text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) return {end - longest, end};
  }
  return {};
}

// The definition: `ids` is all that would be sampled, `num_before_abort` when somebody cancels.
Answer define(const Tokenizer& tokenizer, const Request& request, std::span<const int32_t> ids,
              size_t num_before_abort) {
  const SamplingParams& sampling = request.sampling;
  const auto first_checked = static_cast<size_t>(std::max<int64_t>(sampling.min_tokens, 1));
  const std::string unchecked = text_of(tokenizer, ids.first(first_checked - 1), false);
  for (size_t count = 1; count <= ids.size(); ++count) {
    if (count > num_before_abort) break;
    const int32_t id = ids[count - 1];
    const bool checked = count >= first_checked;
    const bool at_id = checked && (std::ranges::count(sampling.stop_token_ids, id) > 0 ||
                                   (id == kEos && !sampling.ignore_eos));
    const bool shown = !at_id || sampling.include_stop_in_output;
    const auto visible = ids.first(shown ? count : count - 1);
    const bool at_length = static_cast<int64_t>(count) == *sampling.max_tokens;
    const std::string text = text_of(tokenizer, visible, at_id || at_length);
    if (checked) {
      const Match match = find_stop(std::string_view(text).substr(unchecked.size()), sampling.stop);
      if (match.end > 0) {
        const size_t kept = sampling.include_stop_in_output ? match.end : match.begin;
        return {text.substr(0, unchecked.size() + kept), count, FinishReason::kStop, true};
      }
    }
    if (at_id) return {text, count, FinishReason::kStop, false};
    if (at_length) return {text, count, FinishReason::kLength, false};
  }
  return {text_of(tokenizer, ids.first(num_before_abort), true), num_before_abort,
          FinishReason::kAbort, false};
}

Request random_request(SplitMix64& random) {
  Request request;
  request.prompt_token_ids = {0};
  SamplingParams& sampling = request.sampling;
  sampling.max_tokens = 1 + static_cast<int64_t>(random.below(30));
  if (random.below(3) == 0) {
    sampling.min_tokens =
        static_cast<int64_t>(random.below(static_cast<uint64_t>(*sampling.max_tokens) + 1));
  }
  constexpr std::string_view kPieces[] = {"a", "b", "aab", "\xC3\xA9", "\xF0\x9F\x98\x80", " "};
  for (uint64_t i = random.below(4); i > 0; --i) {
    std::string stop;
    for (uint64_t j = 1 + random.below(4); j > 0; --j) {
      stop += kPieces[random.below(std::size(kPieces))];
    }
    sampling.stop.push_back(stop);
  }
  if (random.below(4) == 0) {
    sampling.stop_token_ids.push_back(static_cast<int32_t>(random.below(kEos)));
  }
  sampling.include_stop_in_output = random.below(3) == 0;
  sampling.ignore_eos = random.below(3) == 0;
  return request;
}

// The answer as its events tell it. `problem`: a rule of events was broken.
Answer stream(const Tokenizer& tokenizer, const Request& request, std::span<const int32_t> ids,
              size_t num_before_abort, std::string& problem) {
  const std::vector<int32_t> eos_ids = {kEos};
  ActiveRequestArgs args;
  args.id = 5;
  args.max_new_tokens = *request.sampling.max_tokens;
  args.tokenizer = &tokenizer;
  args.eos_token_ids = &eos_ids;
  ActiveRequest active(request, args);
  Answer answer;
  while (answer.finish == FinishReason::kNone) {
    const bool aborts = answer.num_tokens == std::min(num_before_abort, ids.size());
    Sample sample;
    if (!aborts) sample.token_id = ids[answer.num_tokens];
    TokenEvent event;
    if (aborts) {
      event = active.end(FinishReason::kAbort, {});
    } else {
      active.accept(std::move(sample), event);
    }
    if (event.request != 5) problem = "an event of another request";
    if (event.first != (answer.num_tokens == 0)) problem = "the first event is not the first";
    if (!aborts && event.token_id != ids[answer.num_tokens]) problem = "another token";
    if (!utf8_valid(event.text)) problem = "a code point is split";
    answer.text += event.text;
    answer.finish = event.finish;
    answer.by_string = event.stop_idx >= 0;
    if (!aborts) ++answer.num_tokens;
  }
  return answer;
}

}  // namespace

SimStreamReport run_stream_simulation(const SimStreamOptions& options) {
  const auto tokenizer = Tokenizer::from_json(kTokenizer, "the simulator's tokenizer");
  SLIPSTREAM_CHECK(tokenizer.ok(), tokenizer.status().message());
  SimStreamReport report;
  SplitMix64 random(options.seed);
  while (report.num_answers < options.num_answers) {
    ++report.num_answers;
    const Request request = random_request(random);
    std::vector<int32_t> ids;
    for (int64_t i = *request.sampling.max_tokens; i > 0; --i) {
      ids.push_back(static_cast<int32_t>(random.below(random.below(4) == 0 ? kEos + 1 : 4)));
      // Most pieces of code points come whole.
      if (ids.back() == 4 && random.below(2) == 0 && i > 1) ids.push_back(5), --i;
      if (ids.back() == 6 && random.below(3) != 0 && i > 3) {
        for (const int32_t id : {7, 8, 9}) ids.push_back(id);
        i -= 3;
      }
    }
    const size_t num_before_abort =
        random.below(5) == 0 ? random.below(ids.size()) : ids.size() + 1;
    std::string problem;
    const Answer expected =
        define(*tokenizer.value(), request, ids, std::min(num_before_abort, ids.size()));
    const Answer got = stream(*tokenizer.value(), request, ids, num_before_abort, problem);
    if (problem.empty() && got.text != expected.text) {
      problem = str("the text is ", quote(got.text), " and not ", quote(expected.text));
    }
    if (problem.empty() &&
        (got.finish != expected.finish || got.num_tokens != expected.num_tokens ||
         got.by_string != expected.by_string)) {
      problem =
          str("it ends after ", got.num_tokens, " tokens by ", finish_reason_name(got.finish),
              " and not after ", expected.num_tokens, " by ", finish_reason_name(expected.finish));
    }
    if (!problem.empty()) {
      report.violation = str("seed ", options.seed, ", answer ", report.num_answers, ": ", problem);
      break;
    }
    report.num_tokens += static_cast<int64_t>(got.num_tokens);
    report.num_aborted += got.finish == FinishReason::kAbort ? 1 : 0;
    report.num_at_length += got.finish == FinishReason::kLength ? 1 : 0;
    if (got.finish == FinishReason::kStop) {
      ++(got.by_string ? report.num_stopped_by_string : report.num_stopped_by_id);
    }
  }
  return report;
}

}  // namespace slipstream

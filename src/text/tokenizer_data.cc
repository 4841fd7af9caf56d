// What the vocabulary readers share.
#include "text/tokenizer_data.h"

#include <algorithm>

#include "base/strings.h"

namespace slipstream {
namespace {

// Published tokens that end a turn or a message. Models' files often name only one of them.
constexpr std::string_view kEndTokens[] = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eot|>",
    "<|end_of_text|>",
    "<|END_OF_TURN_TOKEN|>",
};

}  // namespace

void add_end_of_generation(TokenizerData& data, int32_t id) {
  std::vector<int32_t>& ids = data.special.end_of_generation_ids;
  const auto place = std::lower_bound(ids.begin(), ids.end(), id);
  if (place == ids.end() || *place != id) ids.insert(place, id);
}

void add_known_end_tokens(TokenizerData& data) {
  for (const std::string_view text : kEndTokens) {
    const int32_t id = data.vocab.find(text);
    if (id >= 0 && data.is_special[static_cast<size_t>(id)]) add_end_of_generation(data, id);
  }
}

Status add_token_rule(TokenizerData& data, const AddedToken& token) {
  if (token.special) data.is_special[static_cast<size_t>(token.id)] = true;
  if (!token.normalized) {
    data.added.add(token, token.content);
    return {};
  }
  const size_t max_bytes = kMaxTokenBytes;
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string spelling,
                              data.normalizer.apply(token.content, max_bytes));
  data.added_normalized.add(token, spelling);
  return {};
}

MergeBuilder::MergeBuilder(const Vocab& vocab, size_t num_merges) : vocab_(vocab) {
  table_.reserve(num_merges);
  texts_.reserve(2 * kBatch);
}

Status MergeBuilder::add(std::string_view left, std::string_view right) {
  texts_.push_back(left);
  texts_.push_back(right);
  return texts_.size() < 2 * kBatch ? Status() : flush();
}

Result<MergeTable> MergeBuilder::finish() {
  SLIPSTREAM_RETURN_IF_ERROR(flush());
  return std::move(table_);
}

Status MergeBuilder::flush() {
  const size_t count = texts_.size() / 2;
  ids_.resize(texts_.size());
  made_.resize(count);
  vocab_.find_many(texts_, ids_);
  for (size_t k = 0; k < count; ++k) {
    const std::string_view left = texts_[2 * k];
    const std::string_view right = texts_[2 * k + 1];
    if (left.empty() || right.empty()) {
      return invalid_model(str("merge ", num_merges_ + k, " is not a pair of tokens"));
    }
    joined_.assign(left);
    joined_ += right;
    // Vocabularies list tokens in the order of their merges: the next id saves most searches.
    const int32_t next_id = last_id_ + 1;
    const bool is_next =
        vocab_.all_distinct() && vocab_.contains(next_id) && vocab_.text(next_id) == joined_;
    last_id_ = is_next ? next_id : vocab_.find(joined_);
    made_[k] = last_id_;
    if (ids_[2 * k] < 0 || ids_[2 * k + 1] < 0 || last_id_ < 0) {
      const std::string_view missing = ids_[2 * k] < 0       ? left
                                       : ids_[2 * k + 1] < 0 ? right
                                                             : std::string_view(joined_);
      return invalid_model(str("merge ", num_merges_ + k, ": ", quote(missing), " is no token"));
    }
    table_.prefetch(ids_[2 * k], ids_[2 * k + 1]);
  }
  for (size_t k = 0; k < count; ++k) {
    table_.insert(ids_[2 * k], ids_[2 * k + 1], {static_cast<uint32_t>(num_merges_ + k), made_[k]});
  }
  num_merges_ += count;
  texts_.clear();
  return {};
}

}  // namespace slipstream

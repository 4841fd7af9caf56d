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

Status insert_merge(const Vocab& vocab, std::string_view left, std::string_view right,
                    size_t merge_idx, std::string& joined, MergeTable& table) {
  if (left.empty() || right.empty()) {
    return invalid_model(str("merge ", merge_idx, " is not a pair of tokens"));
  }
  joined.assign(left);
  joined += right;
  const int32_t left_id = vocab.find(left);
  const int32_t right_id = vocab.find(right);
  const int32_t id = vocab.find(joined);
  if (left_id < 0 || right_id < 0 || id < 0) {
    const std::string_view missing = left_id < 0 ? left : right_id < 0 ? right : joined;
    return invalid_model(str("merge ", merge_idx, ": ", quote(missing), " is no token"));
  }
  table.insert(left_id, right_id, {static_cast<uint32_t>(merge_idx), id});
  return {};
}

}  // namespace slipstream

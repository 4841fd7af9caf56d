// TokenizerData: what every vocabulary reader fills in and Tokenizer works from.
//
// Plain data and the readers' entry points; private to this folder.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/unigram.h"
#include "text/vocab.h"

namespace slipstream {

struct TokenizerData {
  Vocab vocab;
  std::variant<std::monostate, BpeModel, UnigramModel> model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  AddedTokenSet added;             // searched in the text as it comes
  AddedTokenSet added_normalized;  // searched after normalization
  std::vector<bool> is_special;    // per id
  std::vector<int32_t> prefix_ids;
  std::vector<int32_t> suffix_ids;
  bool drops_leading_space = false;
  SpecialTokens special;
  std::string bos_token;
  std::string eos_token;
  std::vector<NamedTemplate> chat_templates;
};

using TokenizerDataPtr = std::unique_ptr<TokenizerData>;

Result<TokenizerDataPtr> read_tokenizer_json(std::string_view json, const std::string& what);
// `added_tokens` is a JSON list as in tokenizer.json.
Result<TokenizerDataPtr> read_vocab_and_merges(std::string_view vocab_json, std::string_view merges,
                                               std::string_view added_tokens,
                                               const std::string& what);
Result<TokenizerDataPtr> read_sentencepiece_model(std::string_view bytes, const std::string& what);
Result<TokenizerDataPtr> read_gguf_vocab(const GgufMetadata& metadata);

// What stands beside the vocabulary in a model's folder: tokenizer_config.json, chat_template.jinja
// and additional_chat_templates, special_tokens_map.json, generation_config.json.
enum class SpecialsRule {
  kFromVocab,   // the vocabulary file itself says what surrounds a text
  kBosIfAsked,  // add_bos_token and add_eos_token say so, default no
  kBosByDefault,
};
Status read_folder_extras(const std::string& folder, SpecialsRule rule, TokenizerData& data);

// Steps that several readers share. All of them run after the vocabulary is complete.

void add_end_of_generation(TokenizerData& data, int32_t id);
// Adds published end-of-turn tokens that the vocabulary holds as special tokens.
void add_known_end_tokens(TokenizerData& data);
// Makes a token of the vocabulary one that is searched in the text. Needs the normalizer.
Status add_token_rule(TokenizerData& data, const AddedToken& token);

// Turns merges, given in order as pairs of spellings, into a table of ids.
class MergeBuilder {
 public:
  // `vocab` is indexed and outlives the builder, as do the texts of all merges.
  MergeBuilder(const Vocab& vocab, size_t num_merges);
  // An error may come with a later merge, or with finish(); it names the merge that is wrong.
  Status add(std::string_view left, std::string_view right);
  Result<MergeTable> finish();

 private:
  static constexpr size_t kBatch = 64;
  Status flush();

  const Vocab& vocab_;
  MergeTable table_;
  size_t num_merges_ = 0;                // in the table
  std::vector<std::string_view> texts_;  // left, right, left, right ... not yet in the table
  std::vector<int32_t> ids_;             // of texts_
  std::vector<int32_t> made_;            // by each pair
  int32_t last_id_ = -1;
  std::string joined_;
};

}  // namespace slipstream

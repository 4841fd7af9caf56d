// Reads the vocabulary of a GGUF file: tokenizer.ggml.* and tokenizer.chat_template.
#include <cmath>

#include "base/strings.h"
#include "loader/gguf.h"
#include "text/known_patterns.h"
#include "text/tokenizer_data.h"

namespace slipstream {
namespace {

const std::string kPrefix = "tokenizer.ggml.";

enum class Family { kByteLevel, kSentencePiece };

Result<TokenKind> kind_of(int64_t type, size_t id) {
  switch (type) {
    case 0:  // undefined: old files leave it so
    case 1:
      return TokenKind::kNormal;
    case 2:
      return TokenKind::kUnknown;
    case 3:
      return TokenKind::kControl;
    case 4:
      return TokenKind::kUserDefined;
    case 5:
      return TokenKind::kUnused;
    case 6:
      return TokenKind::kByte;
    default:
      return invalid_model(str(kPrefix, "token_type of token ", id, " is ", type));
  }
}

class Reader {
 public:
  Reader(const GgufMetadata& metadata, TokenizerData& data) : metadata_(metadata), data_(data) {}

  Status read() {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string model, text("model", ""));
    if (model.empty()) return invalid_model("the file holds no vocabulary (tokenizer.ggml.model)");
    if (model != "gpt2" && model != "llama") {
      return invalid_model(
          str(kPrefix, "model ", quote(model), " is not supported; gpt2 and llama are"));
    }
    const Family family = model == "gpt2" ? Family::kByteLevel : Family::kSentencePiece;
    SLIPSTREAM_RETURN_IF_ERROR(read_tokens(family));
    if (family == Family::kByteLevel) {
      SLIPSTREAM_RETURN_IF_ERROR(read_byte_level());
    } else {
      SLIPSTREAM_RETURN_IF_ERROR(read_sentencepiece());
    }
    SLIPSTREAM_RETURN_IF_ERROR(add_rules());
    SLIPSTREAM_RETURN_IF_ERROR(read_specials(family));
    return read_templates();
  }

 private:
  Result<std::string> text(const std::string& key, const std::string& fallback) const {
    return metadata_.get_string(kPrefix + key, fallback);
  }
  Result<bool> flag(const std::string& key, bool fallback) const {
    return metadata_.get_bool(kPrefix + key, fallback);
  }

  Status read_tokens(Family family);
  Status read_byte_level();
  Status read_sentencepiece();
  Status add_rules();
  Result<std::optional<int32_t>> token_id(const std::string& key) const;
  Status read_specials(Family family);
  Status read_templates();

  const GgufMetadata& metadata_;
  TokenizerData& data_;
  bool adds_bos_ = false;  // unless the file says otherwise
};

Status Reader::read_tokens(Family family) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto* tokens, metadata_.get_strings(kPrefix + "tokens"));
  if (tokens == nullptr || tokens->empty()) return invalid_model(kPrefix + "tokens is missing");
  if (tokens->size() > kMaxVocabSize) {
    return invalid_model(str(tokens->size(), " tokens, the limit is ", kMaxVocabSize));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto* types, metadata_.get_ints(kPrefix + "token_type"));
  if (types != nullptr && types->size() != tokens->size()) {
    return invalid_model(
        str(kPrefix, "token_type has ", types->size(), " entries for ", tokens->size(), " tokens"));
  }
  data_.vocab.reserve(tokens->size());
  for (size_t id = 0; id < tokens->size(); ++id) {
    const std::string_view token = (*tokens)[id];
    if (token.size() > kMaxTokenBytes) {
      return invalid_model(
          str("token ", id, " has ", token.size(), " bytes, the limit is ", kMaxTokenBytes));
    }
    TokenKind kind = TokenKind::kNormal;
    if (types != nullptr) {
      SLIPSTREAM_ASSIGN_OR_RETURN(kind, kind_of((*types)[id], id));
    }
    std::string bytes(token);
    if (kind == TokenKind::kByte) {
      const auto byte = parse_byte_token(token);
      if (!byte) return invalid_model(str("token ", id, ", ", quote(token), ", is no byte"));
      bytes.assign(1, static_cast<char>(*byte));
    } else if (family == Family::kSentencePiece) {
      bytes = spaces_for_marks(token);
    } else if (kind == TokenKind::kNormal || kind == TokenKind::kUnused) {
      bytes = unspell_bytes(token).value_or(std::move(bytes));
    }
    data_.vocab.add(token, bytes, kind);
  }
  data_.vocab.index();
  data_.is_special.assign(tokens->size(), false);
  return {};
}

Status Reader::read_byte_level() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string name, text("pre", "default"));
  const GgufPreTokenizer* rule = find_gguf_pre_tokenizer(name);
  if (rule == nullptr) {
    return invalid_model(str(kPrefix, "pre ", quote(name), " is not supported; known are ",
                             gguf_pre_tokenizer_names()));
  }
  if (rule->nfc) data_.normalizer.add(FormStep{UnicodeForm::kNfc});
  for (const std::string_view pattern : rule->patterns) {
    SLIPSTREAM_ASSIGN_OR_RETURN(Regex regex, Regex::compile(pattern));
    SLIPSTREAM_RETURN_IF_ERROR(
        data_.pre_tokenizer.add(SplitStep{.pattern = Pattern::regex(std::move(regex))}));
  }
  SLIPSTREAM_RETURN_IF_ERROR(
      data_.pre_tokenizer.add(ByteLevelStep{.add_prefix_space = false, .use_regex = false}));
  adds_bos_ = rule->add_bos;

  SLIPSTREAM_ASSIGN_OR_RETURN(const auto* merges, metadata_.get_strings(kPrefix + "merges"));
  if (merges == nullptr) return invalid_model(kPrefix + "merges is missing");
  MergeBuilder builder(data_.vocab, merges->size());
  for (const std::string_view merge : *merges) {
    // A token may begin with a space spelled as itself, so the separator is sought behind it.
    const size_t space = merge.find(' ', 1);
    const std::string_view right =
        space == std::string_view::npos ? std::string_view() : merge.substr(space + 1);
    SLIPSTREAM_RETURN_IF_ERROR(builder.add(merge.substr(0, space), right));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(MergeTable table, builder.finish());
  if (rule->ignore_merges) data_.vocab.index_bytes();
  data_.model = BpeModel::from_merges(data_.vocab, std::move(table),
                                      {.byte_level = true, .ignore_merges = rule->ignore_merges});
  return {};
}

Status Reader::read_sentencepiece() {
  const std::string key = kPrefix + "scores";
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto* numbers, metadata_.get_numbers(key));
  if (numbers == nullptr) return invalid_model(key + " is missing");
  if (numbers->size() != static_cast<size_t>(data_.vocab.size())) {
    return invalid_model(
        str(key, " has ", numbers->size(), " entries for ", data_.vocab.size(), " tokens"));
  }
  std::vector<float> scores;
  scores.reserve(numbers->size());
  for (const double number : *numbers) {
    if (!std::isfinite(number)) return invalid_model(key + " holds a value that is not finite");
    scores.push_back(static_cast<float>(number));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(data_.drops_leading_space, flag("add_space_prefix", true));
  if (data_.drops_leading_space) data_.normalizer.add(PrependStep{std::string(kSpaceMark)});
  data_.normalizer.add(ReplaceStep{Pattern::literal(" "), std::string(kSpaceMark)});
  SLIPSTREAM_ASSIGN_OR_RETURN(data_.special.unk_id, token_id("unknown_token_id"));
  BpeOptions options = {.byte_fallback = true, .fuse_unk = true};
  options.unk_id = data_.special.unk_id.value_or(-1);
  data_.model = BpeModel::from_scores(data_.vocab, scores, options);
  adds_bos_ = true;
  return {};
}

Status Reader::add_rules() {
  for (int32_t id = 0; id < data_.vocab.size(); ++id) {
    const TokenKind kind = data_.vocab.kind(id);
    const bool special = kind == TokenKind::kControl || kind == TokenKind::kUnknown;
    if (!special && kind != TokenKind::kUserDefined) continue;
    const std::string_view spelling = data_.vocab.text(id);
    if (spelling.size() > kMaxAddedTokenBytes) {
      return invalid_model(str("special token ", id, " has ", spelling.size(),
                               " bytes, the limit is ", kMaxAddedTokenBytes));
    }
    SLIPSTREAM_RETURN_IF_ERROR(
        add_token_rule(data_, {.id = id, .content = std::string(spelling), .special = special}));
  }
  return {};
}

Result<std::optional<int32_t>> Reader::token_id(const std::string& key) const {
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t id, metadata_.get_int(kPrefix + key, -1));
  // Files mark "none" by all bits set.
  if (id == -1 || id == int64_t{UINT32_MAX}) return std::optional<int32_t>();
  if (id < 0 || id >= data_.vocab.size()) {
    return invalid_model(str(kPrefix, key, " is ", id, ", ids are 0 to ", data_.vocab.size() - 1));
  }
  return std::optional(static_cast<int32_t>(id));
}

Status Reader::read_specials(Family family) {
  SpecialTokens& special = data_.special;
  SLIPSTREAM_ASSIGN_OR_RETURN(special.bos_id, token_id("bos_token_id"));
  SLIPSTREAM_ASSIGN_OR_RETURN(special.eos_id, token_id("eos_token_id"));
  SLIPSTREAM_ASSIGN_OR_RETURN(special.unk_id, token_id("unknown_token_id"));
  SLIPSTREAM_ASSIGN_OR_RETURN(special.pad_id, token_id("padding_token_id"));
  // SentencePiece's own defaults, which old files leave out.
  const bool has_defaults = family == Family::kSentencePiece && data_.vocab.size() > 2;
  if (has_defaults && !special.bos_id && data_.vocab.kind(1) == TokenKind::kControl) {
    special.bos_id = 1;
  }
  if (has_defaults && !special.eos_id && data_.vocab.kind(2) == TokenKind::kControl) {
    special.eos_id = 2;
  }
  if (special.bos_id) data_.bos_token = data_.vocab.text(*special.bos_id);
  if (special.eos_id) {
    data_.eos_token = data_.vocab.text(*special.eos_id);
    add_end_of_generation(data_, *special.eos_id);
  }
  for (const char* key : {"eot_token_id", "eom_token_id"}) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::optional<int32_t> id, token_id(key));
    if (id) add_end_of_generation(data_, *id);
  }
  add_known_end_tokens(data_);

  SLIPSTREAM_ASSIGN_OR_RETURN(const bool adds_bos, flag("add_bos_token", adds_bos_));
  SLIPSTREAM_ASSIGN_OR_RETURN(const bool adds_eos, flag("add_eos_token", false));
  if (adds_bos && special.bos_id) data_.prefix_ids.push_back(*special.bos_id);
  if (adds_eos && special.eos_id) data_.suffix_ids.push_back(*special.eos_id);
  return {};
}

Status Reader::read_templates() {
  const std::string key = "tokenizer.chat_template";
  SLIPSTREAM_ASSIGN_OR_RETURN(std::string source, metadata_.get_string(key, ""));
  if (!source.empty()) data_.chat_templates.push_back({"default", std::move(source)});
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto* names, metadata_.get_strings(key + "s"));
  if (names == nullptr) return {};
  for (const std::string_view name : *names) {
    SLIPSTREAM_ASSIGN_OR_RETURN(source, metadata_.get_string(str(key, ".", name), ""));
    if (!source.empty()) data_.chat_templates.push_back({std::string(name), std::move(source)});
  }
  return {};
}

}  // namespace

Result<TokenizerDataPtr> read_gguf_vocab(const GgufMetadata& metadata) {
  auto data = std::make_unique<TokenizerData>();
  SLIPSTREAM_RETURN_IF_ERROR(Reader(metadata, *data).read().in("vocabulary"));
  return data;
}

}  // namespace slipstream

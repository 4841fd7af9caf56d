// Reads tokenizer.json, and vocab.json with merges.txt. The one door to Boost.JSON, whose
// implementation is compiled here.
//
// Owns the meaning of every key; what it does not know is an error that names the key, never a
// silent difference in ids. Truncation and padding belong to callers and are ignored.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include <boost/json/src.hpp>
#pragma GCC diagnostic pop

#include <algorithm>
#include <exception>

#include "base/json_escape.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "text/tokenizer_data.h"

namespace slipstream {
namespace {

namespace json = boost::json;

constexpr size_t kMaxJsonBytes = 256u << 20;
constexpr size_t kMaxJsonDepth = 32;
// Ids that added tokens may leave unused between themselves.
constexpr size_t kMaxIdGap = 4096;

std::string_view to_view(json::string_view text) { return {text.data(), text.size()}; }

const json::value* find(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(json::string_view(key.data(), key.size()));
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<bool> get_bool(const json::object& object, std::string_view key, bool fallback) {
  const json::value* value = find(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) return invalid_model(str(key, " is not a boolean"));
  return value->get_bool();
}

Result<std::string_view> get_string(const json::object& object, std::string_view key,
                                    std::string_view fallback) {
  const json::value* value = find(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) return invalid_model(str(key, " is not a string"));
  return to_view(value->get_string());
}

Result<int64_t> get_int(const json::object& object, std::string_view key, int64_t fallback) {
  const json::value* value = find(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_int64()) return invalid_model(str(key, " is not an integer"));
  return value->get_int64();
}

// An absent array is empty.
Result<const json::array*> get_array(const json::object& object, std::string_view key) {
  static const json::array kEmpty;
  const json::value* value = find(object, key);
  if (value == nullptr) return &kEmpty;
  if (!value->is_array()) return invalid_model(str(key, " is not an array"));
  return &value->get_array();
}

Result<const json::object*> as_object(const json::value& value, std::string_view what) {
  if (!value.is_object()) return invalid_model(str(what, " is not an object"));
  return &value.get_object();
}

// {"String": "..."} or {"Regex": "..."}.
Result<Pattern> get_pattern(const json::object& object) {
  const json::value* value = find(object, "pattern");
  if (value == nullptr) return invalid_model("pattern is missing");
  SLIPSTREAM_ASSIGN_OR_RETURN(const json::object* rule, as_object(*value, "pattern"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view literal, get_string(*rule, "String", ""));
  if (rule->contains("String")) return Pattern::literal(std::string(literal));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view source, get_string(*rule, "Regex", ""));
  if (!rule->contains("Regex")) return invalid_model("pattern has neither String nor Regex");
  SLIPSTREAM_ASSIGN_OR_RETURN(Regex regex, Regex::compile(source));
  return Pattern::regex(std::move(regex));
}

Result<Pattern> builtin_pattern(std::string_view source) {
  SLIPSTREAM_ASSIGN_OR_RETURN(Regex regex, Regex::compile(source));
  return Pattern::regex(std::move(regex));
}

// How decoding changes one token's spelling, worked out once per token at load.
struct TokenDecoder {
  struct Replacement {
    std::string from;
    std::string to;
  };
  bool byte_level = false;
  bool byte_fallback = false;
  bool fused = false;
  bool drops_leading_space = false;
  bool joins_with_space = false;  // without a decoder, tokens are words
  std::vector<Replacement> replacements;

  std::string bytes_of(std::string_view text) const {
    if (byte_level) return unspell_bytes(text).value_or(std::string(text));
    if (byte_fallback) {
      if (const auto byte = parse_byte_token(text)) return std::string(1, static_cast<char>(*byte));
    }
    std::string out(text);
    for (const Replacement& rule : replacements) {
      for (size_t at = out.find(rule.from); at != std::string::npos;
           at = out.find(rule.from, at + rule.to.size())) {
        out.replace(at, rule.from.size(), rule.to);
      }
    }
    return joins_with_space ? " " + out : out;
  }
};

class Reader {
 public:
  explicit Reader(TokenizerData& data) : data_(data) {}

  Status read(const json::object& root) {
    SLIPSTREAM_RETURN_IF_ERROR(read_decoder(find(root, "decoder")).in("decoder"));
    SLIPSTREAM_RETURN_IF_ERROR(read_normalizer(find(root, "normalizer")).in("normalizer"));
    SLIPSTREAM_RETURN_IF_ERROR(read_pre_tokenizer(find(root, "pre_tokenizer")).in("pre_tokenizer"));
    SLIPSTREAM_RETURN_IF_ERROR(read_vocab_and_added(root));
    SLIPSTREAM_RETURN_IF_ERROR(read_model().in("model"));
    return read_post_processor(find(root, "post_processor")).in("post_processor");
  }

 private:
  static Result<std::string_view> type_of(const json::object& object) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view type, get_string(object, "type", ""));
    if (type.empty()) return invalid_model("type is missing");
    return type;
  }
  static Status unsupported(std::string_view type) {
    return invalid_model(str("type ", quote(type), " is not supported"));
  }

  Status read_normalizer(const json::value* value);
  Status read_pre_tokenizer(const json::value* value);
  Status add_split(const json::object& rule);
  Status add_metaspace(const json::object& rule);
  Status add_builtin_split(std::string_view pattern, SplitBehavior behavior, bool invert = false);
  Status read_decoder(const json::value* value);
  Status read_post_processor(const json::value* value);
  Status read_template(const json::object& rule);
  Status add_pair(const json::object& rule, std::string_view key, std::vector<int32_t>& ids);

  Status read_vocab_and_added(const json::object& root);
  Status collect_model_tokens(const json::object& model);
  Status collect_added_tokens(const json::array& list);
  Status place(std::string_view text, int64_t id, bool is_added);
  Status read_model();
  Status read_bpe();
  Status read_unigram();
  Result<std::string_view> type_of_model() const;

  TokenizerData& data_;
  TokenDecoder decoder_;
  const json::object* model_ = nullptr;
  std::vector<std::string_view> texts_;  // per id
  std::vector<TokenKind> kinds_;         // per id; kUnused where no token was placed
  std::vector<float> scores_;            // Unigram: per id
  std::vector<AddedToken> added_;
  size_t max_ids_ = 0;
};

// Where the prefix of a SentencePiece text comes from: older files have a boolean.
Result<MetaspaceStep::Prepend> prepend_of(const json::object& rule) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const bool add_prefix, get_bool(rule, "add_prefix_space", true));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view scheme,
                              get_string(rule, "prepend_scheme", add_prefix ? "always" : "never"));
  if (scheme == "always") return MetaspaceStep::Prepend::kAlways;
  if (scheme == "first") return MetaspaceStep::Prepend::kFirst;
  if (scheme == "never") return MetaspaceStep::Prepend::kNever;
  return invalid_model(str("prepend_scheme ", quote(scheme), " is not always, first or never"));
}

Status Reader::read_normalizer(const json::value* value) {
  if (value == nullptr) return {};
  SLIPSTREAM_ASSIGN_OR_RETURN(const json::object* rule, as_object(*value, "the rule"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view type, type_of(*rule));
  Normalizer& out = data_.normalizer;
  if (type == "Sequence") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const json::array* parts, get_array(*rule, "normalizers"));
    for (const json::value& part : *parts) SLIPSTREAM_RETURN_IF_ERROR(read_normalizer(&part));
  } else if (type == "NFC") {
    out.add(FormStep{UnicodeForm::kNfc});
  } else if (type == "NFD") {
    out.add(FormStep{UnicodeForm::kNfd});
  } else if (type == "NFKC") {
    out.add(FormStep{UnicodeForm::kNfkc});
  } else if (type == "NFKD") {
    out.add(FormStep{UnicodeForm::kNfkd});
  } else if (type == "Prepend") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view text, get_string(*rule, "prepend", ""));
    if (text.size() > kMaxAddedTokenBytes) return invalid_model("prepend is too long");
    out.add(PrependStep{std::string(text)});
  } else if (type == "Replace") {
    SLIPSTREAM_ASSIGN_OR_RETURN(Pattern pattern, get_pattern(*rule));
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view content, get_string(*rule, "content", ""));
    out.add(ReplaceStep{std::move(pattern), std::string(content)});
  } else if (type == "Lowercase") {
    out.add(LowercaseStep{});
  } else if (type == "Strip") {
    StripStep strip;
    SLIPSTREAM_ASSIGN_OR_RETURN(strip.left, get_bool(*rule, "strip_left", true));
    SLIPSTREAM_ASSIGN_OR_RETURN(strip.right, get_bool(*rule, "strip_right", true));
    out.add(strip);
  } else if (type == "StripAccents") {
    out.add(StripAccentsStep{});
  } else if (type == "ByteLevel") {
    out.add(SpellBytesStep{});
  } else {
    return unsupported(type);
  }
  return {};
}

Status Reader::add_builtin_split(std::string_view pattern, SplitBehavior behavior, bool invert) {
  SLIPSTREAM_ASSIGN_OR_RETURN(Pattern compiled, builtin_pattern(pattern));
  return data_.pre_tokenizer.add(SplitStep{std::move(compiled), behavior, invert});
}

Status Reader::add_split(const json::object& rule) {
  static constexpr std::pair<std::string_view, SplitBehavior> kBehaviors[] = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  };
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view name, get_string(rule, "behavior", ""));
  const auto* found = std::find_if(std::begin(kBehaviors), std::end(kBehaviors),
                                   [&](const auto& row) { return row.first == name; });
  if (found == std::end(kBehaviors)) {
    return invalid_model(str("behavior ", quote(name), " is not supported"));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view type, type_of(rule));
  if (type == "Punctuation") return add_builtin_split(R"([!-/:-@\[-`{-~\p{P}])", found->second);
  SLIPSTREAM_ASSIGN_OR_RETURN(Pattern pattern, get_pattern(rule));
  SLIPSTREAM_ASSIGN_OR_RETURN(const bool invert, get_bool(rule, "invert", false));
  return data_.pre_tokenizer.add(SplitStep{std::move(pattern), found->second, invert});
}

Status Reader::add_metaspace(const json::object& rule) {
  MetaspaceStep step;
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view replacement,
                              get_string(rule, "replacement", step.replacement));
  if (replacement.empty() || utf8_decode(replacement, 0).length != replacement.size()) {
    return invalid_model("replacement is not one character");
  }
  step.replacement = replacement;
  SLIPSTREAM_ASSIGN_OR_RETURN(step.prepend, prepend_of(rule));
  SLIPSTREAM_ASSIGN_OR_RETURN(step.split, get_bool(rule, "split", true));
  return data_.pre_tokenizer.add(std::move(step));
}

Status Reader::read_pre_tokenizer(const json::value* value) {
  if (value == nullptr) return {};
  SLIPSTREAM_ASSIGN_OR_RETURN(const json::object* rule, as_object(*value, "the rule"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view type, type_of(*rule));
  if (type == "Sequence") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const json::array* parts, get_array(*rule, "pretokenizers"));
    for (const json::value& part : *parts) SLIPSTREAM_RETURN_IF_ERROR(read_pre_tokenizer(&part));
    return {};
  }
  if (type == "Split") return add_split(*rule);
  if (type == "Punctuation") {
    if (rule->contains("behavior")) return add_split(*rule);
    return add_builtin_split(R"([!-/:-@\[-`{-~\p{P}])", SplitBehavior::kIsolated);
  }
  if (type == "Metaspace") return add_metaspace(*rule);
  if (type == "ByteLevel") {
    ByteLevelStep step;
    SLIPSTREAM_ASSIGN_OR_RETURN(step.add_prefix_space, get_bool(*rule, "add_prefix_space", true));
    SLIPSTREAM_ASSIGN_OR_RETURN(step.use_regex, get_bool(*rule, "use_regex", true));
    return data_.pre_tokenizer.add(step);
  }
  if (type == "Digits") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const bool single, get_bool(*rule, "individual_digits", false));
    return add_builtin_split(single ? R"(\p{N})" : R"(\p{N}+)", SplitBehavior::kIsolated);
  }
  if (type == "Whitespace") {
    return add_builtin_split(R"(\w+|[^\w\s]+)", SplitBehavior::kRemoved, true);
  }
  if (type == "WhitespaceSplit") return add_builtin_split(R"(\s+)", SplitBehavior::kRemoved);
  if (type == "CharDelimiterSplit") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view delimiter,
                                get_string(*rule, "delimiter", ""));
    return data_.pre_tokenizer.add(
        SplitStep{Pattern::literal(std::string(delimiter)), SplitBehavior::kRemoved});
  }
  if (type == "FixedLength") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t length, get_int(*rule, "length", 5));
    if (length < 1) return invalid_model("length is below 1");
    return data_.pre_tokenizer.add(FixedLengthStep{static_cast<size_t>(length)});
  }
  return unsupported(type);
}

Status Reader::read_decoder(const json::value* value) {
  if (value == nullptr) {
    decoder_.joins_with_space = true;
    decoder_.drops_leading_space = true;
    return {};
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const json::object* rule, as_object(*value, "the rule"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view type, type_of(*rule));
  if (type == "Sequence") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const json::array* parts, get_array(*rule, "decoders"));
    for (const json::value& part : *parts) SLIPSTREAM_RETURN_IF_ERROR(read_decoder(&part));
  } else if (type == "ByteLevel") {
    decoder_.byte_level = true;
  } else if (type == "ByteFallback") {
    decoder_.byte_fallback = true;
  } else if (type == "Fuse") {
    decoder_.fused = true;
  } else if (type == "Metaspace") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view mark,
                                get_string(*rule, "replacement", "\xE2\x96\x81"));
    SLIPSTREAM_ASSIGN_OR_RETURN(const MetaspaceStep::Prepend prepend, prepend_of(*rule));
    if (mark.empty()) return invalid_model("replacement is empty");
    decoder_.replacements.push_back({std::string(mark), " "});
    decoder_.drops_leading_space |= prepend != MetaspaceStep::Prepend::kNever;
  } else if (type == "Replace") {
    const json::value* pattern = find(*rule, "pattern");
    const json::object* spelled = pattern != nullptr ? pattern->if_object() : nullptr;
    if (spelled == nullptr) return invalid_model("pattern is missing");
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view from, get_string(*spelled, "String", ""));
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view to, get_string(*rule, "content", ""));
    if (from.empty()) return invalid_model("pattern is not a String");
    if (to.size() > from.size()) return invalid_model("content is longer than pattern");
    decoder_.replacements.push_back({std::string(from), std::string(to)});
  } else if (type == "Strip") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view content, get_string(*rule, "content", " "));
    SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t start, get_int(*rule, "start", 0));
    SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t stop, get_int(*rule, "stop", 0));
    if (content != " " || start < 0 || start > 1 || stop != 0 || !decoder_.fused) {
      return invalid_model("Strip is supported for one leading space, behind Fuse");
    }
    decoder_.drops_leading_space |= start == 1;
  } else {
    return unsupported(type);
  }
  return {};
}

Status Reader::place(std::string_view text, int64_t id, bool is_added) {
  if (text.size() > kMaxTokenBytes) {
    return invalid_model(
        str("token ", id, " has ", text.size(), " bytes, the limit is ", kMaxTokenBytes));
  }
  if (id < 0 || static_cast<size_t>(id) >= max_ids_) {
    return invalid_model(
        str("token ", quote(text), " has id ", id, ", ids are 0 to ", max_ids_ - 1));
  }
  const size_t idx = static_cast<size_t>(id);
  if (idx >= texts_.size()) {
    texts_.resize(idx + 1);
    kinds_.resize(idx + 1, TokenKind::kUnused);
  }
  const bool taken = kinds_[idx] != TokenKind::kUnused;
  if (taken && texts_[idx] != text) {
    return invalid_model(
        str("id ", id, " belongs to both ", quote(texts_[idx]), " and ", quote(text)));
  }
  texts_[idx] = text;
  if (!is_added) kinds_[idx] = TokenKind::kNormal;
  if (is_added && !taken) kinds_[idx] = TokenKind::kControl;
  return {};
}

Status Reader::collect_added_tokens(const json::array& list) {
  if (list.size() > kMaxAddedTokens) return invalid_model("too many added tokens");
  for (const json::value& value : list) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const json::object* rule, as_object(value, "an added token"));
    AddedToken token;
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view content, get_string(*rule, "content", ""));
    SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t id, get_int(*rule, "id", -1));
    if (content.size() > kMaxAddedTokenBytes) {
      return invalid_model(str("added token ", id, " has ", content.size(), " bytes, the limit is ",
                               kMaxAddedTokenBytes));
    }
    SLIPSTREAM_RETURN_IF_ERROR(place(content, id, true));
    token.id = static_cast<int32_t>(id);
    token.content = content;
    SLIPSTREAM_ASSIGN_OR_RETURN(token.special, get_bool(*rule, "special", false));
    SLIPSTREAM_ASSIGN_OR_RETURN(token.lstrip, get_bool(*rule, "lstrip", false));
    SLIPSTREAM_ASSIGN_OR_RETURN(token.rstrip, get_bool(*rule, "rstrip", false));
    SLIPSTREAM_ASSIGN_OR_RETURN(token.single_word, get_bool(*rule, "single_word", false));
    SLIPSTREAM_ASSIGN_OR_RETURN(token.normalized, get_bool(*rule, "normalized", !token.special));
    added_.push_back(std::move(token));
  }
  return {};
}

Status Reader::collect_model_tokens(const json::object& model) {
  const json::value* vocab = find(model, "vocab");
  if (vocab == nullptr) return invalid_model("vocab is missing");
  if (const json::object* by_text = vocab->if_object()) {
    for (const json::key_value_pair& entry : *by_text) {
      if (!entry.value().is_int64()) {
        return invalid_model(str("the id of ", quote(to_view(entry.key())), " is no integer"));
      }
      SLIPSTREAM_RETURN_IF_ERROR(place(to_view(entry.key()), entry.value().get_int64(), false));
    }
  } else if (const json::array* scored = vocab->if_array()) {
    for (size_t id = 0; id < scored->size(); ++id) {
      const json::array* pair = (*scored)[id].if_array();
      if (pair == nullptr || pair->size() != 2 || !(*pair)[0].is_string() ||
          !(*pair)[1].is_number()) {
        return invalid_model(str("vocab entry ", id, " is not [text, score]"));
      }
      SLIPSTREAM_RETURN_IF_ERROR(
          place(to_view((*pair)[0].get_string()), static_cast<int64_t>(id), false));
      scores_.push_back(static_cast<float>((*pair)[1].to_number<double>()));
    }
  } else {
    return invalid_model("vocab is neither an object nor an array");
  }
  const auto hole = std::find(kinds_.begin(), kinds_.end(), TokenKind::kUnused);
  if (hole != kinds_.end() && added_.empty()) {
    return invalid_model(str("no token has id ", hole - kinds_.begin()));
  }
  return {};
}

Status Reader::read_vocab_and_added(const json::object& root) {
  const json::value* model = find(root, "model");
  if (model == nullptr) return invalid_model("model is missing");
  SLIPSTREAM_ASSIGN_OR_RETURN(model_, as_object(*model, "model"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const json::array* added, get_array(root, "added_tokens"));
  const json::value* vocab = find(*model_, "vocab");
  size_t num_model_tokens = 0;
  if (vocab != nullptr && vocab->is_object()) num_model_tokens = vocab->get_object().size();
  if (vocab != nullptr && vocab->is_array()) num_model_tokens = vocab->get_array().size();
  if (num_model_tokens == 0) return invalid_model("model: vocab is missing or empty");
  max_ids_ = std::min(num_model_tokens + added->size() + kMaxIdGap, kMaxVocabSize);
  texts_.reserve(num_model_tokens + added->size());
  kinds_.reserve(num_model_tokens + added->size());
  SLIPSTREAM_RETURN_IF_ERROR(collect_model_tokens(*model_).in("model"));
  const size_t model_end = texts_.size();
  SLIPSTREAM_RETURN_IF_ERROR(collect_added_tokens(*added).in("added_tokens"));
  for (size_t id = 0; id < model_end; ++id) {
    if (kinds_[id] == TokenKind::kUnused) return invalid_model(str("no token has id ", id));
  }

  SLIPSTREAM_ASSIGN_OR_RETURN(const bool byte_fallback, get_bool(*model_, "byte_fallback", false));
  data_.vocab.reserve(texts_.size());
  for (size_t id = 0; id < texts_.size(); ++id) {
    if (byte_fallback && parse_byte_token(texts_[id])) kinds_[id] = TokenKind::kByte;
    data_.vocab.add(texts_[id], decoder_.bytes_of(texts_[id]), kinds_[id]);
  }
  data_.drops_leading_space = decoder_.drops_leading_space;
  data_.vocab.index();
  data_.is_special.assign(texts_.size(), false);
  for (const AddedToken& token : added_) {
    SLIPSTREAM_RETURN_IF_ERROR(add_token_rule(data_, token));
  }
  return {};
}

Result<std::string_view> Reader::type_of_model() const {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view type, get_string(*model_, "type", ""));
  if (!type.empty()) return type;
  // Old files name no type; only BPE has merges.
  return std::string_view(model_->contains("merges") ? "BPE" : "");
}

Status Reader::read_model() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view type, type_of_model());
  if (type == "BPE") return read_bpe();
  if (type == "Unigram") return read_unigram();
  return invalid_model(str("type ", quote(type), " is not supported; BPE and Unigram are"));
}

Status Reader::read_bpe() {
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view affix, get_string(*model_, key, ""));
    if (!affix.empty()) return invalid_model(str(key, " ", quote(affix), " is not supported"));
  }
  BpeOptions options;
  options.byte_level = data_.pre_tokenizer.byte_level() || data_.normalizer.spells_bytes();
  if (options.byte_level && !decoder_.byte_level) {
    return invalid_model("ByteLevel pre-tokenizer without a ByteLevel decoder");
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(options.byte_fallback, get_bool(*model_, "byte_fallback", false));
  SLIPSTREAM_ASSIGN_OR_RETURN(options.fuse_unk, get_bool(*model_, "fuse_unk", false));
  SLIPSTREAM_ASSIGN_OR_RETURN(options.ignore_merges, get_bool(*model_, "ignore_merges", false));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view unk, get_string(*model_, "unk_token", ""));
  if (!unk.empty()) {
    options.unk_id = data_.vocab.find(unk);
    if (options.unk_id < 0) return invalid_model(str("unk_token ", quote(unk), " is no token"));
    data_.special.unk_id = options.unk_id;
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const json::array* merges, get_array(*model_, "merges"));
  MergeBuilder builder(data_.vocab, merges->size());
  for (const json::value& entry : *merges) {
    std::string_view left;
    std::string_view right;
    if (const json::array* pair = entry.if_array();
        pair != nullptr && pair->size() == 2 && (*pair)[0].is_string() && (*pair)[1].is_string()) {
      left = to_view((*pair)[0].get_string());
      right = to_view((*pair)[1].get_string());
    } else if (entry.is_string()) {
      const std::string_view text = to_view(entry.get_string());
      const size_t space = text.find(' ');
      left = text.substr(0, space);
      right = space == std::string_view::npos ? "" : text.substr(space + 1);
    }
    SLIPSTREAM_RETURN_IF_ERROR(builder.add(left, right));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(MergeTable table, builder.finish());
  if (options.byte_level && options.ignore_merges) data_.vocab.index_bytes();
  data_.model = BpeModel::from_merges(data_.vocab, std::move(table), options);
  return {};
}

Status Reader::read_unigram() {
  if (scores_.empty()) return invalid_model("vocab has no scores");
  UnigramOptions options;
  SLIPSTREAM_ASSIGN_OR_RETURN(options.byte_fallback, get_bool(*model_, "byte_fallback", false));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t unk_id, get_int(*model_, "unk_id", -1));
  if (unk_id >= static_cast<int64_t>(scores_.size())) return invalid_model("unk_id is no token");
  if (unk_id >= 0) {
    options.unk_id = static_cast<int32_t>(unk_id);
    data_.special.unk_id = options.unk_id;
  }
  scores_.resize(static_cast<size_t>(data_.vocab.size()), 0.0f);
  SLIPSTREAM_ASSIGN_OR_RETURN(UnigramModel model,
                              UnigramModel::create(data_.vocab, std::move(scores_), options));
  data_.model = std::move(model);
  return {};
}

Status Reader::add_pair(const json::object& rule, std::string_view key, std::vector<int32_t>& ids) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const json::array* pair, get_array(rule, key));
  if (pair->size() != 2 || !(*pair)[1].is_int64() || (*pair)[1].get_int64() < 0 ||
      (*pair)[1].get_int64() >= data_.vocab.size()) {
    return invalid_model(str(key, " is not [token, id]"));
  }
  ids.push_back(static_cast<int32_t>((*pair)[1].get_int64()));
  return {};
}

// Only the template for one text: pairs of texts are an encoder model's business.
Status Reader::read_template(const json::object& rule) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const json::array* single, get_array(rule, "single"));
  const json::value* specials = find(rule, "special_tokens");
  bool behind_text = false;
  for (const json::value& value : *single) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const json::object* part, as_object(value, "a part of single"));
    if (part->contains("Sequence")) {
      if (behind_text) return invalid_model("single has two sequences");
      behind_text = true;
      continue;
    }
    const json::value* token = find(*part, "SpecialToken");
    const json::object* spec = token != nullptr ? token->if_object() : nullptr;
    if (spec == nullptr) return invalid_model("a part of single is no Sequence or SpecialToken");
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view name, get_string(*spec, "id", ""));
    const json::object* table = specials != nullptr ? specials->if_object() : nullptr;
    const json::value* entry = table != nullptr ? find(*table, name) : nullptr;
    const json::object* row = entry != nullptr ? entry->if_object() : nullptr;
    if (row == nullptr) {
      return invalid_model(str("special_tokens has no entry for ", quote(name)));
    }
    SLIPSTREAM_ASSIGN_OR_RETURN(const json::array* ids, get_array(*row, "ids"));
    for (const json::value& id : *ids) {
      if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= data_.vocab.size()) {
        return invalid_model(str("special_tokens: ", quote(name), " has an id that is no token"));
      }
      std::vector<int32_t>& out = behind_text ? data_.suffix_ids : data_.prefix_ids;
      out.push_back(static_cast<int32_t>(id.get_int64()));
    }
  }
  if (!single->empty() && !behind_text) return invalid_model("single has no sequence");
  return {};
}

Status Reader::read_post_processor(const json::value* value) {
  if (value == nullptr) return {};
  SLIPSTREAM_ASSIGN_OR_RETURN(const json::object* rule, as_object(*value, "the rule"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string_view type, type_of(*rule));
  if (type == "Sequence") {
    SLIPSTREAM_ASSIGN_OR_RETURN(const json::array* parts, get_array(*rule, "processors"));
    for (const json::value& part : *parts) SLIPSTREAM_RETURN_IF_ERROR(read_post_processor(&part));
    return {};
  }
  if (type == "ByteLevel") return {};  // moves offsets only
  if (type == "TemplateProcessing") return read_template(*rule);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    SLIPSTREAM_RETURN_IF_ERROR(add_pair(*rule, "cls", data_.prefix_ids));
    return add_pair(*rule, "sep", data_.suffix_ids);
  }
  return unsupported(type);
}

Result<TokenizerDataPtr> read_document(std::string_view text) {
  if (text.size() > kMaxJsonBytes) {
    return invalid_model(str("larger than the limit of ", human_bytes(kMaxJsonBytes)));
  }
  json::monotonic_resource memory(text.size() / 2 + 1024);
  json::parse_options options;
  options.max_depth = kMaxJsonDepth;
  json::error_code error;
  const json::value root =
      json::parse(json::string_view(text.data(), text.size()), error, &memory, options);
  if (error) return invalid_model("not valid JSON: " + error.message());
  if (!root.is_object()) return invalid_model("not a JSON object");
  auto data = std::make_unique<TokenizerData>();
  Reader reader(*data);
  SLIPSTREAM_RETURN_IF_ERROR(reader.read(root.get_object()));
  return data;
}

}  // namespace

Result<TokenizerDataPtr> read_tokenizer_json(std::string_view text, const std::string& what) {
  try {
    Result<TokenizerDataPtr> data = read_document(text);
    if (!data.ok()) return data.status().in(what);
    return data;
  } catch (const std::exception& error) {
    return invalid_model(str(what, ": ", error.what()));
  }
}

Result<TokenizerDataPtr> read_vocab_and_merges(std::string_view vocab_json, std::string_view merges,
                                               std::string_view added_tokens,
                                               const std::string& what) {
  // The same rules as a tokenizer.json of GPT-2's kind, so it is read as one.
  std::string document = R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},)"
                         R"("decoder":{"type":"ByteLevel"},"model":{"type":"BPE","merges":[)";
  document.reserve(document.size() + vocab_json.size() + merges.size() * 2 + added_tokens.size());
  const char* separator = "\"";
  for (size_t at = 0; at < merges.size();) {
    const size_t end = std::min(merges.find('\n', at), merges.size());
    std::string_view line = merges.substr(at, end - at);
    at = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    document += separator;
    append_json_escaped(document, line);
    document += "\"";
    separator = ",\"";
  }
  document += R"(],"vocab":)";
  document += vocab_json;
  document += R"(},"added_tokens":)";
  document += added_tokens;
  document += "}";
  Result<TokenizerDataPtr> data = read_tokenizer_json(document, what);
  if (!data.ok()) return data;
  // GPT-2's one special token stands in the vocabulary without saying so.
  const int32_t end_of_text = data.value()->vocab.find("<|endoftext|>");
  if (end_of_text >= 0 && !data.value()->is_special[static_cast<size_t>(end_of_text)]) {
    SLIPSTREAM_RETURN_IF_ERROR(add_token_rule(
        *data.value(), {.id = end_of_text, .content = "<|endoftext|>", .special = true}));
  }
  return data;
}

}  // namespace slipstream

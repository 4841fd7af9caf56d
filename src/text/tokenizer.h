// Tokenizer: text to token ids and back, for every vocabulary file this program reads.
//
// Owns the vocabulary, the rules around it (normalizer, pre-tokenizer, added tokens, what is put
// around a text) and the chat-template source its files carry. Does not render templates and does
// not choose stop conditions. Immutable after loading: any thread may call any method at any time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace slipstream {

class GgufMetadata;
struct TokenizerData;

// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};

struct EncodeOptions {
  // Put around the text what the post-processor or the GGUF keys say (bos, eos).
  bool add_special = true;
  // Special tokens spelled in the text become their ids; otherwise they are ordinary text.
  bool parse_special = true;
  // With parse_special: stretches where special tokens are ordinary text all the same, because
  // someone else wrote them. Sorted, disjoint; see find_special(). The text must be valid UTF-8,
  // else no special token is parsed at all.
  std::span<const TextRange> plain_ranges = {};
  // A longer text is an error, found before any work is done.
  uint64_t max_bytes = 64u << 20;
};

struct DecodeOptions {
  bool skip_special = true;
  // SentencePiece texts start with one space that the decoder drops. False keeps it: the ids
  // continue a text that is already there, as generated tokens continue a prompt.
  bool at_text_start = true;
};

// A named template of a tokenizer's files; the one named "default" is used unless tools are given.
struct NamedTemplate {
  std::string name;
  std::string source;
};

// The texts and ids that stand for the roles a vocabulary defines; absent where it defines none.
struct SpecialTokens {
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  std::optional<int32_t> unk_id;
  std::optional<int32_t> pad_id;
  // Every id that ends a generation: eos, and end-of-turn or end-of-message where known. Sorted.
  std::vector<int32_t> end_of_generation_ids;
};

class Tokenizer {
 public:
  // A folder with tokenizer.json, tokenizer.model, or vocab.json and merges.txt; one of those
  // files; or a .gguf file, which may hold a vocabulary only.
  static Result<std::shared_ptr<const Tokenizer>> load(const std::string& path);
  static Result<std::shared_ptr<const Tokenizer>> from_gguf(const GgufMetadata& metadata);
  // The text of a tokenizer.json alone; `what` names it in messages.
  static Result<std::shared_ptr<const Tokenizer>> from_json(std::string_view json,
                                                            const std::string& what);
  // The bytes of a SentencePiece tokenizer.model alone.
  static Result<std::shared_ptr<const Tokenizer>> from_sentencepiece(std::string_view bytes,
                                                                     const std::string& what);

  explicit Tokenizer(std::unique_ptr<const TokenizerData> data);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Invalid UTF-8 in `text` is read as U+FFFD.
  Result<std::vector<int32_t>> encode(std::string_view text, EncodeOptions options = {}) const;

  // Where `text` spells special tokens, sorted and disjoint: the plain_ranges of a text that must
  // not contain any.
  std::vector<TextRange> find_special(std::string_view text) const;

  // Ids outside the vocabulary contribute nothing; invalid UTF-8 becomes U+FFFD.
  std::string decode(std::span<const int32_t> ids, DecodeOptions options = {}) const;

  // The raw bytes a token contributes to a text, before any leading space is dropped. They may be
  // part of a code point. Empty for an id outside the vocabulary.
  std::string_view token_bytes(int32_t id) const;
  // The token as the vocabulary spells it.
  std::string_view token_text(int32_t id) const;
  std::optional<int32_t> find_token(std::string_view text) const;

  // Ids are 0 .. vocab_size() - 1. A model's embedding may have more rows.
  int32_t vocab_size() const;
  bool is_special(int32_t id) const;
  bool is_end_of_generation(int32_t id) const;
  const SpecialTokens& special_tokens() const;
  // Whether encode with add_special starts with bos.
  bool adds_bos() const;
  // One leading space of a decoded text belongs to the vocabulary, not to the text.
  bool drops_leading_space() const;

  // Empty when the tokenizer's files carry none.
  const std::vector<NamedTemplate>& chat_templates() const;
  // The template named "default", else the first one; null when there is none.
  const std::string* chat_template() const;
  // The spellings templates refer to as bos_token and eos_token; empty when absent.
  std::string bos_token() const;
  std::string eos_token() const;

 private:
  std::unique_ptr<const TokenizerData> data_;
};

// Decodes ids one at a time. Never splits a code point: at most 3 bytes wait for their rest. The
// pieces of every push and the final flush, joined, equal Tokenizer::decode of all the ids.
class DecodeStream {
 public:
  // `tokenizer` must outlive the stream.
  explicit DecodeStream(const Tokenizer& tokenizer, DecodeOptions options = {});

  std::string push(int32_t id);
  // What is still held, as U+FFFD; the stream may go on afterwards.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  DecodeOptions options_;
  std::string pending_;  // an incomplete code point
  bool at_start_;
};

}  // namespace slipstream

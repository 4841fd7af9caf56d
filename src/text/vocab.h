// Vocab: token ids, how each token is spelled, and the bytes it contributes to a text.
//
// Owns the spellings and the hash tables over them. Knows nothing of merges or of text rules.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace slipstream {

enum class TokenKind : uint8_t {
  kNormal,
  kUnknown,
  kControl,      // never produced by merging; shown only on request
  kUserDefined,  // matched in the text before anything else
  kUnused,
  kByte,  // one raw byte, spelled <0xNN>
};

// Limits that real vocabularies stay far below; they bound what a hostile file can cost.
constexpr size_t kMaxVocabSize = 8u << 20;
constexpr size_t kMaxTokenBytes = 64u << 10;
constexpr size_t kMaxAddedTokenBytes = 1u << 10;
constexpr size_t kMaxAddedTokens = 1u << 20;

// Strings packed end to end and addressed by index.
class StringPool {
 public:
  void reserve(size_t num_strings, size_t bytes) {
    ends_.reserve(num_strings);
    bytes_.reserve(bytes);
  }
  void add(std::string_view text) {
    bytes_.append(text);
    ends_.push_back(bytes_.size());
  }
  std::string_view operator[](size_t idx) const {
    const size_t begin = idx == 0 ? 0 : ends_[idx - 1];
    return std::string_view(bytes_).substr(begin, ends_[idx] - begin);
  }
  size_t size() const { return ends_.size(); }
  // Two steps, because the bytes are found through the ends.
  void prefetch_end(size_t idx) const { __builtin_prefetch(&ends_[idx]); }
  void prefetch_bytes(size_t idx) const {
    __builtin_prefetch(bytes_.data() + (idx == 0 ? 0 : ends_[idx - 1]));
  }

 private:
  std::string bytes_;
  std::vector<size_t> ends_;
};

// Index of a string in a pool. Holds no strings itself. The later of two equal strings wins.
class StringIndex {
 public:
  void reserve(size_t num_strings);
  // Whether the string was new.
  bool insert(const StringPool& pool, size_t idx);
  // -1 when absent.
  int32_t find(const StringPool& pool, std::string_view text) const;
  // find() of each text. Large vocabularies do not fit the cache; here one text's memory is fetched
  // while others are compared.
  void find_many(const StringPool& pool, std::span<const std::string_view> texts,
                 std::span<int32_t> out) const;

 private:
  int32_t find_hashed(const StringPool& pool, std::string_view text, uint32_t hash) const;

  struct Slot {
    uint32_t hash = 0;
    int32_t idx = -1;
  };
  std::vector<Slot> slots_;
};

class Vocab {
 public:
  void reserve(size_t num_tokens) { kinds_.reserve(num_tokens); }
  // The next id. `bytes` is what the token contributes to a text.
  void add(std::string_view text, std::string_view bytes, TokenKind kind);
  // Builds the table behind find(); call once, after the last add.
  void index();
  // Builds the table behind find_bytes().
  void index_bytes();

  int32_t size() const { return static_cast<int32_t>(kinds_.size()); }
  bool contains(int32_t id) const { return id >= 0 && id < size(); }
  std::string_view text(int32_t id) const { return texts_[static_cast<size_t>(id)]; }
  std::string_view bytes(int32_t id) const { return bytes_[static_cast<size_t>(id)]; }
  TokenKind kind(int32_t id) const { return kinds_[static_cast<size_t>(id)]; }
  // By spelling; -1 when absent.
  int32_t find(std::string_view text) const { return index_.find(texts_, text); }
  void find_many(std::span<const std::string_view> texts, std::span<int32_t> out) const {
    index_.find_many(texts_, texts, out);
  }
  // Whether no two tokens are spelled alike.
  bool all_distinct() const { return all_distinct_; }
  // The normal or user-defined token that contributes exactly these bytes; -1 when absent.
  int32_t find_bytes(std::string_view bytes) const { return bytes_index_.find(bytes_, bytes); }

 private:
  StringPool texts_;
  StringPool bytes_;
  std::vector<TokenKind> kinds_;
  bool all_distinct_ = false;  // until index() has looked
  StringIndex index_;
  StringIndex bytes_index_;
};

// The GPT-2 byte alphabet: each byte is spelled as one printable code point.
uint32_t byte_to_code_point(uint8_t byte);
void append_byte_spelled(std::string& out, std::string_view bytes);
// The bytes a byte-level spelling stands for; nothing when a code point is outside the alphabet.
std::optional<std::string> unspell_bytes(std::string_view text);

// SentencePiece spells a space as U+2581.
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
std::string spaces_for_marks(std::string_view text);

// The value of a spelling like <0x0A>.
std::optional<uint8_t> parse_byte_token(std::string_view text);

}  // namespace slipstream

#include "text/vocab.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/utf8.h"

namespace slipstream {
namespace {

uint64_t load_tail(const char* data, size_t size) {
  uint64_t word = 0;
  std::memcpy(&word, data, size);
  return word;
}

uint32_t hash_bytes(std::string_view text) {
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;
  uint64_t hash = text.size() * kMultiplier;
  const char* data = text.data();
  size_t left = text.size();
  for (; left >= 8; data += 8, left -= 8) {
    hash = (hash ^ load_tail(data, 8)) * kMultiplier;
    hash ^= hash >> 29;
  }
  if (left > 0) hash = (hash ^ load_tail(data, left)) * kMultiplier;
  hash ^= hash >> 32;
  return static_cast<uint32_t>(hash);
}

struct ByteAlphabet {
  std::array<uint16_t, 256> code_points{};
  std::array<int16_t, 512> bytes{};

  ByteAlphabet() {
    bytes.fill(-1);
    uint16_t next = 256;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const uint16_t code_point = printable ? static_cast<uint16_t>(byte) : next++;
      code_points[byte] = code_point;
      bytes[code_point] = static_cast<int16_t>(byte);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

void StringIndex::reserve(size_t num_strings) {
  size_t num_slots = 16;
  while (num_slots < num_strings * 2) num_slots *= 2;
  slots_.assign(num_slots, Slot{});
}

bool StringIndex::insert(const StringPool& pool, size_t idx) {
  const std::string_view text = pool[idx];
  const uint32_t hash = hash_bytes(text);
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    Slot& slot = slots_[at];
    if (slot.idx < 0 || (slot.hash == hash && pool[static_cast<size_t>(slot.idx)] == text)) {
      const bool is_new = slot.idx < 0;
      slot = {hash, static_cast<int32_t>(idx)};
      return is_new;
    }
  }
}

int32_t StringIndex::find(const StringPool& pool, std::string_view text) const {
  return slots_.empty() ? -1 : find_hashed(pool, text, hash_bytes(text));
}

int32_t StringIndex::find_hashed(const StringPool& pool, std::string_view text,
                                 uint32_t hash) const {
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    const Slot& slot = slots_[at];
    if (slot.idx < 0) return -1;
    if (slot.hash == hash && pool[static_cast<size_t>(slot.idx)] == text) return slot.idx;
  }
}

void StringIndex::find_many(const StringPool& pool, std::span<const std::string_view> texts,
                            std::span<int32_t> out) const {
  std::fill(out.begin(), out.end(), -1);
  if (slots_.empty()) return;
  const size_t mask = slots_.size() - 1;
  constexpr size_t kBatch = 32;
  std::array<uint32_t, kBatch> hashes;
  for (size_t begin = 0; begin < texts.size(); begin += kBatch) {
    const size_t count = std::min(kBatch, texts.size() - begin);
    for (size_t k = 0; k < count; ++k) {
      hashes[k] = hash_bytes(texts[begin + k]);
      __builtin_prefetch(&slots_[hashes[k] & mask]);
    }
    for (size_t k = 0; k < count; ++k) {
      const Slot& slot = slots_[hashes[k] & mask];
      if (slot.idx >= 0) pool.prefetch_end(static_cast<size_t>(slot.idx));
    }
    for (size_t k = 0; k < count; ++k) {
      const Slot& slot = slots_[hashes[k] & mask];
      if (slot.idx >= 0) pool.prefetch_bytes(static_cast<size_t>(slot.idx));
    }
    for (size_t k = 0; k < count; ++k) {
      out[begin + k] = find_hashed(pool, texts[begin + k], hashes[k]);
    }
  }
}

void Vocab::add(std::string_view text, std::string_view bytes, TokenKind kind) {
  texts_.add(text);
  bytes_.add(bytes);
  kinds_.push_back(kind);
}

void Vocab::index() {
  index_.reserve(texts_.size());
  all_distinct_ = true;
  for (size_t idx = 0; idx < texts_.size(); ++idx) {
    if (!index_.insert(texts_, idx)) all_distinct_ = false;
  }
}

void Vocab::index_bytes() {
  bytes_index_.reserve(bytes_.size());
  for (size_t idx = 0; idx < bytes_.size(); ++idx) {
    const TokenKind kind = kinds_[idx];
    if (kind == TokenKind::kNormal || kind == TokenKind::kUserDefined) {
      bytes_index_.insert(bytes_, idx);
    }
  }
}

uint32_t byte_to_code_point(uint8_t byte) { return byte_alphabet().code_points[byte]; }

void append_byte_spelled(std::string& out, std::string_view bytes) {
  for (const char byte : bytes) utf8_append(out, byte_to_code_point(static_cast<uint8_t>(byte)));
}

std::optional<std::string> unspell_bytes(std::string_view text) {
  const ByteAlphabet& alphabet = byte_alphabet();
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const uint8_t lead = static_cast<uint8_t>(text[at]);
    uint32_t code_point = lead;
    size_t length = 1;
    if (lead >= 0x80) {
      const Utf8Step step = utf8_decode(text, at);
      if (!step.valid) return std::nullopt;
      code_point = step.code_point;
      length = step.length;
    }
    if (code_point >= alphabet.bytes.size() || alphabet.bytes[code_point] < 0) return std::nullopt;
    out.push_back(static_cast<char>(alphabet.bytes[code_point]));
    at += length;
  }
  return out;
}

std::string spaces_for_marks(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    if (text.substr(at).starts_with(kSpaceMark)) {
      out.push_back(' ');
      at += kSpaceMark.size();
    } else {
      out.push_back(text[at++]);
    }
  }
  return out;
}

std::optional<uint8_t> parse_byte_token(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return std::nullopt;
  const int high = hex_digit(text[3]);
  const int low = hex_digit(text[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<uint8_t>(high * 16 + low);
}

}  // namespace slipstream

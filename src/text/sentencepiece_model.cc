// Reads SentencePiece's tokenizer.model: a protocol buffer with pieces, a trainer and a normalizer.
//
// Owns a reader for the few fields needed; every length is checked before it is used.
#include <cmath>
#include <cstring>

#include "base/strings.h"
#include "text/tokenizer_data.h"

namespace slipstream {
namespace {

// One field of a protocol buffer message.
struct Field {
  uint32_t number = 0;
  uint32_t wire_type = 0;
  uint64_t integer = 0;    // wire types 0, 1 and 5
  std::string_view bytes;  // wire type 2
};

class Message {
 public:
  explicit Message(std::string_view bytes) : bytes_(bytes) {}

  // False at the end.
  Result<bool> next(Field& field) {
    if (at_ == bytes_.size()) return false;
    uint64_t tag = 0;
    SLIPSTREAM_RETURN_IF_ERROR(varint(tag));
    if ((tag >> 3) == 0 || (tag >> 3) > UINT32_MAX) return invalid_model("bad field number");
    field = Field();
    field.number = static_cast<uint32_t>(tag >> 3);
    field.wire_type = static_cast<uint32_t>(tag & 7);
    switch (field.wire_type) {
      case 0:
        SLIPSTREAM_RETURN_IF_ERROR(varint(field.integer));
        return true;
      case 1:
        SLIPSTREAM_RETURN_IF_ERROR(fixed(8, field.integer));
        return true;
      case 2: {
        uint64_t length = 0;
        SLIPSTREAM_RETURN_IF_ERROR(varint(length));
        if (length > bytes_.size() - at_) return invalid_model("a field runs past the end");
        field.bytes = bytes_.substr(at_, length);
        at_ += length;
        return true;
      }
      case 5:
        SLIPSTREAM_RETURN_IF_ERROR(fixed(4, field.integer));
        return true;
      default:
        return invalid_model(str("unknown wire type ", field.wire_type));
    }
  }

 private:
  Status varint(uint64_t& value) {
    value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) return invalid_model("the file ends inside a number");
      const uint64_t byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return {};
    }
    return invalid_model("a number is too long");
  }
  Status fixed(size_t size, uint64_t& value) {
    if (size > bytes_.size() - at_) return invalid_model("the file ends inside a number");
    value = 0;
    std::memcpy(&value, bytes_.data() + at_, size);
    at_ += size;
    return {};
  }

  std::string_view bytes_;
  size_t at_ = 0;
};

struct Piece {
  std::string_view text;
  float score = 0;
  TokenKind kind = TokenKind::kNormal;
};

struct Trainer {
  uint64_t model_type = 1;  // 1 unigram, 2 bpe, 3 word, 4 char
  bool byte_fallback = false;
  int32_t unk_id = 0;
  int32_t bos_id = 1;
  int32_t eos_id = 2;
  int32_t pad_id = -1;
};

struct Rules {
  std::string_view charsmap;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

Result<Piece> read_piece(std::string_view bytes) {
  Piece piece;
  Message message(bytes);
  for (Field field;;) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const bool more, message.next(field));
    if (!more) break;
    if (field.number == 1 && field.wire_type == 2) piece.text = field.bytes;
    if (field.number == 2 && field.wire_type == 5) {
      const uint32_t bits = static_cast<uint32_t>(field.integer);
      std::memcpy(&piece.score, &bits, sizeof(piece.score));
    }
    if (field.number == 3 && field.wire_type == 0) {
      static constexpr TokenKind kKinds[] = {TokenKind::kNormal,  TokenKind::kUnknown,
                                             TokenKind::kControl, TokenKind::kUserDefined,
                                             TokenKind::kUnused,  TokenKind::kByte};
      if (field.integer < 1 || field.integer > 6) {
        return invalid_model(str("piece type ", field.integer, " is unknown"));
      }
      piece.kind = kKinds[field.integer - 1];
    }
  }
  if (piece.text.empty()) return invalid_model("a piece has no text");
  if (piece.text.size() > kMaxTokenBytes) return invalid_model("a piece is too long");
  if (!std::isfinite(piece.score)) return invalid_model("a score is not finite");
  return piece;
}

Result<Trainer> read_trainer(std::string_view bytes) {
  Trainer trainer;
  Message message(bytes);
  for (Field field;;) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const bool more, message.next(field));
    if (!more) break;
    if (field.wire_type != 0) continue;
    // Negative ids are ten-byte numbers; their low half is the id.
    const int32_t id = static_cast<int32_t>(static_cast<uint32_t>(field.integer));
    if (field.number == 3) trainer.model_type = field.integer;
    if (field.number == 35) trainer.byte_fallback = field.integer != 0;
    if (field.number == 40) trainer.unk_id = id;
    if (field.number == 41) trainer.bos_id = id;
    if (field.number == 42) trainer.eos_id = id;
    if (field.number == 43) trainer.pad_id = id;
  }
  return trainer;
}

Result<Rules> read_rules(std::string_view bytes) {
  Rules rules;
  Message message(bytes);
  for (Field field;;) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const bool more, message.next(field));
    if (!more) break;
    if (field.number == 2 && field.wire_type == 2) rules.charsmap = field.bytes;
    if (field.number == 3 && field.wire_type == 0) rules.add_dummy_prefix = field.integer != 0;
    if (field.number == 4 && field.wire_type == 0) {
      rules.remove_extra_whitespaces = field.integer != 0;
    }
    if (field.number == 5 && field.wire_type == 0) rules.escape_whitespaces = field.integer != 0;
  }
  return rules;
}

Status fill(const std::vector<Piece>& pieces, const Trainer& trainer, const Rules& rules,
            TokenizerData& data) {
  std::vector<float> scores;
  data.vocab.reserve(pieces.size());
  for (const Piece& piece : pieces) {
    std::string bytes = spaces_for_marks(piece.text);
    if (piece.kind == TokenKind::kByte) {
      const auto byte = parse_byte_token(piece.text);
      if (!byte) return invalid_model(str("byte piece ", quote(piece.text), " is no byte"));
      bytes.assign(1, static_cast<char>(*byte));
    }
    data.vocab.add(piece.text, bytes, piece.kind);
    scores.push_back(piece.score);
  }
  data.vocab.index();
  data.is_special.assign(pieces.size(), false);

  if (rules.remove_extra_whitespaces) data.normalizer.add(CollapseSpacesStep{});
  if (rules.add_dummy_prefix) data.normalizer.add(PrependStep{std::string(kSpaceMark)});
  data.normalizer.add(ReplaceStep{Pattern::literal(" "), std::string(kSpaceMark)});
  data.drops_leading_space = rules.add_dummy_prefix;

  const auto valid_id = [&](int32_t id) -> std::optional<int32_t> {
    return data.vocab.contains(id) ? std::optional(id) : std::nullopt;
  };
  SpecialTokens& special = data.special;
  special = {.bos_id = valid_id(trainer.bos_id),
             .eos_id = valid_id(trainer.eos_id),
             .unk_id = valid_id(trainer.unk_id),
             .pad_id = valid_id(trainer.pad_id),
             .end_of_generation_ids = {}};
  if (special.bos_id) data.bos_token = data.vocab.text(*special.bos_id);
  if (special.eos_id) {
    data.eos_token = data.vocab.text(*special.eos_id);
    add_end_of_generation(data, *special.eos_id);
  }
  const int32_t unk_id = special.unk_id.value_or(-1);
  if (trainer.model_type == 2) {
    data.model = BpeModel::from_scores(
        data.vocab, scores,
        {.byte_fallback = trainer.byte_fallback, .fuse_unk = true, .unk_id = unk_id});
  } else {
    SLIPSTREAM_ASSIGN_OR_RETURN(
        UnigramModel model,
        UnigramModel::create(data.vocab, std::move(scores),
                             {.byte_fallback = trainer.byte_fallback, .unk_id = unk_id}));
    data.model = std::move(model);
  }
  for (int32_t id = 0; id < data.vocab.size(); ++id) {
    const TokenKind kind = data.vocab.kind(id);
    const bool is_special = kind == TokenKind::kControl || kind == TokenKind::kUnknown;
    if (!is_special && kind != TokenKind::kUserDefined) continue;
    const std::string_view text = data.vocab.text(id);
    if (text.size() > kMaxAddedTokenBytes) return invalid_model("a special piece is too long");
    SLIPSTREAM_RETURN_IF_ERROR(
        add_token_rule(data, {.id = id, .content = std::string(text), .special = is_special}));
  }
  add_known_end_tokens(data);
  return {};
}

Result<TokenizerDataPtr> read(std::string_view bytes) {
  std::vector<Piece> pieces;
  Trainer trainer;
  Rules rules;
  Message message(bytes);
  for (Field field;;) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const bool more, message.next(field));
    if (!more) break;
    if (field.wire_type != 2) continue;
    if (field.number == 1) {
      SLIPSTREAM_ASSIGN_OR_RETURN(const Piece piece, read_piece(field.bytes));
      if (pieces.size() == kMaxVocabSize) return invalid_model("too many pieces");
      pieces.push_back(piece);
    } else if (field.number == 2) {
      SLIPSTREAM_ASSIGN_OR_RETURN(trainer, read_trainer(field.bytes));
    } else if (field.number == 3) {
      SLIPSTREAM_ASSIGN_OR_RETURN(rules, read_rules(field.bytes));
    }
  }
  if (pieces.empty()) return invalid_model("no pieces: not a SentencePiece model");
  if (trainer.model_type != 1 && trainer.model_type != 2) {
    return invalid_model("only BPE and Unigram SentencePiece models are supported");
  }
  if (!rules.charsmap.empty()) {
    return invalid_model("SentencePiece models with a character map are not supported");
  }
  if (!rules.escape_whitespaces) {
    return invalid_model("SentencePiece models that keep white space are not supported");
  }
  auto data = std::make_unique<TokenizerData>();
  SLIPSTREAM_RETURN_IF_ERROR(fill(pieces, trainer, rules, *data));
  return data;
}

}  // namespace

Result<TokenizerDataPtr> read_sentencepiece_model(std::string_view bytes, const std::string& what) {
  Result<TokenizerDataPtr> data = read(bytes);
  if (!data.ok()) return data.status().in(what);
  return data;
}

}  // namespace slipstream

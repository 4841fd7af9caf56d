#include "text/tokenizer.h"

#include <algorithm>

#include "base/check.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "text/tokenizer_data.h"

namespace slipstream {
namespace {

// How much a normalizer may grow a text: the longest compatibility decomposition is 18 code points.
constexpr size_t kMaxNormalizerGrowth = 20;
constexpr size_t kMinNormalizedBytes = 4096;

// Encodes ordinary text, reusing its buffers from one stretch to the next.
class Encoder {
 public:
  Encoder(const TokenizerData& data, std::vector<int32_t>& out) : data_(data), out_(out) {}

  Status encode(std::string_view text, bool at_text_start, bool byte_spelled) {
    SLIPSTREAM_RETURN_IF_ERROR(
        data_.pre_tokenizer.split(text, at_text_start, byte_spelled, pieces_));
    if (const auto* bpe = std::get_if<BpeModel>(&data_.model)) {
      encode_pieces(*bpe, bpe_scratch_);
    } else if (const auto* unigram = std::get_if<UnigramModel>(&data_.model)) {
      encode_pieces(*unigram, unigram_scratch_);
    }
    return {};
  }

 private:
  template <typename Model>
  void encode_pieces(const Model& model, typename Model::Scratch& scratch) {
    for (const TextRange& range : pieces_.ranges) {
      model.encode(pieces_.text.substr(range.begin, range.end - range.begin), scratch, out_);
    }
  }

  const TokenizerData& data_;
  std::vector<int32_t>& out_;
  Pieces pieces_;
  BpeModel::Scratch bpe_scratch_;
  UnigramModel::Scratch unigram_scratch_;
};

// `ranges` are sorted and disjoint.
bool touches(std::span<const TextRange> ranges, const TextRange& stretch) {
  const auto next =
      std::upper_bound(ranges.begin(), ranges.end(), stretch.begin,
                       [](size_t begin, const TextRange& range) { return begin < range.end; });
  return next != ranges.end() && next->begin < stretch.end;
}

// Sorted ranges that touch become one.
std::vector<TextRange> merged(std::vector<TextRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const TextRange& a, const TextRange& b) { return a.begin < b.begin; });
  std::vector<TextRange> out;
  for (const TextRange& range : ranges) {
    if (!out.empty() && range.begin <= out.back().end) {
      out.back().end = std::max(out.back().end, range.end);
    } else {
      out.push_back(range);
    }
  }
  return out;
}

// A stretch between added tokens: normalized, searched again, encoded.
Status encode_stretch(const TokenizerData& data, std::string_view text, bool at_text_start,
                      const EncodeOptions& options, Encoder& encoder, std::vector<int32_t>& out) {
  std::string normalized;
  if (!data.normalizer.empty()) {
    const size_t max_bytes = kMinNormalizedBytes + text.size() * kMaxNormalizerGrowth;
    SLIPSTREAM_ASSIGN_OR_RETURN(normalized, data.normalizer.apply(text, max_bytes));
    text = normalized;
  }
  const bool byte_spelled = data.normalizer.spells_bytes();
  if (data.added_normalized.empty()) return encoder.encode(text, at_text_start, byte_spelled);
  std::vector<AddedSegment> segments;
  data.added_normalized.split(text, options.parse_special, {}, segments);
  for (const AddedSegment& segment : segments) {
    const TextRange& range = segment.range;
    if (segment.id >= 0) {
      out.push_back(segment.id);
      continue;
    }
    SLIPSTREAM_RETURN_IF_ERROR(encoder.encode(text.substr(range.begin, range.end - range.begin),
                                              at_text_start && range.begin == 0, byte_spelled));
  }
  return {};
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const TokenizerData> data) : data_(std::move(data)) {
  SLIPSTREAM_CHECK(data_ != nullptr, "a tokenizer needs its data");
}

Tokenizer::~Tokenizer() = default;

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > options.max_bytes) {
    return bad_usage(str("the text has ", text.size(), " bytes, the limit is ", options.max_bytes,
                         "; send less text"));
  }
  std::string sanitized;
  if (!utf8_valid(text)) {
    sanitized = utf8_sanitized(text);
    text = sanitized;
    // The ranges count other bytes.
    if (!options.plain_ranges.empty()) options.parse_special = false;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (options.add_special) ids = data_->prefix_ids;
  Encoder encoder(*data_, ids);
  std::vector<AddedSegment> segments;
  data_->added.split(text, options.parse_special, options.plain_ranges, segments);
  for (const AddedSegment& segment : segments) {
    const TextRange& range = segment.range;
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    EncodeOptions stretch_options = options;
    // Normalization moves bytes, so a stretch with someone else's special tokens has none at all.
    if (touches(options.plain_ranges, range)) {
      stretch_options.parse_special = false;
    }
    SLIPSTREAM_RETURN_IF_ERROR(encode_stretch(*data_,
                                              text.substr(range.begin, range.end - range.begin),
                                              range.begin == 0, stretch_options, encoder, ids));
  }
  if (options.add_special) {
    ids.insert(ids.end(), data_->suffix_ids.begin(), data_->suffix_ids.end());
  }
  return ids;
}

std::vector<TextRange> Tokenizer::find_special(std::string_view text) const {
  std::vector<TextRange> ranges;
  data_->added.find_special(text, ranges);
  if (!data_->added_normalized.empty()) {
    // The text may come to spell a token only by normalization: then all of it is suspect.
    const size_t max_bytes = kMinNormalizedBytes + text.size() * kMaxNormalizerGrowth;
    const Result<std::string> normalized = data_->normalizer.apply(text, max_bytes);
    std::vector<TextRange> found;
    if (normalized.ok()) data_->added_normalized.find_special(normalized.value(), found);
    if (!normalized.ok() || !found.empty()) return {{0, text.size()}};
  }
  return merged(std::move(ranges));
}

std::string Tokenizer::decode(std::span<const int32_t> ids, DecodeOptions options) const {
  DecodeStream stream(*this, options);
  std::string out;
  for (const int32_t id : ids) out += stream.push(id);
  return out + stream.flush();
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  return data_->vocab.contains(id) ? data_->vocab.bytes(id) : std::string_view();
}

std::string_view Tokenizer::token_text(int32_t id) const {
  return data_->vocab.contains(id) ? data_->vocab.text(id) : std::string_view();
}

std::optional<int32_t> Tokenizer::find_token(std::string_view text) const {
  const int32_t id = data_->vocab.find(text);
  return id < 0 ? std::nullopt : std::optional(id);
}

int32_t Tokenizer::vocab_size() const { return data_->vocab.size(); }

bool Tokenizer::is_special(int32_t id) const {
  return data_->vocab.contains(id) && data_->is_special[static_cast<size_t>(id)];
}

bool Tokenizer::is_end_of_generation(int32_t id) const {
  const std::vector<int32_t>& ids = data_->special.end_of_generation_ids;
  return std::binary_search(ids.begin(), ids.end(), id);
}

const SpecialTokens& Tokenizer::special_tokens() const { return data_->special; }

bool Tokenizer::adds_bos() const {
  return data_->special.bos_id && !data_->prefix_ids.empty() &&
         data_->prefix_ids.front() == *data_->special.bos_id;
}

bool Tokenizer::drops_leading_space() const { return data_->drops_leading_space; }

const std::vector<NamedTemplate>& Tokenizer::chat_templates() const {
  return data_->chat_templates;
}

const std::string* Tokenizer::chat_template() const {
  for (const NamedTemplate& entry : data_->chat_templates) {
    if (entry.name == "default") return &entry.source;
  }
  return data_->chat_templates.empty() ? nullptr : &data_->chat_templates.front().source;
}

std::string Tokenizer::bos_token() const { return data_->bos_token; }
std::string Tokenizer::eos_token() const { return data_->eos_token; }

DecodeStream::DecodeStream(const Tokenizer& tokenizer, DecodeOptions options)
    : tokenizer_(&tokenizer),
      options_(options),
      at_start_(options.at_text_start && tokenizer.drops_leading_space()) {}

std::string DecodeStream::push(int32_t id) {
  if (options_.skip_special && tokenizer_->is_special(id)) return {};
  std::string_view bytes = tokenizer_->token_bytes(id);
  if (bytes.empty()) return {};
  if (at_start_ && bytes.front() == ' ') bytes.remove_prefix(1);
  at_start_ = false;
  std::string joined = std::move(pending_);
  joined += bytes;
  pending_.clear();
  std::string out;
  out.reserve(joined.size());
  for (size_t at = 0; at < joined.size();) {
    const Utf8Step step = utf8_decode(joined, at);
    if (step.truncated) {
      pending_ = joined.substr(at);
      break;
    }
    if (step.valid) {
      out.append(joined, at, step.length);
    } else {
      utf8_append(out, 0xFFFD);
    }
    at += step.length;
  }
  return out;
}

std::string DecodeStream::flush() {
  if (pending_.empty()) return {};
  pending_.clear();
  std::string out;
  utf8_append(out, 0xFFFD);
  return out;
}

}  // namespace slipstream

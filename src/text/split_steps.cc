// PreTokenizer and Pattern: the split rules of tokenizer.json over ranges of a text.
#include <optional>

#include "base/utf8.h"
#include "text/known_patterns.h"
#include "text/pretokenize.h"
#include "text/vocab.h"

namespace slipstream {
namespace {

struct Segment {
  TextRange range;
  bool is_match = false;
};

// The matches of a pattern and the gaps between them, covering `text` from end to end.
Status segments_of(const SplitStep& step, std::string_view text, std::vector<TextRange>& matches,
                   std::vector<Segment>& segments) {
  segments.clear();
  SLIPSTREAM_RETURN_IF_ERROR(step.pattern.find_all(text, matches));
  size_t at = 0;
  for (const TextRange& match : matches) {
    if (match.begin > at) segments.push_back({{at, match.begin}, step.invert});
    segments.push_back({match, !step.invert});
    at = match.end;
  }
  if (at < text.size()) segments.push_back({{at, text.size()}, step.invert});
  return {};
}

// Appends the pieces that `behavior` makes of segments; `offset` is where their text begins.
void append_pieces(const std::vector<Segment>& segments, SplitBehavior behavior, size_t offset,
                   std::vector<TextRange>& out) {
  const size_t first = out.size();
  const auto push = [&](const TextRange& range) {
    if (range.end > range.begin) out.push_back({range.begin + offset, range.end + offset});
  };
  const auto extend = [&](const TextRange& range) { out.back().end = range.end + offset; };
  bool previous_matched = false;
  for (size_t idx = 0; idx < segments.size(); ++idx) {
    const Segment& segment = segments[idx];
    const bool has_previous = out.size() > first;
    switch (behavior) {
      case SplitBehavior::kRemoved:
        if (!segment.is_match) push(segment.range);
        break;
      case SplitBehavior::kIsolated:
        push(segment.range);
        break;
      case SplitBehavior::kContiguous:
        if (has_previous && previous_matched == segment.is_match) {
          extend(segment.range);
        } else {
          push(segment.range);
        }
        break;
      case SplitBehavior::kMergedWithPrevious:
        if (segment.is_match && !previous_matched && has_previous) {
          extend(segment.range);
        } else {
          push(segment.range);
        }
        break;
      case SplitBehavior::kMergedWithNext:
        if (!segment.is_match && previous_matched && has_previous) {
          extend(segment.range);
        } else {
          push(segment.range);
        }
        break;
    }
    previous_matched = segment.is_match;
  }
}

std::string_view view(const Pieces& pieces, const TextRange& range) {
  return pieces.text.substr(range.begin, range.end - range.begin);
}

// Replaces the text by `text`, cut at `ranges`.
void replace_text(Pieces& pieces, std::string text, std::vector<TextRange> ranges) {
  pieces.storage = std::move(text);
  pieces.text = pieces.storage;
  pieces.ranges = std::move(ranges);
}

}  // namespace

Status Pattern::find_all(std::string_view text, std::vector<TextRange>& matches) const {
  if (const Regex* regex = std::get_if<Regex>(&rule_)) return regex->find_all(text, matches);
  matches.clear();
  const std::string& literal = std::get<std::string>(rule_);
  if (literal.empty()) return {};
  for (size_t at = text.find(literal); at != std::string_view::npos;
       at = text.find(literal, at + literal.size())) {
    matches.push_back({at, at + literal.size()});
  }
  return {};
}

Status PreTokenizer::add(Step step) {
  if (const auto* byte_level = std::get_if<ByteLevelStep>(&step)) {
    if (byte_level_) return invalid_model("two ByteLevel pre-tokenizers");
    byte_level_ = true;
    if (byte_level->use_regex && gpt2_split_.empty()) {
      SLIPSTREAM_ASSIGN_OR_RETURN(Regex regex, Regex::compile(gpt2_pattern()));
      gpt2_split_.push_back({.pattern = Pattern::regex(std::move(regex))});
    }
  }
  steps_.push_back(std::move(step));
  return {};
}

Status PreTokenizer::split(std::string_view text, bool at_text_start, bool byte_spelled,
                           Pieces& pieces) const {
  pieces.text = text;
  pieces.ranges.assign(1, {0, text.size()});
  pieces.byte_spelled = byte_spelled;
  for (size_t idx = 0; idx < steps_.size(); ++idx) {
    const Step& step = steps_[idx];
    if (const auto* split = std::get_if<SplitStep>(&step)) {
      SLIPSTREAM_RETURN_IF_ERROR(split_step(*split, pieces));
    } else if (const auto* byte_level = std::get_if<ByteLevelStep>(&step)) {
      const bool is_last = idx + 1 == steps_.size();
      SLIPSTREAM_RETURN_IF_ERROR(byte_level_step(*byte_level, is_last, pieces));
    } else if (const auto* metaspace = std::get_if<MetaspaceStep>(&step)) {
      metaspace_step(*metaspace, at_text_start, pieces);
    } else {
      fixed_length_step(std::get<FixedLengthStep>(step), pieces);
    }
  }
  if (pieces.byte_spelled) unspell(pieces);
  return {};
}

Status PreTokenizer::split_step(const SplitStep& step, Pieces& pieces) const {
  std::vector<TextRange> matches;
  std::vector<Segment> segments;
  std::vector<TextRange> ranges;
  ranges.reserve(pieces.ranges.size() + pieces.text.size() / 8);
  for (const TextRange& range : pieces.ranges) {
    SLIPSTREAM_RETURN_IF_ERROR(segments_of(step, view(pieces, range), matches, segments));
    append_pieces(segments, step.behavior, range.begin, ranges);
  }
  pieces.ranges = std::move(ranges);
  return {};
}

Status PreTokenizer::byte_level_step(const ByteLevelStep& step, bool is_last,
                                     Pieces& pieces) const {
  if (step.add_prefix_space) {
    std::string text;
    std::vector<TextRange> ranges;
    for (const TextRange& range : pieces.ranges) {
      const std::string_view piece = view(pieces, range);
      const size_t begin = text.size();
      if (piece.empty() || piece.front() != ' ') text.push_back(' ');
      text.append(piece);
      ranges.push_back({begin, text.size()});
    }
    replace_text(pieces, std::move(text), std::move(ranges));
  }
  if (step.use_regex) SLIPSTREAM_RETURN_IF_ERROR(split_step(gpt2_split_.front(), pieces));
  // Later steps see the spelled bytes; when there are none, spelling would only be undone.
  if (is_last) return {};
  std::string text;
  std::vector<TextRange> ranges;
  for (const TextRange& range : pieces.ranges) {
    const size_t begin = text.size();
    append_byte_spelled(text, view(pieces, range));
    ranges.push_back({begin, text.size()});
  }
  replace_text(pieces, std::move(text), std::move(ranges));
  pieces.byte_spelled = true;
  return {};
}

void PreTokenizer::metaspace_step(const MetaspaceStep& step, bool at_text_start,
                                  Pieces& pieces) const {
  std::string text;
  std::vector<TextRange> ranges;
  for (size_t idx = 0; idx < pieces.ranges.size(); ++idx) {
    const std::string_view piece = view(pieces, pieces.ranges[idx]);
    const bool wants_prefix =
        step.prepend == MetaspaceStep::Prepend::kAlways ||
        (step.prepend == MetaspaceStep::Prepend::kFirst && at_text_start && idx == 0);
    const bool has_prefix = piece.starts_with(' ') || piece.starts_with(step.replacement);
    size_t begin = text.size();
    if (wants_prefix && !has_prefix) text += step.replacement;
    for (size_t at = 0; at < piece.size();) {
      const bool is_mark = piece.substr(at).starts_with(step.replacement);
      if (piece[at] == ' ' || is_mark) {
        if (step.split && text.size() > begin) {
          ranges.push_back({begin, text.size()});
          begin = text.size();
        }
        text += step.replacement;
        at += is_mark ? step.replacement.size() : 1;
      } else {
        text.push_back(piece[at++]);
      }
    }
    if (text.size() > begin) ranges.push_back({begin, text.size()});
  }
  replace_text(pieces, std::move(text), std::move(ranges));
}

void PreTokenizer::fixed_length_step(const FixedLengthStep& step, Pieces& pieces) const {
  std::vector<TextRange> ranges;
  for (const TextRange& range : pieces.ranges) {
    size_t begin = range.begin;
    size_t count = 0;
    for (size_t at = range.begin; at < range.end;) {
      at += utf8_decode(pieces.text, at).length;
      if (++count == step.num_code_points) {
        ranges.push_back({begin, at});
        begin = at;
        count = 0;
      }
    }
    if (begin < range.end) ranges.push_back({begin, range.end});
  }
  pieces.ranges = std::move(ranges);
}

void PreTokenizer::unspell(Pieces& pieces) const {
  std::string text;
  std::vector<TextRange> ranges;
  for (const TextRange& range : pieces.ranges) {
    const size_t begin = text.size();
    // A text from outside ByteLevel that is no spelling stays as it is.
    const std::string_view piece = view(pieces, range);
    text += unspell_bytes(piece).value_or(std::string(piece));
    ranges.push_back({begin, text.size()});
  }
  replace_text(pieces, std::move(text), std::move(ranges));
  pieces.byte_spelled = false;
}

}  // namespace slipstream

#include "text/output_stream.h"

#include <utility>

#include "base/utf8.h"

namespace slipstream {

// An Aho-Corasick automaton over bytes: its state is the longest suffix of the text that begins
// some stop string, which is exactly what must be held back.
StopMatcher::StopMatcher(const std::vector<std::string>& stops, bool include_stop_str)
    : nodes_(1), include_stop_str_(include_stop_str) {
  for (size_t idx = 0; idx < stops.size(); ++idx) {
    stop_bytes_.push_back(stops[idx].size());
    // A stop string that begins inside a code point would make the hold-back cut one.
    if (!stops[idx].empty() && utf8_valid(stops[idx])) {
      insert(stops[idx], static_cast<int32_t>(idx));
    }
  }
  link_suffixes();
}

int32_t StopMatcher::child(int32_t node, uint8_t byte) const {
  for (const auto& [edge, next] : nodes_[static_cast<size_t>(node)].children) {
    if (edge == byte) return next;
  }
  return -1;
}

void StopMatcher::insert(const std::string& stop, int32_t stop_idx) {
  int32_t node = 0;
  for (const char c : stop) {
    const uint8_t byte = static_cast<uint8_t>(c);
    int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_[static_cast<size_t>(node)].children.push_back({byte, next});
      Node created;
      created.depth = nodes_[static_cast<size_t>(node)].depth + 1;
      nodes_.push_back(std::move(created));
    }
    node = next;
  }
  Node& end = nodes_[static_cast<size_t>(node)];
  if (end.longest_stop < 0) end.longest_stop = stop_idx;
}

void StopMatcher::link_suffixes() {
  std::vector<int32_t> queue;
  for (const auto& [byte, next] : nodes_[0].children) queue.push_back(next);
  for (size_t head = 0; head < queue.size(); ++head) {
    const int32_t node = queue[head];
    const int32_t suffix = nodes_[static_cast<size_t>(node)].suffix;
    if (nodes_[static_cast<size_t>(node)].longest_stop < 0) {
      nodes_[static_cast<size_t>(node)].longest_stop =
          nodes_[static_cast<size_t>(suffix)].longest_stop;
    }
    for (const auto& [byte, next] : nodes_[static_cast<size_t>(node)].children) {
      nodes_[static_cast<size_t>(next)].suffix = step(suffix, byte);
      queue.push_back(next);
    }
  }
}

int32_t StopMatcher::step(int32_t node, uint8_t byte) const {
  for (;;) {
    const int32_t next = child(node, byte);
    if (next >= 0) return next;
    if (node == 0) return 0;
    node = nodes_[static_cast<size_t>(node)].suffix;
  }
}

std::string StopMatcher::push(std::string_view text) {
  if (stopped()) return {};
  for (size_t at = 0; at < text.size(); ++at) {
    state_ = step(state_, static_cast<uint8_t>(text[at]));
    const int32_t stop = nodes_[static_cast<size_t>(state_)].longest_stop;
    if (stop < 0) continue;
    stop_idx_ = static_cast<size_t>(stop);
    held_.append(text.substr(0, at + 1));
    if (!include_stop_str_) held_.resize(held_.size() - stop_bytes_[*stop_idx_]);
    return std::exchange(held_, {});
  }
  held_.append(text);
  const size_t held_bytes = static_cast<size_t>(nodes_[static_cast<size_t>(state_)].depth);
  std::string out = held_.substr(0, held_.size() - held_bytes);
  held_.erase(0, out.size());
  return out;
}

std::string StopMatcher::flush() {
  state_ = 0;
  return std::exchange(held_, {});
}

OutputStream::OutputStream(const Tokenizer& tokenizer, const OutputOptions& options)
    : decoder_(tokenizer,
               {.skip_special = options.skip_special, .at_text_start = options.at_text_start}),
      matcher_(options.stop, options.include_stop_str) {}

std::string OutputStream::push(int32_t id) { return matcher_.push(decoder_.push(id)); }

std::string OutputStream::flush() {
  std::string out = matcher_.push(decoder_.flush());
  return out + matcher_.flush();
}

}  // namespace slipstream

#include "bench/stream_event.h"

#include <array>
#include <boost/json/basic_parser_impl.hpp>

namespace slipstream {
namespace {

using boost::json::string_view;
using boost::system::error_code;

constexpr size_t kMaxDepth = 32;

enum class Where : uint8_t {
  kOutside,
  kRoot,
  kChoices,
  kChoice,
  kDelta,
  kTokenIds,
  kUsage,
  kError,
  kElsewhere,
};

// The callbacks of Boost.JSON's parser: no document is built, an event costs about a microsecond.
struct Handler {
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1);
  static constexpr size_t max_string_size = static_cast<size_t>(-1);

  StreamEvent event;
  std::string* answer = nullptr;

  void begin(std::string* of_answer) {
    event = {};
    answer = of_answer;
    depth_ = 0;
    key_.clear();
    root_message_.clear();
  }

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) {
    if (event.is_error && event.error.empty()) event.error = root_message_;
    return true;
  }
  bool on_object_begin(error_code&) { return enter(object_at()); }
  bool on_object_end(size_t, error_code&) { return leave(); }
  bool on_array_begin(error_code&) { return enter(array_at()); }
  bool on_array_end(size_t, error_code&) { return leave(); }
  bool on_key_part(string_view part, size_t, error_code&) {
    if (key_ended_) key_.clear();
    key_ended_ = false;
    key_.append(part.data(), part.size());
    return true;
  }
  bool on_key(string_view part, size_t size, error_code& ec) {
    on_key_part(part, size, ec);
    key_ended_ = true;
    return true;
  }
  bool on_string_part(string_view part, size_t, error_code&) {
    take_string({part.data(), part.size()});
    return true;
  }
  bool on_string(string_view part, size_t, error_code&) {
    take_string({part.data(), part.size()});
    if (where() == Where::kChoice && key_ == "finish_reason") event.has_finish = true;
    if (where() == Where::kDelta && key_ == "role") event.has_role = true;
    if (where() == Where::kRoot && key_ == "error") event.is_error = true;
    return true;
  }
  bool on_number_part(string_view, error_code&) { return true; }
  bool on_int64(int64_t value, string_view, error_code&) { return take_number(value); }
  bool on_uint64(uint64_t, string_view, error_code&) { return take_number(0); }
  bool on_double(double, string_view, error_code&) { return true; }
  bool on_bool(bool, error_code&) { return true; }
  bool on_null(error_code&) { return true; }
  bool on_comment_part(string_view, error_code&) { return true; }
  bool on_comment(string_view, error_code&) { return true; }

 private:
  Where where() const { return depth_ == 0 ? Where::kOutside : path_[depth_ - 1]; }

  Where object_at() {
    switch (where()) {
      case Where::kOutside:
        return Where::kRoot;
      case Where::kChoices:
        event.has_choice = true;
        return Where::kChoice;
      case Where::kChoice:
        return key_ == "delta" ? Where::kDelta : Where::kElsewhere;
      case Where::kRoot:
        if (key_ == "usage") return Where::kUsage;
        if (key_ != "error") return Where::kElsewhere;
        event.is_error = true;
        return Where::kError;
      default:
        return Where::kElsewhere;
    }
  }
  Where array_at() {
    if (where() == Where::kRoot && key_ == "choices") return Where::kChoices;
    if (where() == Where::kChoice && key_ == "token_ids") return Where::kTokenIds;
    if (where() == Where::kDelta && key_ == "tool_calls") event.has_text = true;
    return Where::kElsewhere;
  }
  bool enter(Where place) {
    if (depth_ == kMaxDepth) return false;
    path_[depth_++] = place;
    return true;
  }
  bool leave() {
    --depth_;
    return true;
  }
  void take_string(std::string_view part) {
    const bool is_text = (where() == Where::kChoice && key_ == "text") ||
                         (where() == Where::kDelta && (key_ == "content" || key_ == "reasoning" ||
                                                       key_ == "reasoning_content"));
    if (is_text && !part.empty()) {
      event.has_text = true;
      if (answer != nullptr) answer->append(part);
    }
    if (where() == Where::kError && key_ == "message") event.error.append(part);
    if (where() != Where::kRoot) return;
    if (key_ == "error") event.error.append(part);
    // {"object": "error", "message": ...}, as older servers say it.
    if (key_ == "message") root_message_.append(part);
    if (key_ == "object" && part == "error") event.is_error = true;
  }
  bool take_number(int64_t value) {
    if (where() == Where::kTokenIds) ++event.num_token_ids;
    if (where() == Where::kUsage && key_ == "completion_tokens") event.completion_tokens = value;
    if (where() == Where::kUsage && key_ == "prompt_tokens") event.prompt_tokens = value;
    return true;
  }

  std::array<Where, kMaxDepth> path_{};
  size_t depth_ = 0;
  std::string key_;
  bool key_ended_ = true;
  std::string root_message_;
};

}  // namespace

struct StreamEventReader::Impl {
  boost::json::basic_parser<Handler> parser{boost::json::parse_options{}};
};

StreamEventReader::StreamEventReader() : impl_(std::make_unique<Impl>()) {}
StreamEventReader::~StreamEventReader() = default;

bool StreamEventReader::read(std::string_view json, std::string* answer) {
  impl_->parser.reset();
  impl_->parser.handler().begin(answer);
  error_code ec;
  const size_t taken = impl_->parser.write_some(false, json.data(), json.size(), ec);
  return !ec && taken == json.size();
}

const StreamEvent& StreamEventReader::event() const { return impl_->parser.handler().event; }

}  // namespace slipstream

// One event of an OpenAI-compatible stream, completions or chat: what a load client needs of it.
//
// Owns the reading of the JSON behind "data: ", whatever its order and spacing. One reader per
// thread: it keeps its buffers from event to event.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace slipstream {

struct StreamEvent {
  bool has_choice = false;
  bool has_text = false;       // of any kind: text, content, reasoning, a tool call
  bool has_role = false;       // chat's opening chunk
  bool has_finish = false;     // a finish_reason
  int64_t num_token_ids = 0;   // where the server sends token_ids
  int64_t prompt_tokens = -1;  // of usage; -1: not there
  int64_t completion_tokens = -1;
  bool is_error = false;
  std::string error;  // its message

  // Whether it brings tokens. A chunk whose tokens make no whole character yet, or none at all, is
  // one all the same; chat's opening chunk and a bare finish_reason are none.
  bool is_chunk() const {
    return has_choice && (has_text || num_token_ids > 0 || (!has_role && !has_finish));
  }
};

class StreamEventReader {
 public:
  StreamEventReader();
  ~StreamEventReader();
  StreamEventReader(const StreamEventReader&) = delete;
  StreamEventReader& operator=(const StreamEventReader&) = delete;

  // False: not JSON. The event lives until the next call. Text is appended to `answer` unless null.
  bool read(std::string_view json, std::string* answer);
  const StreamEvent& event() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace slipstream

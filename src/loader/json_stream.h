// Reads large flat JSON documents (safetensors headers, shard indexes) as a stream of events, in
// linear time and without building a tree. Internal to loader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace slipstream {

// What a reader of one document implements. Returning false stops the parse; the reader sets
// `problem` first. Depth is 1 inside the outermost object.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual bool on_key(int depth, std::string& key) = 0;
  virtual bool on_object(int depth) = 0;  // one begins; its keys have this depth
  virtual bool on_array(int depth) = 0;
  virtual bool on_end(int depth) = 0;  // of an object or array of this depth
  virtual bool on_string(int depth, std::string& text) = 0;
  virtual bool on_unsigned(int depth, uint64_t value) = 0;
  virtual bool on_other(int depth, const char* what) = 0;  // null, bools, other numbers

  std::string problem;

 protected:
  bool stop(std::string text) {
    problem = std::move(text);
    return false;
  }
};

// `what` names the document in messages. Nesting deeper than `max_depth` is an error.
Status read_json_stream(std::string_view text, const std::string& what, int max_depth,
                        JsonEvents& events);

}  // namespace slipstream

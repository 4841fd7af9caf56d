// What OpenAI's chat and completions answers share: the head of an object, chunks, usage, the end.
#pragma once

#include <string>
#include <string_view>

#include "server/call.h"
#include "server/json_writer.h"

namespace slipstream {

class OpenAiAnswer : public AnswerFormat {
 public:
  void append_end(const CallState& call, std::string& out) override;

 protected:
  explicit OpenAiAnswer(const char* chunk_object) : chunk_object_(chunk_object) {}

  // `data: {"id":...,"choices":[`, rendered once.
  void begin_chunk(const CallState& call, std::string& out);
  // `]`, what stands beside the choices, `}` and the blank line. `timed`: the choice whose timings
  // it carries, or null. `more` is empty or `,"name":value`.
  void end_chunk(const CallState& call, const Choice* timed, std::string_view more,
                 std::string& out) const;
  // The members before "choices" of an answer that is not streamed; the object stays open.
  static void write_head(const CallState& call, const char* object, JsonWriter& json);
  // The members behind it, which end the object.
  static void write_tail(const CallState& call, JsonWriter& json);

 private:
  const char* const chunk_object_;
  std::string prefix_;
};

}  // namespace slipstream

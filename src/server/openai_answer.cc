#include "server/openai_answer.h"

#include "server/sse.h"

namespace slipstream {

void OpenAiAnswer::write_head(const CallState& call, const char* object, JsonWriter& json) {
  json.begin_object()
      .field("id", call.spec.id)
      .field("object", object)
      .field("created", call.spec.created_s)
      .field("model", call.spec.model)
      .field("system_fingerprint", call.system_fingerprint);
}

void OpenAiAnswer::write_tail(const CallState& call, JsonWriter& json) {
  json.key("usage").raw(usage_json(call.usage));
  if (call.spec.timings) json.key("timings").raw(timings_json(call, call.choices.front()));
  json.end_object();
}

void OpenAiAnswer::begin_chunk(const CallState& call, std::string& out) {
  if (prefix_.empty()) {
    prefix_ = kSseData;
    JsonWriter json(prefix_);
    write_head(call, chunk_object_, json);
    json.key("choices").begin_array();
  }
  out += prefix_;
}

void OpenAiAnswer::end_chunk(const CallState& call, const Choice* timed, std::string_view more,
                             std::string& out) const {
  out += ']';
  out += more;
  if (call.spec.continuous_usage) {
    out += ",\"usage\":";
    out += usage_json(call.usage);
  } else if (call.spec.include_usage) {
    out += ",\"usage\":null";
  }
  if (timed != nullptr && call.spec.timings) {
    out += ",\"timings\":";
    out += timings_json(call, *timed);
  }
  out += '}';
  out += kSseEnd;
}

void OpenAiAnswer::append_end(const CallState& call, std::string& out) {
  if (call.spec.include_usage) {
    begin_chunk(call, out);
    out += "],\"usage\":";
    out += usage_json(call.usage);
    if (call.spec.timings) {
      out += ",\"timings\":";
      out += timings_json(call, call.choices.front());
    }
    out += '}';
    out += kSseEnd;
  }
  out += kSseDone;
}

}  // namespace slipstream

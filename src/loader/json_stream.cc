#include "loader/json_stream.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/strings.h"

namespace slipstream {
namespace {

// nlohmann's event interface, turned into ours.
class Adapter : public nlohmann::json_sax<nlohmann::json> {
 public:
  Adapter(JsonEvents& events, int max_depth) : events_(events), max_depth_(max_depth) {}

  bool null() override { return events_.on_other(depth_, "null"); }
  bool boolean(bool) override { return events_.on_other(depth_, "a bool"); }
  bool number_integer(number_integer_t) override {
    return events_.on_other(depth_, "a negative number");
  }
  bool number_unsigned(number_unsigned_t value) override {
    return events_.on_unsigned(depth_, value);
  }
  bool number_float(number_float_t, const string_t&) override {
    return events_.on_other(depth_, "a number that is not a 64-bit integer");
  }
  bool string(string_t& text) override { return events_.on_string(depth_, text); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return deeper() && events_.on_object(depth_); }
  bool key(string_t& text) override { return events_.on_key(depth_, text); }
  bool end_object() override { return events_.on_end(depth_--); }
  bool start_array(std::size_t) override { return deeper() && events_.on_array(depth_); }
  bool end_array() override { return events_.on_end(depth_--); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    events_.problem = str("not valid JSON at byte ", position);
    return false;
  }

 private:
  bool deeper() {
    if (++depth_ <= max_depth_) return true;
    events_.problem = str("nested deeper than ", max_depth_);
    return false;
  }

  JsonEvents& events_;
  int max_depth_;
  int depth_ = 0;
};

}  // namespace

Status read_json_stream(std::string_view text, const std::string& what, int max_depth,
                        JsonEvents& events) {
  Adapter adapter(events, max_depth);
  if (nlohmann::json::sax_parse(text.begin(), text.end(), &adapter)) return {};
  return invalid_model(str(what, ": ", events.problem));
}

}  // namespace slipstream

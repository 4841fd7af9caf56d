// What the rows of the parameter table are made of: readers of values, and makers of rows of one
// plain type. For the files that hold rows. Pure functions: any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "server/params.h"

namespace slipstream {

// Why a value is refused; nothing when it is not.
using ParamError = std::optional<ApiError>;

// An integer that fits 64 bits, or why not.
ParamError read_integer(const std::string& what, const Json& value, int64_t& out);
ParamError read_token_id(const std::string& what, const Json& value, const ParamEnv& env,
                         int32_t& out);
// Text that is only ever a label: short and without control characters.
ParamError check_label(const std::string& name, const std::string& text);
// The strings that end an answer: one or an array, within the limits.
ParamError read_stop_strings(const char* name, ParsedParams& parsed, const ParamEnv& env,
                             const Json& value);

struct RowHead {
  const char* name;
  uint32_t endpoints;
  const char* group;
  const char* doc;
};

ParamRow bool_row(const RowHead& head, std::optional<bool> preset,
                  std::function<void(ParsedParams&, bool)> set);

struct IntRange {
  int64_t min;
  int64_t max;
  std::optional<int64_t> preset = {};
};

ParamRow int_row(const RowHead& head, const IntRange& range,
                 std::function<void(ParsedParams&, int64_t)> set);

struct NumberRange {
  double min;
  double max;
  bool min_excluded = false;
  std::optional<double> preset = {};
};

ParamRow number_row(const RowHead& head, const NumberRange& range,
                    std::function<void(ParsedParams&, float)> set);
ParamRow label_row(const RowHead& head, std::function<void(ParsedParams&, std::string)> set);
ParamRow token_ids_row(const RowHead& head,
                       std::function<void(ParsedParams&, std::vector<int32_t>)> set);
ParamRow custom_row(const RowHead& head, Json schema, ParamSetter set);
// A field whose effect this server does not have: ignoring it would answer another question.
ParamRow refused_row(const RowHead& head, std::string reason);

// Rows that only the Responses and the Messages API have.
void add_responses_rows(std::vector<ParamRow>& rows);
void add_messages_rows(std::vector<ParamRow>& rows, const ServerLimits& limits);

}  // namespace slipstream

#include "cli/record_flags.h"

#include <iomanip>
#include <sstream>
#include <utility>

#include "base/strings.h"

namespace slipstream {

std::vector<Flag> RecordFlags::flags() {
  return {
      int_flag({"repeats", "", "N", str(repeats), "measured runs, after one that is not"},
               {1, 100000}, [this](int64_t value) { repeats = static_cast<int>(value); }),
      switch_flag({"json", "", "", "", "one JSON object a line, the summary last"},
                  [this] { json = true; }),
      text_flag({"save", "", "FILE", "", "append the records to this JSONL file"},
                [this](const std::string& value) { save_path = value; }),
  };
}

Result<RecordWriter> open_records(const RecordFlags& flags, Output& output,
                                  std::function<std::string(const Json&)> words) {
  return RecordWriter::open(flags.save_path, [&output, json = flags.json,
                                              words = std::move(words)](const std::string& line) {
    if (json) {
      output.write_now(line);
      return;
    }
    const Result<Json> record = parse_json(line, "record");
    if (record.ok()) output.write_now(words(record.value()) + "\n");
  });
}

std::string label(const Json& record) {
  return record.contains("summary") ? str("median of ", record["repeats"].get<int>(), ": ")
                                    : str("run ", record["repeat"].get<int>() + 1, ": ");
}

std::string fixed(double value, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << value;
  return text.str();
}

}  // namespace slipstream

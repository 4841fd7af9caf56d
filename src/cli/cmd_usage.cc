// slipstream usage: what each key used, from the ledger that `serve` writes; beside a running
// server too.
#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/strings.h"
#include "base/time_text.h"
#include "cli/command.h"
#include "cli/environment.h"
#include "cli/line_io.h"
#include "server/ledger.h"

namespace slipstream {
namespace {

constexpr double kMaxPrice = 1e9;

Flag time_flag(FlagText text, std::function<void(int64_t)> store) {
  const std::string name = text.name;
  return {std::move(text), [name, store = std::move(store)](const std::string& value) -> Status {
            const Result<int64_t> unix_ms = parse_unix_ms(value);
            if (!unix_ms.ok()) return unix_ms.status().in("--" + name);
            store(unix_ms.value());
            return {};
          }};
}

UsageRow total_of(const std::vector<UsageRow>& rows) {
  UsageRow total;
  for (const UsageRow& row : rows) {
    total.num_requests += row.num_requests;
    total.input_tokens += row.input_tokens;
    total.cached_tokens += row.cached_tokens;
    total.output_tokens += row.output_tokens;
  }
  return total;
}

// Names come from key files and clients: nothing of them moves the cursor.
std::string shown(const std::string& name, const char* if_empty) {
  if (name.empty()) return if_empty;
  const std::string quoted = quote(name);
  return quoted.substr(1, quoted.size() - 2);
}

std::string price_text(double price) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.6f", price);
  return text.data();
}

size_t num_columns(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

using Cells = std::vector<std::string>;

// Two columns of names to the left, numbers to the right.
std::string aligned(const std::vector<Cells>& lines) {
  std::vector<size_t> widths(lines.front().size(), 0);
  for (const Cells& cells : lines) {
    for (size_t idx = 0; idx < cells.size(); ++idx) {
      widths[idx] = std::max(widths[idx], num_columns(cells[idx]));
    }
  }
  std::string text;
  for (const Cells& cells : lines) {
    for (size_t idx = 0; idx < cells.size(); ++idx) {
      const std::string padding(widths[idx] - num_columns(cells[idx]), ' ');
      text += idx < 2 ? cells[idx] + padding : padding + cells[idx];
      text += idx + 1 < cells.size() ? "  " : "\n";
    }
  }
  return text;
}

class UsageCommand : public Command {
 public:
  std::string name() const override { return "usage"; }
  std::string summary() const override { return "requests, tokens and price per key and model"; }
  std::vector<Flag> flags() override {
    return {
        text_flag({"usage-db", "", "FILE", "$SLIPSTREAM_HOME/usage.db",
                   "the ledger that `slipstream serve` writes"},
                  [this](const std::string& value) { path_ = value; }),
        time_flag(
            {"from", "", "TIME", "the beginning",
             "from this moment on: an ISO date or time (UTC without a zone), or Unix seconds"},
            [this](int64_t unix_ms) { query_.from_unix_ms = unix_ms; }),
        time_flag({"to", "", "TIME", "now", "before this moment; a date means its first second"},
                  [this](int64_t unix_ms) { query_.to_unix_ms = unix_ms; }),
        text_flag({"key", "", "LABEL", "all keys",
                   "only the key of this label; an empty one: requests without a key"},
                  [this](const std::string& value) {
                    query_.key_label = value;
                    query_.only_key = true;
                  }),
        number_flag({"price-per-million-tokens", "", "PRICE", "0, no price",
                     "price of a million tokens, input and output alike"},
                    {0.0, kMaxPrice}, [this](double value) { price_ = value; }),
        switch_flag({"json", "", "", "", "print one JSON object"}, [this] { json_ = true; }),
    };
  }
  Result<int> run() override;

 private:
  Json row_json(const UsageRow& row) const;
  Json report(const std::vector<UsageRow>& rows) const;
  std::string table(const std::vector<UsageRow>& rows) const;

  std::string path_ = default_usage_db();
  UsageQuery query_;
  double price_ = 0.0;
  bool json_ = false;
};

Json UsageCommand::row_json(const UsageRow& row) const {
  return Json{{"requests", row.num_requests},
              {"input_tokens", row.input_tokens},
              {"cached_tokens", row.cached_tokens},
              {"output_tokens", row.output_tokens},
              {"total_tokens", row.input_tokens + row.output_tokens},
              {"price", price_of(row, price_)}};
}

Json UsageCommand::report(const std::vector<UsageRow>& rows) const {
  Json list = Json::array();
  for (const UsageRow& row : rows) {
    Json object{{"key", row.key_label}, {"model", row.model}};
    object.update(row_json(row));
    list.push_back(std::move(object));
  }
  const bool is_open = query_.to_unix_ms == INT64_MAX;
  return Json{{"from_unix_ms", query_.from_unix_ms},
              {"to_unix_ms", is_open ? Json(nullptr) : Json(query_.to_unix_ms)},
              {"price_per_million_tokens", price_},
              {"rows", std::move(list)},
              {"total", row_json(total_of(rows))}};
}

std::string UsageCommand::table(const std::vector<UsageRow>& rows) const {
  std::vector<Cells> lines = {{"key", "model", "requests", "input", "cached", "output", "total"}};
  const auto add = [&](std::string key, std::string model, const UsageRow& row) {
    lines.push_back({std::move(key), std::move(model), std::to_string(row.num_requests),
                     std::to_string(row.input_tokens), std::to_string(row.cached_tokens),
                     std::to_string(row.output_tokens),
                     std::to_string(row.input_tokens + row.output_tokens)});
    if (price_ > 0.0) lines.back().push_back(price_text(price_of(row, price_)));
  };
  if (price_ > 0.0) lines.front().push_back("price");
  for (const UsageRow& row : rows) {
    add(shown(row.key_label, "(no key)"), shown(row.model, "(none)"), row);
  }
  add("all", "", total_of(rows));
  return aligned(lines);
}

Result<int> UsageCommand::run() {
  if (path_.empty()) {
    return bad_usage("neither SLIPSTREAM_HOME nor HOME is set; name the ledger with --usage-db");
  }
  if (query_.from_unix_ms >= query_.to_unix_ms) return bad_usage("--from must lie before --to");
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto ledger, Ledger::open_read_only(path_));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<UsageRow> rows, ledger->usage(query_));
  Output output;
  output.write_now(json_ ? dump_json(report(rows)) + "\n" : table(rows));
  if (!output.status().ok()) return output.status();
  return 0;
}

}  // namespace

std::unique_ptr<Command> make_usage_command() { return std::make_unique<UsageCommand>(); }

}  // namespace slipstream

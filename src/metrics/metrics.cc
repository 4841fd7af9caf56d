#include "metrics/metrics.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/check.h"
#include "base/utf8.h"

namespace slipstream {
namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_metric_name(std::string_view name) {
  const auto allowed = [](char c) { return is_letter(c) || is_digit(c) || c == ':'; };
  return !name.empty() && !is_digit(name[0]) && std::all_of(name.begin(), name.end(), allowed);
}

bool is_label_name(std::string_view name) {
  return is_metric_name(name) && name.find(':') == std::string_view::npos &&
         name.substr(0, 2) != "__";
}

// Backslash and line feed as \\ and \n, in label values the quote as well; invalid UTF-8 becomes
// U+FFFD, for the format is UTF-8 throughout.
std::string escaped(std::string_view text, bool quotes) {
  std::string out;
  const std::string valid = utf8_sanitized(text);
  for (const char c : valid) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || (quotes && c == '"')) out += '\\';
    out += c;
  }
  return out;
}

void append_number(std::string& out, double value) {
  if (std::isnan(value)) {
    out += "NaN";
  } else if (std::isinf(value)) {
    out += value > 0 ? "+Inf" : "-Inf";
  } else {
    std::array<char, 32> buffer;
    out.append(buffer.data(),
               std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr);
  }
}

// name="value",name="value"
std::string label_text(const MetricLabels& labels) {
  std::string out;
  for (const auto& [name, value] : labels) {
    if (!out.empty()) out += ',';
    out.append(name).append("=\"").append(escaped(value, true)).append("\"");
  }
  return out;
}

// What stands before the value: name_suffix{labels,le="bound"} and a space.
struct SampleName {
  std::string_view name;
  std::string_view suffix;
  std::string_view labels;
};

void append_name(std::string& out, const SampleName& sample, const double* bound = nullptr) {
  out.append(sample.name).append(sample.suffix);
  if (!sample.labels.empty() || bound != nullptr) {
    out.append("{").append(sample.labels);
    if (bound != nullptr) {
      out.append(sample.labels.empty() ? "le=\"" : ",le=\"");
      append_number(out, *bound);
      out += '"';
    }
    out += '}';
  }
  out += ' ';
}

void append_histogram(std::string& out, std::string_view name, std::string_view labels,
                      const Histogram& histogram) {
  const std::vector<uint64_t> counts = histogram.counts();
  uint64_t total = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    total += counts[i];
    const double bound = i < histogram.bounds().size() ? histogram.bounds()[i] : HUGE_VAL;
    append_name(out, {name, "_bucket", labels}, &bound);
    out.append(std::to_string(total)).append("\n");
  }
  append_name(out, {name, "_sum", labels});
  append_number(out, histogram.sum());
  out += '\n';
  append_name(out, {name, "_count", labels});
  out.append(std::to_string(total)).append("\n");
}

void check_names(const std::string& name, bool is_histogram, const MetricLabels& labels) {
  SLIPSTREAM_CHECK(is_metric_name(name), name);
  for (const auto& label : labels) {
    SLIPSTREAM_CHECK(is_label_name(label.first), label.first);
    SLIPSTREAM_CHECK(!is_histogram || label.first != "le", name);
    SLIPSTREAM_CHECK(
        std::count_if(labels.begin(), labels.end(),
                      [&](const auto& other) { return other.first == label.first; }) == 1,
        label.first);
  }
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {
  const auto disordered = std::adjacent_find(bounds_.begin(), bounds_.end(),
                                             [](double a, double b) { return !(a < b); });
  SLIPSTREAM_CHECK(disordered == bounds_.end(), "the bounds of a histogram grow");
  SLIPSTREAM_CHECK(
      std::all_of(bounds_.begin(), bounds_.end(), [](double b) { return std::isfinite(b); }),
      "the bounds of a histogram are finite");
}

void Histogram::observe(double value) {
  if (std::isnan(value)) return;
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

void Histogram::mirror(std::span<const uint64_t> counts, double sum) {
  SLIPSTREAM_CHECK(counts.size() == counts_.size(), "one count per bucket");
  for (size_t i = 0; i < counts.size(); ++i) {
    counts_[i].store(counts[i], std::memory_order_relaxed);
  }
  sum_.store(sum, std::memory_order_relaxed);
}

std::vector<uint64_t> Histogram::counts() const {
  std::vector<uint64_t> counts;
  counts.reserve(counts_.size());
  for (const std::atomic<uint64_t>& count : counts_) {
    counts.push_back(count.load(std::memory_order_relaxed));
  }
  return counts;
}

struct MetricRegistry::Series {
  MetricLabels labels;
  std::string label_text;
  Counter counter;
  Gauge gauge;
  std::function<double()> read;  // of a gauge; null: its own value
  std::unique_ptr<Histogram> histogram;
};

struct MetricRegistry::Family {
  std::string name;
  std::string help;
  Type type = Type::kCounter;
  std::vector<std::unique_ptr<Series>> series;
};

MetricRegistry::MetricRegistry() = default;
MetricRegistry::~MetricRegistry() = default;

// The family of that name, checked against what it was registered with, or null. The caller holds
// the lock.
MetricRegistry::Family* MetricRegistry::known_family(const std::string& name,
                                                     const std::string& help, Type type,
                                                     const MetricLabels& labels) const {
  const auto found = std::find_if(families_.begin(), families_.end(),
                                  [&](const auto& family) { return family->name == name; });
  if (found == families_.end()) return nullptr;
  const Family& known = **found;
  SLIPSTREAM_CHECK(known.type == type, name);
  SLIPSTREAM_CHECK(known.help == help, name);
  const auto same_name = [](const auto& a, const auto& b) { return a.first == b.first; };
  const MetricLabels& known_labels = known.series.front()->labels;
  SLIPSTREAM_CHECK(
      std::equal(known_labels.begin(), known_labels.end(), labels.begin(), labels.end(), same_name),
      name);
  return found->get();
}

// The series, known or new. One that memory is too short for leaves nothing behind: a family is
// never without a series, nor a histogram without buckets.
MetricRegistry::Series& MetricRegistry::series(const std::string& name, const std::string& help,
                                               Type type, const MetricLabels& labels,
                                               const std::vector<double>& bounds) {
  Family* const known = known_family(name, help, type, labels);
  const auto find = [&](const MetricLabels& wanted) -> Series* {
    if (known == nullptr) return nullptr;
    const auto found = std::find_if(known->series.begin(), known->series.end(),
                                    [&](const auto& series) { return series->labels == wanted; });
    return found == known->series.end() ? nullptr : found->get();
  };
  if (known != nullptr && type == Type::kHistogram) {
    SLIPSTREAM_CHECK(known->series.front()->histogram->bounds() == bounds, name);
  }
  if (Series* const found = find(labels)) return *found;
  auto added = std::make_unique<Series>();
  added->labels = labels;
  if (known != nullptr && known->series.size() >= kMaxSeries) {
    for (auto& label : added->labels) label.second = "other";
    if (Series* const found = find(added->labels)) return *found;
  }
  added->label_text = label_text(added->labels);
  if (type == Type::kHistogram) added->histogram = std::make_unique<Histogram>(bounds);
  if (known != nullptr) {
    known->series.push_back(std::move(added));
    return *known->series.back();
  }
  check_names(name, type == Type::kHistogram, labels);
  auto family = std::make_unique<Family>();
  family->name = name;
  family->help = help;
  family->type = type;
  family->series.push_back(std::move(added));
  families_.push_back(std::move(family));
  return *families_.back()->series.back();
}

Counter& MetricRegistry::counter(const std::string& name, const std::string& help,
                                 const MetricLabels& labels) {
  SLIPSTREAM_CHECK(name.ends_with("_total"), name);
  const std::lock_guard lock(mutex_);
  return series(name, help, Type::kCounter, labels, {}).counter;
}

Gauge& MetricRegistry::gauge(const std::string& name, const std::string& help,
                             const MetricLabels& labels) {
  const std::lock_guard lock(mutex_);
  return series(name, help, Type::kGauge, labels, {}).gauge;
}

void MetricRegistry::gauge(const std::string& name, const std::string& help,
                           const MetricLabels& labels, std::function<double()> read) {
  const std::lock_guard lock(mutex_);
  series(name, help, Type::kGauge, labels, {}).read = std::move(read);
}

Histogram& MetricRegistry::histogram(const std::string& name, const std::string& help,
                                     const MetricLabels& labels,
                                     const std::vector<double>& bounds) {
  const std::lock_guard lock(mutex_);
  return *series(name, help, Type::kHistogram, labels, bounds).histogram;
}

void MetricRegistry::before_scrape(std::function<void()> refresh) {
  const std::lock_guard lock(mutex_);
  refreshers_.push_back(std::move(refresh));
}

std::string MetricRegistry::text() const {
  const std::lock_guard lock(mutex_);
  for (const std::function<void()>& refresh : refreshers_) refresh();
  std::string out;
  for (const std::unique_ptr<Family>& family : families_) {
    constexpr std::array<const char*, 3> kTypeNames = {"counter", "gauge", "histogram"};
    out.append("# HELP ").append(family->name).append(" ");
    out.append(escaped(family->help, false)).append("\n# TYPE ").append(family->name).append(" ");
    out.append(kTypeNames[static_cast<size_t>(family->type)]).append("\n");
    for (const std::unique_ptr<Series>& series : family->series) {
      if (family->type == Type::kHistogram) {
        append_histogram(out, family->name, series->label_text, *series->histogram);
        continue;
      }
      append_name(out, {family->name, "", series->label_text});
      if (family->type == Type::kCounter) {
        out += std::to_string(series->counter.value());
      } else {
        append_number(out, series->read ? series->read() : series->gauge.value());
      }
      out += '\n';
    }
  }
  return out;
}

}  // namespace slipstream

// A strict reader of the Prometheus text format 0.0.4, for tests of whoever prints it. Stricter
// than Prometheus: every sample follows the HELP and TYPE of its family, families are not split,
// no series comes twice, and histograms add up.
#pragma once

#include <cctype>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace slipstream {

struct MetricSample {
  std::string name;
  std::map<std::string, std::string> labels;  // unescaped
  double value = 0.0;
};

class MetricsLint {
 public:
  explicit MetricsLint(std::string_view text) {
    if (text.empty() || text.back() != '\n') complain("the text ends with a line feed");
    while (!text.empty() && problems_.empty()) {
      const size_t end = std::min(text.find('\n'), text.size() - 1);
      read_line(std::string(text.substr(0, end)));
      text.remove_prefix(end + 1);
    }
    end_family();
  }

  const std::vector<std::string>& problems() const { return problems_; }
  const std::vector<MetricSample>& samples() const { return samples_; }
  const std::map<std::string, std::string>& types() const { return types_; }

  // The value of the series that has these labels, perhaps among others; NaN when there is none.
  double value(const std::string& name,
               const std::map<std::string, std::string>& labels = {}) const {
    for (const MetricSample& sample : samples_) {
      bool matches = sample.name == name;
      for (const auto& [key, wanted] : labels) {
        const auto found = sample.labels.find(key);
        matches = matches && found != sample.labels.end() && found->second == wanted;
      }
      if (matches) return sample.value;
    }
    return std::nan("");
  }

 private:
  using Labels = std::map<std::string, std::string>;
  struct HistogramSeries {
    double last_bound = -HUGE_VAL;
    double last_count = 0.0;
    double count = -1.0;
    bool has_sum = false;
  };

  void complain(const std::string& problem) { problems_.push_back(problem); }

  static bool is_name(std::string_view name) {
    if (name.empty() || std::isdigit(static_cast<unsigned char>(name[0]))) return false;
    for (const char c : name) {
      if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_' && c != ':') return false;
    }
    return true;
  }

  void read_line(const std::string& line) {
    if (line.starts_with("# HELP ") || line.starts_with("# TYPE ")) {
      const size_t end = line.find(' ', 7);
      if (end == std::string::npos) return complain("no text after the name: " + line);
      read_head(line[2] == 'H', line.substr(7, end - 7), line.substr(end + 1));
    } else {
      read_sample(line);
    }
  }

  void read_head(bool is_help, const std::string& name, const std::string& rest) {
    if (!is_name(name)) complain("not a name: " + name);
    if (is_help) {
      end_family();
      family_ = name;
      type_.clear();
      if (!helped_.insert(name).second) complain("second HELP of " + name);
      return;
    }
    if (name != family_) return complain("TYPE without HELP: " + name);
    if (!types_.emplace(name, rest).second) complain("second TYPE of " + name);
    if (rest != "counter" && rest != "gauge" && rest != "histogram") complain("type " + rest);
    if (rest == "counter" && !name.ends_with("_total"))
      complain("a counter ends in _total: " + name);
    type_ = rest;
  }

  void read_sample(const std::string& line) {
    MetricSample sample;
    size_t position = line.find_first_of("{ ");
    if (position == std::string::npos) return complain("no value: " + line);
    sample.name = line.substr(0, position);
    if (line[position] == '{' && !read_labels(line, position, sample.labels)) {
      return complain("bad labels: " + line);
    }
    if (position >= line.size() || line[position] != ' ') return complain("no blank: " + line);
    const std::string value = line.substr(position + 1);
    char* end = nullptr;
    sample.value = std::strtod(value.c_str(), &end);
    if (value.empty() || *end != '\0') return complain("not a number: " + line);
    if (!series_.insert({sample.name, sample.labels}).second) complain("twice: " + line);
    check_family(sample, line);
    samples_.push_back(std::move(sample));
  }

  // From '{' at `position` to behind '}'.
  static bool read_labels(const std::string& line, size_t& position, Labels& labels) {
    ++position;
    while (position < line.size() && line[position] != '}') {
      const size_t equals = line.find("=\"", position);
      if (equals == std::string::npos) return false;
      const std::string name = line.substr(position, equals - position);
      if (!is_name(name) || name.find(':') != std::string::npos) return false;
      std::string value;
      for (position = equals + 2; position < line.size() && line[position] != '"'; ++position) {
        if (line[position] != '\\') {
          value += line[position];
          continue;
        }
        const char escape = ++position < line.size() ? line[position] : '\0';
        if (escape != 'n' && escape != '\\' && escape != '"') return false;
        value += escape == 'n' ? '\n' : escape;
      }
      if (position++ >= line.size() || !labels.emplace(name, value).second) return false;
      if (position < line.size() && line[position] == ',') ++position;
    }
    return position++ < line.size();
  }

  void check_family(const MetricSample& sample, const std::string& line) {
    if (family_.empty() || type_.empty()) return complain("no HELP and TYPE before: " + line);
    if (type_ != "histogram") {
      if (sample.name != family_) complain("another family: " + line);
      if (type_ == "counter" && !(sample.value >= 0.0)) complain("a negative counter: " + line);
      return;
    }
    Labels labels = sample.labels;
    labels.erase("le");
    HistogramSeries& series = histograms_[labels];
    if (sample.name == family_ + "_bucket") {
      const auto bound = sample.labels.find("le");
      if (bound == sample.labels.end()) return complain("a bucket without le: " + line);
      const double le = std::strtod(bound->second.c_str(), nullptr);
      if (!(le > series.last_bound)) complain("bounds do not grow: " + line);
      if (!(sample.value >= series.last_count)) complain("buckets are not cumulative: " + line);
      series.last_bound = le;
      series.last_count = sample.value;
    } else if (sample.name == family_ + "_sum") {
      series.has_sum = true;
    } else if (sample.name == family_ + "_count") {
      series.count = sample.value;
    } else {
      complain("another family: " + line);
    }
  }

  void end_family() {
    if (!family_.empty() && type_.empty()) complain("HELP without TYPE: " + family_);
    for (const auto& [labels, series] : histograms_) {
      if (series.last_bound != HUGE_VAL) complain("no +Inf bucket: " + family_);
      if (!series.has_sum) complain("no sum: " + family_);
      if (series.count != series.last_count) complain("count is not the +Inf bucket: " + family_);
    }
    histograms_.clear();
  }

  std::vector<std::string> problems_;
  std::vector<MetricSample> samples_;
  std::map<std::string, std::string> types_;
  std::set<std::string> helped_;
  std::set<std::pair<std::string, Labels>> series_;
  std::string family_, type_;                     // being read
  std::map<Labels, HistogramSeries> histograms_;  // of the family being read
};

}  // namespace slipstream

// Counters, gauges and histograms, and their Prometheus text (format 0.0.4).
//
// Owns the values and the text. Does not know what is measured: whoever counts registers a series
// once and keeps the reference, which stays valid as long as the registry. Any thread may register,
// count and ask for the text; counting takes no lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace slipstream {

// The media type of MetricRegistry::text().
inline constexpr std::string_view kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

// Label names and values, in the order they are printed.
using MetricLabels = std::vector<std::pair<std::string, std::string>>;

class Counter {
 public:
  void add(uint64_t count = 1) { value_.fetch_add(count, std::memory_order_relaxed); }
  // For a total that is counted elsewhere and copied here before a scrape.
  void mirror(uint64_t total) { value_.store(total, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class Gauge {
 public:
  void set(double value) { value_.store(value, std::memory_order_relaxed); }
  void add(double delta) { value_.fetch_add(delta, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0.0};
};

class Histogram {
 public:
  // `bounds`: upper bounds of the buckets, inclusive, strictly growing and finite; the bucket above
  // the last one is implied.
  explicit Histogram(std::vector<double> bounds);

  // A NaN is dropped: one would make the sum useless for good.
  void observe(double value);
  // For values counted elsewhere: `counts` per bucket, not cumulative, [bounds + 1].
  void mirror(std::span<const uint64_t> counts, double sum);

  const std::vector<double>& bounds() const { return bounds_; }
  std::vector<uint64_t> counts() const;  // per bucket, not cumulative, [bounds + 1]
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  const std::vector<double> bounds_;
  std::vector<std::atomic<uint64_t>> counts_;
  std::atomic<double> sum_{0.0};
};

class MetricRegistry {
 public:
  // Beyond this many label sets a family counts everything else in one series whose label values
  // are "other": labels that clients can influence must not grow the text without end.
  static constexpr size_t kMaxSeries = 1000;

  MetricRegistry();
  ~MetricRegistry();
  MetricRegistry(const MetricRegistry&) = delete;
  MetricRegistry& operator=(const MetricRegistry&) = delete;

  // The series of `name` with `labels`, made when it is new. One name has one help text, one type,
  // one list of label names and, for histograms, one list of bounds; names of counters end in
  // _total. Anything else is a bug of the caller.
  Counter& counter(const std::string& name, const std::string& help, const MetricLabels& labels);
  Gauge& gauge(const std::string& name, const std::string& help, const MetricLabels& labels);
  Histogram& histogram(const std::string& name, const std::string& help, const MetricLabels& labels,
                       const std::vector<double>& bounds);
  // A gauge that is read during every scrape, on the thread that scrapes.
  void gauge(const std::string& name, const std::string& help, const MetricLabels& labels,
             std::function<double()> read);

  // Called at the start of every scrape, in order, on the thread that scrapes: the place to mirror
  // totals that are kept elsewhere. It may count but not register and not scrape.
  void before_scrape(std::function<void()> refresh);

  // Every family in the order of registration, HELP and TYPE first, series in the order of theirs.
  std::string text() const;

 private:
  struct Family;
  struct Series;
  enum class Type : uint8_t { kCounter, kGauge, kHistogram };

  Family* known_family(const std::string& name, const std::string& help, Type type,
                       const MetricLabels& labels) const;
  Series& series(const std::string& name, const std::string& help, Type type,
                 const MetricLabels& labels, const std::vector<double>& bounds);

  mutable std::mutex mutex_;  // guards the lists, not the values
  std::vector<std::unique_ptr<Family>> families_;
  std::vector<std::function<void()>> refreshers_;
};

}  // namespace slipstream

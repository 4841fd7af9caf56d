#include "metrics/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <thread>

#include "metrics/metrics_lint_for_test.h"

namespace {
thread_local int num_allocations_left = -1;  // of this thread; negative: no limit
}  // namespace

[[gnu::noinline]] void* operator new(size_t size) {
  if (num_allocations_left == 0) throw std::bad_alloc();
  if (num_allocations_left > 0) --num_allocations_left;
  void* const memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace slipstream {
namespace {

std::string problems_of(const std::string& text) {
  std::string all;
  const MetricsLint lint(text);
  for (const std::string& problem : lint.problems()) all += problem + "\n";
  return all;
}

TEST(MetricsTest, TextIsTheFormatByteForByte) {
  MetricRegistry registry;
  Counter& requests = registry.counter("requests_total", "Requests.", {{"route", "/v1"}});
  registry.counter("requests_total", "Requests.", {{"route", "/"}});
  Histogram& seconds = registry.histogram("wait_seconds", "Wait.", {{"engine", "0"}}, {0.001, 2.5});
  registry.gauge("load", "Load.", {}).set(0.25);
  requests.add(3);
  seconds.observe(0.001);
  seconds.observe(1.0);
  seconds.observe(99.0);
  EXPECT_EQ(registry.text(),
            "# HELP requests_total Requests.\n"
            "# TYPE requests_total counter\n"
            "requests_total{route=\"/v1\"} 3\n"
            "requests_total{route=\"/\"} 0\n"
            "# HELP wait_seconds Wait.\n"
            "# TYPE wait_seconds histogram\n"
            "wait_seconds_bucket{engine=\"0\",le=\"0.001\"} 1\n"
            "wait_seconds_bucket{engine=\"0\",le=\"2.5\"} 2\n"
            "wait_seconds_bucket{engine=\"0\",le=\"+Inf\"} 3\n"
            "wait_seconds_sum{engine=\"0\"} 100.001\n"
            "wait_seconds_count{engine=\"0\"} 3\n"
            "# HELP load Load.\n"
            "# TYPE load gauge\n"
            "load 0.25\n");
  EXPECT_EQ(problems_of(registry.text()), "");
}

TEST(MetricsTest, LabelsAndHelpSurviveTheirEscapes) {
  MetricRegistry registry;
  const std::string wild = "a\\b\"c\nd\xC3\xA4,}= {";
  registry.counter("wild_total", "Two\nlines and a \\ \"quote\".", {{"name", wild}, {"x", ""}})
      .add(7);
  registry.gauge("broken", "Invalid UTF-8.", {{"name", "a\xFF"}}).set(1);
  const MetricsLint lint(registry.text());
  EXPECT_EQ(problems_of(registry.text()), "");
  EXPECT_EQ(lint.value("wild_total", {{"name", wild}}), 7.0);
  EXPECT_EQ(lint.value("broken", {{"name", "a\xEF\xBF\xBD"}}), 1.0);
  EXPECT_NE(registry.text().find("# HELP wild_total Two\\nlines and a \\\\ \"quote\".\n"),
            std::string::npos);
}

TEST(MetricsTest, NumbersRoundTripAndSpecialsHaveTheirNames) {
  MetricRegistry registry;
  const double values[] = {0.1,
                           1e300,
                           -3.0,
                           1e-9,
                           std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity()};
  for (size_t i = 0; i < std::size(values); ++i) {
    registry.gauge("value", "A value.", {{"i", std::to_string(i)}}).set(values[i]);
  }
  registry.gauge("nothing", "Not a number.", {}).set(std::nan(""));
  const std::string text = registry.text();
  const MetricsLint lint(text);
  EXPECT_EQ(problems_of(text), "");
  for (size_t i = 0; i < std::size(values); ++i) {
    EXPECT_EQ(lint.value("value", {{"i", std::to_string(i)}}), values[i]);
  }
  EXPECT_NE(text.find("value{i=\"4\"} +Inf\n"), std::string::npos);
  EXPECT_NE(text.find("value{i=\"5\"} -Inf\n"), std::string::npos);
  EXPECT_NE(text.find("nothing NaN\n"), std::string::npos);
}

TEST(MetricsTest, TheSameLabelsAreTheSameSeries) {
  MetricRegistry registry;
  Counter& first = registry.counter("a_total", "A.", {{"x", "1"}});
  EXPECT_EQ(&registry.counter("a_total", "A.", {{"x", "1"}}), &first);
  EXPECT_NE(&registry.counter("a_total", "A.", {{"x", "2"}}), &first);
  Histogram& histogram = registry.histogram("b", "B.", {}, {1.0});
  EXPECT_EQ(&registry.histogram("b", "B.", {}, {1.0}), &histogram);
}

TEST(MetricsTest, ObservationsFallIntoTheFirstBucketThatHoldsThem) {
  Histogram histogram({1.0, 2.0});
  for (const double value : {-5.0, 1.0, 1.5, 2.0, 2.1, 1e9}) histogram.observe(value);
  EXPECT_EQ(histogram.counts(), (std::vector<uint64_t>{2, 2, 2}));
  const double sum = histogram.sum();
  histogram.observe(std::nan(""));
  EXPECT_EQ(histogram.counts(), (std::vector<uint64_t>{2, 2, 2}));
  EXPECT_EQ(histogram.sum(), sum) << "a NaN is dropped";
}

TEST(MetricsTest, ValuesKeptElsewhereAreReadDuringTheScrape) {
  MetricRegistry registry;
  double running = 1.0;
  registry.gauge("running", "Running.", {}, [&] { return running; });
  Counter& steps = registry.counter("steps_total", "Steps.", {});
  Histogram& tokens = registry.histogram("tokens", "Tokens.", {}, {1.0, 2.0});
  registry.before_scrape([&] {
    steps.mirror(41);
    tokens.mirror(std::vector<uint64_t>{1, 0, 5}, 77.0);
  });
  running = 12.0;
  const std::string text = registry.text();
  EXPECT_EQ(problems_of(text), "");
  const MetricsLint lint(text);
  EXPECT_EQ(lint.value("running"), 12.0);
  EXPECT_EQ(lint.value("steps_total"), 41.0);
  EXPECT_EQ(lint.value("tokens_bucket", {{"le", "2"}}), 1.0);
  EXPECT_EQ(lint.value("tokens_count"), 6.0);
  EXPECT_EQ(lint.value("tokens_sum"), 77.0);
}

TEST(MetricsTest, LabelsOfClientsCannotGrowTheTextWithoutEnd) {
  MetricRegistry registry;
  for (int i = 0; i < 3000; ++i) {
    registry.counter("fields_total", "Unknown fields.", {{"name", std::to_string(i)}}).add();
  }
  const MetricsLint lint(registry.text());
  EXPECT_TRUE(lint.problems().empty());
  EXPECT_EQ(lint.samples().size(), MetricRegistry::kMaxSeries + 1);
  EXPECT_EQ(lint.value("fields_total", {{"name", "other"}}),
            3000.0 - static_cast<double>(MetricRegistry::kMaxSeries));
  EXPECT_EQ(lint.value("fields_total", {{"name", "7"}}), 1.0);
}

TEST(MetricsTest, R8_ASeriesThatMemoryIsTooShortForLeavesNothingBehind) {
  const MetricLabels labels = {{"route", "/a/name/longer/than/a/small/string/holds"}};
  const std::string name = "a_histogram_with_a_long_name_seconds";
  int num_failures = 0;
  for (bool done = false; !done; ++num_failures) {
    MetricRegistry registry;
    num_allocations_left = num_failures;
    try {
      registry.histogram(name, "Help.", labels, {0.001, 2.5});
      done = true;
    } catch (const std::bad_alloc&) {
    }
    num_allocations_left = -1;
    if (!done) {
      EXPECT_EQ(registry.text(), "");
    }
    registry.histogram(name, "Help.", labels, {0.001, 2.5}).observe(1.0);
    EXPECT_EQ(problems_of(registry.text()), "");
  }
  EXPECT_GT(num_failures, 5);
}

TEST(MetricsTest, NoCountIsLostBetweenThreadsAndEveryScrapeAddsUp) {
  MetricRegistry registry;
  Counter& counter = registry.counter("a_total", "A.", {});
  Histogram& histogram = registry.histogram("b", "B.", {}, {1.0, 2.0, 3.0});
  constexpr int kThreads = 4;
  constexpr int kCounts = 20'000;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kCounts; ++i) {
        counter.add();
        histogram.observe(1.0 + i % 3);
        if (i % 5000 == 0) registry.gauge("c", "C.", {{"t", std::to_string(thread)}}).add(1.0);
      }
    });
  }
  for (int scrape = 0; scrape < 20; ++scrape) EXPECT_EQ(problems_of(registry.text()), "");
  for (std::thread& thread : threads) thread.join();
  const MetricsLint lint(registry.text());
  EXPECT_EQ(lint.value("a_total"), kThreads * kCounts);
  EXPECT_EQ(lint.value("b_count"), kThreads * kCounts);
  EXPECT_EQ(lint.value("c", {{"t", "3"}}), 4.0);
}

TEST(MetricsTest, TheLintSeesWhatIsWrong) {
  const std::string head = "# HELP h H.\n# TYPE h histogram\n";
  const std::string good =
      head + "h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n";
  EXPECT_EQ(problems_of(good), "");
  const std::string bad[] = {
      "",
      "a 1",
      "a 1\n",
      "# TYPE a gauge\na 1\n",
      "# HELP a A.\na 1\n",
      "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
      "# HELP a A.\n# TYPE a gauge\na one\n",
      "# HELP a A.\n# TYPE a gauge\nb 1\n",
      "# HELP a A.\n# TYPE a gauge\na{x=\"\\t\"} 1\n",
      "# HELP a A.\n# TYPE a gauge\na{x=\"1} 1\n",
      "# HELP a A.\n# TYPE a counter\na 1\n",
      "# HELP a A.\n# TYPE a gauge\na 1\n# HELP a A.\n# TYPE a gauge\na{x=\"1\"} 1\n",
      head + "h_bucket{le=\"1\"} 3\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n",
      head +
          "h_bucket{le=\"2\"} 1\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count "
          "2\n",
      head + "h_bucket{le=\"1\"} 1\nh_sum 3\nh_count 1\n",
      head + "h_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 3\n",
      head + "h_bucket{le=\"+Inf\"} 2\nh_count 2\n",
  };
  for (const std::string& text : bad) EXPECT_NE(problems_of(text), "") << text;
}

}  // namespace
}  // namespace slipstream

// Rules of import: a record becomes the point it describes, a bad line is named and costs no good
// one, and what export writes comes back the same.
#include "bench/point_import.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/strings.h"
#include "base/temp_folder_for_test.h"
#include "bench/point.h"
#include "bench/point_export.h"

namespace slipstream {
namespace {

Json spread(double base) {
  return Json{{"mean", base},    {"p50", base},      {"p90", base + 1}, {"p95", base + 2},
              {"p99", base + 3}, {"p999", base + 4}, {"max", base + 5}};
}

Json serve_record() {
  return Json{{"schema", 1},
              {"kind", "serve"},
              {"engine", "slipstream"},
              {"engine_version", "0.1.0"},
              {"git_commit", "abc"},
              {"host", {{"cpu", "a CPU"}, {"cores_used", 2}, {"gpus", {"H100"}}}},
              {"started_at", "2026-11-27T07:34:46Z"},
              {"model", {{"name", "qwen3-8b"}, {"weights", "fp8"}, {"kv", "bf16"}}},
              {"command", "slipstream bench serve"},
              {"config", {{"input_len", 128}, {"output_len", 1024}}},
              {"repeat", 1},
              {"arrival", "closed 64"},
              {"requests", 192},
              {"errors", 0},
              {"seconds", 15.5},
              {"ttft_ms", spread(80)},
              {"itl_ms", spread(5)},
              {"tpot_ms", spread(4)},
              {"e2e_ms", spread(5000)},
              {"output_tok_s", 12616.5},
              {"requests_s", 12.25}};
}

Json older_row() {
  return Json{{"framework", "vllm"},
              {"framework_version", "0.10.1"},
              {"queries_per_second", 2.0},
              {"prompt_tokens", 1024},
              {"output_tokens", 128},
              {"gpu", "H100:8"},
              {"model", "Llama 3.3 70B fp8"},
              {"model_repo", "meta-llama/Llama-3.3-70B"},
              {"quant", "fp8"},
              {"cli_args", "--max-num-seqs 256"},
              {"rate_type", "constant"},
              {"itl_p50", 0.02},
              {"ttft_p50", 0.125},
              {"ttft_p99", 0.5},
              {"ttlt_p50", 1.5},
              {"unknown_extra", 1}};
}

Json point_of(const Json& record, ImportOptions options = {.campaign = "c"}) {
  const auto converted = point_from_record(record, options);
  EXPECT_TRUE(converted.ok()) << converted.status().message();
  return converted.ok() ? converted->point : Json();
}

std::string problem_of(const Json& record) {
  const auto converted = point_from_record(record, {.campaign = "c"});
  EXPECT_FALSE(converted.ok());
  return converted.ok() ? "" : converted.status().message();
}

struct Imported {
  ImportCounts counts;
  std::vector<std::string> problems;
};

Imported import_text(const TempFolder& folder, const std::string& text, PointStore& store) {
  Imported imported;
  const Status status =
      import_points(folder.write("rows.jsonl", text), {}, store, imported.counts,
                    [&](const std::string& problem) { imported.problems.push_back(problem); });
  EXPECT_TRUE(status.ok()) << status.message();
  return imported;
}

TEST(PointImport, AServeRecordKeepsEveryFigure) {
  const Json point = point_of(serve_record());
  EXPECT_EQ(point.at("campaign"), "c");
  EXPECT_EQ(point.at("arrival"), "closed");
  EXPECT_EQ(point.at("concurrency"), 64);
  EXPECT_EQ(point.at("tokens_out"), 1024);
  EXPECT_EQ(point.at("gpu"), "H100");
  EXPECT_EQ(point.at("kv"), "bf16");
  EXPECT_EQ(point.at("repeat"), 1);
  EXPECT_EQ(point.at("ttft_ms_p999"), 84);
  EXPECT_EQ(point.at("e2e_ms_max"), 5005);
  EXPECT_EQ(point.at("total_tok_s"), 12616.5 + 12.25 * 128);
  EXPECT_EQ(point.at("client_command"), "slipstream bench serve");
  EXPECT_EQ(point.at("record"), serve_record());
}

TEST(PointImport, WhatTheClientSaysOfItselfHasColumns) {
  Json record = serve_record();
  record["prefix_share"] = 0.9;
  record["cold_start_s"] = 4.5;
  record["goodput"] = Json{{"limits", {{"ttft_ms", 300.0}}}, {"requests_s", 11.5}};
  record["client_lag_ms"] = Json{{"p50", 0.01}, {"p99", 1.25}, {"max", 3.5}, {"samples", 9}};
  record["client_cpu_us_per_chunk"] = 6.5;
  record["tokens_per_chunk"] = spread(1.5);
  record["stalls"] = Json{{"over_ms", 200.0}, {"count", 3}};
  record["invalid_reasons"] = Json::array({"late", "lost"});
  const Json point = point_of(record);
  EXPECT_EQ(point.at("prefix_share"), 0.9);
  EXPECT_EQ(point.at("cold_start_s"), 4.5);
  EXPECT_EQ(point.at("goodput_requests_s"), 11.5);
  EXPECT_EQ(point.at("goodput_limits"), (Json{{"ttft_ms", 300.0}}));
  EXPECT_EQ(point.at("client_lag_ms_p99"), 1.25);
  EXPECT_EQ(point.at("client_lag_ms_max"), 3.5);
  EXPECT_EQ(point.at("client_cpu_us_per_chunk"), 6.5);
  EXPECT_EQ(point.at("tokens_per_chunk_mean"), 1.5);
  EXPECT_EQ(point.at("stalls"), 3);
  EXPECT_EQ(point.at("invalid_reason"), "late; lost");
  record["arrival"] = "bursts 16 2.5";
  EXPECT_EQ(point_of(record).at("arrival"), "bursts of 16");
  EXPECT_EQ(point_of(record).at("request_rate"), 2.5);
  record["arrival"] = "trace azure_llm_2023_code 4.7";
  EXPECT_EQ(point_of(record).at("arrival"), "trace azure_llm_2023_code");
  for (const char* bad : {"bursts 2.5", "trace x", "closed x", "burst 5", "closed 1 2", ""}) {
    record["arrival"] = bad;
    EXPECT_NE(problem_of(record).find("arrival"), std::string::npos) << bad;
  }
}

TEST(PointImport, AThroughputRecordIsAnOfflinePoint) {
  Json record = serve_record();
  record["kind"] = "throughput";
  record["model"]["weights"] = "dummy";
  record["config"] = Json{{"quantization", "fp8"}, {"seed", 1}};
  record["input_len"] = 128;
  record["output_len"] = 256;
  record["num_prompts"] = 768;
  record["max_num_seqs"] = 512;
  record["total_tok_s"] = 46000.5;
  record.erase("arrival");
  const Json point = point_of(record);
  EXPECT_EQ(point.at("arrival"), "offline");
  EXPECT_EQ(point.at("weights"), "fp8");
  EXPECT_EQ(point.at("dummy_weights"), 1);
  EXPECT_EQ(point.at("requests"), 768);
  EXPECT_EQ(point.at("total_tok_s"), 46000.5);
  record["config"]["seed"] = 2;  // the seed is no part of a configuration
  EXPECT_EQ(point_of(record).at("engine_config"), point.at("engine_config"));
  record["summary"] = true;
  EXPECT_EQ(point_from_record(record, {.campaign = "c"})->skipped, "a summary of repeats");
}

TEST(PointImport, ARowOfTheOlderAlmanacChangesItsUnits) {
  const Json point = point_of(older_row());
  EXPECT_EQ(point.at("engine"), "vllm");
  EXPECT_EQ(point.at("model"), "meta-llama/Llama-3.3-70B");
  EXPECT_EQ(point.at("gpu"), "H100");
  EXPECT_EQ(point.at("num_devices"), 8);
  EXPECT_EQ(point.at("ttft_ms_p50"), 125.0);
  EXPECT_EQ(point.at("e2e_ms_p50"), 1500.0);
  EXPECT_EQ(point.at("request_rate"), 2.0);
  EXPECT_EQ(point.at("output_tok_s"), 256.0);
  Json database_row = older_row();
  for (const char* key : {"framework", "prompt_tokens", "output_tokens", "queries_per_second"}) {
    database_row.erase(key);
  }
  database_row["llm_server_type"] = "vllm";
  database_row["data"] = "prompt_tokens=1024,output_tokens=128";
  database_row["completed_request_rate"] = 2.0;
  database_row["start_time"] = 1754000000.5;
  database_row["group_id"] = "g";
  const Json same = point_of(database_row);
  EXPECT_EQ(same.at("tokens_in"), 1024);
  EXPECT_EQ(same.at("campaign"), "g");
  EXPECT_EQ(same.at("started_at"), "2025-07-31T22:13:20Z");
}

TEST(PointImport, WhatARecordLacksIsNamedAndMayBeGiven) {
  Json record = serve_record();
  record.erase("model");
  record.erase("ttft_ms");
  record["host"]["gpus"] = Json::array();
  record["requests"] = "many";
  const std::string problem = problem_of(record);
  for (const char* text :
       {"model.name (--set model=VALUE)", "model.weights", "ttft_ms", "device (--set gpu=VALUE)",
        "server.engine (--set engine=VALUE)", "requests (a whole number from 0 is expected)"}) {
    EXPECT_NE(problem.find(text), std::string::npos) << problem;
  }
  record = serve_record();
  record.erase("model");
  ImportOptions options{.campaign = "c"};
  for (const char* text :
       {"model=m", "weights=bf16", "engine=vllm", "engine_version=0.10", "tokens_in=64"}) {
    ASSERT_TRUE(add_override(text, options.overrides).ok());
  }
  const Json point = point_of(record, options);
  EXPECT_EQ(point.at("engine"), "vllm");
  EXPECT_EQ(point.at("git_commit"), "");  // the client's is not the server's
  EXPECT_EQ(point.at("client_version"), "0.1.0");
  EXPECT_EQ(point.at("tokens_in"), 64);
  for (const char* text : {"model", "speed=3", "tokens_in=x", "tokens_in=1.5", "record={}"}) {
    EXPECT_FALSE(add_override(text, options.overrides).ok()) << text;
  }
  record = older_row();
  record["rate_type"] = "sweep";
  record["gpu"] = "H100:x";
  EXPECT_NE(problem_of(record).find("rate_type"), std::string::npos);
  EXPECT_NE(problem_of(record).find("gpu"), std::string::npos);
  record = serve_record();
  record["arrival"] = "closed";
  EXPECT_NE(problem_of(record).find("arrival"), std::string::npos);
  record["errors"] = -1;
  EXPECT_NE(problem_of(record).find("errors"), std::string::npos);
  record["schema"] = 2;
  EXPECT_NE(problem_of(record).find("newer"), std::string::npos);
}

TEST(PointImport, AGoodRowAmongBadOnesIsKept) {
  const TempFolder folder;
  const auto store = PointStore::open((folder / "a.db").string()).value();
  Json without_errors = serve_record();
  without_errors.erase("errors");
  Json decode = serve_record();
  decode["kind"] = "decode";
  const std::string good = dump_json(serve_record());
  const std::string text = dump_json(without_errors) + "\n[1]\n" + good + "\n\n" +
                           dump_json(decode) + "\n" + good.substr(0, good.size() / 2);
  const Imported first = import_text(folder, text, *store);
  EXPECT_EQ(first.counts.num_new, 1);
  EXPECT_EQ(first.counts.num_skipped, 1);
  EXPECT_EQ(first.counts.num_refused, 3);
  ASSERT_EQ(first.problems.size(), 3u);
  EXPECT_NE(first.problems[0].find("rows.jsonl:1: missing columns: errors"), std::string::npos);
  EXPECT_NE(first.problems[1].find("rows.jsonl:2: a JSON object"), std::string::npos);
  EXPECT_NE(first.problems[2].find("rows.jsonl:6: "), std::string::npos);
  EXPECT_NE(first.problems[2].find("the file ends within this line"), std::string::npos);
  const Imported again = import_text(folder, text, *store);
  EXPECT_EQ(again.counts.num_new, 0);
  EXPECT_EQ(again.counts.num_present, 1);
}

TEST(PointExport, LinesComeBackTheSame) {
  const TempFolder folder;
  const auto store = PointStore::open((folder / "a.db").string()).value();
  import_text(folder, dump_json(serve_record()) + "\n" + dump_json(older_row()) + "\n", *store);
  const auto lines_of = [](PointStore& from) {
    std::string lines;
    EXPECT_TRUE(from.for_each({},
                              [&](const Json& point) -> Status {
                                lines += point_jsonl(point) + "\n";
                                return {};
                              })
                    .ok());
    return lines;
  };
  const std::string lines = lines_of(*store);
  const auto other = PointStore::open((folder / "b.db").string()).value();
  EXPECT_EQ(import_text(folder, lines, *other).counts.num_new, 2);
  EXPECT_EQ(lines_of(*other), lines);
  // The same point with other figures stays out.
  Json changed = parse_json(lines.substr(0, lines.find('\n')), "line").value();
  changed["requests_s"] = 1.0;
  const Imported refused = import_text(folder, dump_json(changed) + "\n", *other);
  EXPECT_EQ(refused.counts.num_refused, 1);
  EXPECT_NE(refused.problems.at(0).find("another measurement"), std::string::npos);
}

TEST(PointExport, CsvQuotesWhatNeedsIt) {
  Json point = point_of(serve_record());
  point["first_error"] = "a \"b\", c";
  const std::string header = csv_header();
  const std::string line = point_csv(point);
  EXPECT_NE(line.find(",\"a \"\"b\"\", c\","), std::string::npos) << line;
  EXPECT_EQ(header.find("record"), std::string::npos);
  EXPECT_EQ(split(header, ',').size(), point_columns().size() + 1);
}

}  // namespace
}  // namespace slipstream

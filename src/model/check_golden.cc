#include "model/check_golden.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string_view>
#include <system_error>

#include "base/json.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "model/chunk_runner.h"

namespace slipstream {
namespace {

namespace fs = std::filesystem;

// Logits of the golden models lie within about +-6. The reference sums in double and rounds each
// activation to float; the others sum in float and may round activations to 16 bits.
constexpr double kReferenceTolerance = 5e-5;
constexpr double kFastTolerance = 2e-3;
// Activations in bf16 have 8 bits: the residual is rounded after every branch, to 2^-9 of values
// that reach 10, and the LM head adds up what is left of that. Seen: 0.02 to 0.11.
constexpr double kBf16Tolerance = 0.15;

constexpr size_t kMaxGoldenBytes = 4u << 20;
constexpr size_t kMaxTokens = 4096;

struct GoldenLogits {
  int64_t position = 0;
  std::vector<double> values;
};

struct Golden {
  std::string family;
  std::string provenance;
  std::vector<int32_t> prompt;
  std::vector<int32_t> greedy;
  std::vector<GoldenLogits> logits;
};

Result<std::vector<int32_t>> token_ids(const Json& golden, const char* key) {
  const auto found = golden.find(key);
  if (found == golden.end() || !found->is_array() || found->size() > kMaxTokens) {
    return failed(str(key, " must be a list of at most ", kMaxTokens, " token ids"));
  }
  std::vector<int32_t> ids;
  for (const Json& id : *found) {
    if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<int32_t>::max()) {
      return failed(str(key, " holds ", quote(dump_json(id)), ", not a token id"));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

Result<GoldenLogits> logits_row(const Json& row) {
  GoldenLogits logits;
  if (!row.is_object()) return failed("logits must hold objects");
  SLIPSTREAM_ASSIGN_OR_RETURN(logits.position, json_int(row, "position", -1));
  const auto values = row.find("values");
  if (values == row.end() || !values->is_array()) return failed("logits[].values must be a list");
  for (const Json& value : *values) {
    if (!value.is_number()) return failed("logits[].values must hold numbers");
    logits.values.push_back(value.get<double>());
  }
  return logits;
}

Result<Golden> read_golden(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxGoldenBytes));
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json json, parse_json(text, path));
  if (!json.is_object()) return failed("must be an object");
  Golden golden;
  SLIPSTREAM_ASSIGN_OR_RETURN(golden.family, json_string(json, "family", ""));
  SLIPSTREAM_ASSIGN_OR_RETURN(golden.prompt, token_ids(json, "prompt"));
  SLIPSTREAM_ASSIGN_OR_RETURN(golden.greedy, token_ids(json, "greedy"));
  const auto rows = json.find("logits");
  if (golden.prompt.empty() || rows == json.end() || !rows->is_array()) {
    return failed("needs a prompt and a list of logits");
  }
  for (const Json& row : *rows) {
    SLIPSTREAM_ASSIGN_OR_RETURN(GoldenLogits logits, logits_row(row));
    if (logits.position < 0 || logits.position >= std::ssize(golden.prompt)) {
      return failed(str("logits of position ", logits.position, ", which is not in the prompt"));
    }
    golden.logits.push_back(std::move(logits));
  }
  if (const auto made = json.find("provenance"); made != json.end() && made->is_object()) {
    SLIPSTREAM_ASSIGN_OR_RETURN(golden.provenance, json_string(*made, "values", ""));
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string judge, json_string(*made, "verified_with", ""));
    if (!judge.empty()) golden.provenance += ", verified with " + judge;
  }
  return golden;
}

double max_abs_error(TensorView logits, const Golden& golden) {
  double worst = 0.0;
  for (const GoldenLogits& row : golden.logits) {
    const float* actual = logits.f32_row(row.position);
    for (size_t i = 0; i < row.values.size(); ++i) {
      const double error = std::abs(static_cast<double>(actual[i]) - row.values[i]);
      if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
      worst = std::max(worst, error);
    }
  }
  return worst;
}

Status check_fits(const Golden& golden, const ModelConfig& model) {
  if (golden.family != model.family) {
    return failed(str("is of family ", quote(golden.family), ", the model of ", model.family));
  }
  for (const std::vector<int32_t>* ids : {&golden.prompt, &golden.greedy}) {
    for (const int32_t id : *ids) {
      if (id >= model.vocab_size) return failed(str("token id ", id, " is outside the vocabulary"));
    }
  }
  for (const GoldenLogits& row : golden.logits) {
    if (std::ssize(row.values) != model.vocab_size) {
      return failed(str("has ", row.values.size(), " logits at position ", row.position,
                        ", the vocabulary ", model.vocab_size));
    }
  }
  return {};
}

}  // namespace

Result<GoldenReport> check_golden(const std::string& folder, const Ops& ops) {
  const std::string path = (fs::path(folder) / "golden.json").string();
  auto read = read_golden(path);
  if (!read.ok()) return read.status().in(path);
  const Golden& golden = read.value();
  const auto num_prompt = std::ssize(golden.prompt);
  const auto num_greedy = std::ssize(golden.greedy);
  const bool in_float32 = on_host(ops);
  SLIPSTREAM_ASSIGN_OR_RETURN(
      const std::unique_ptr<ChunkRunner> runner,
      ChunkRunner::open(folder, ops,
                        {.max_tokens = num_prompt,
                         .max_context = num_prompt + num_greedy,
                         .kv_dtype = in_float32 ? DType::kF32 : DType::kBF16}));
  const Status fits = check_fits(golden, runner->model().config);
  if (!fits.ok()) return fits.in(path);

  GoldenReport report;
  report.name = fs::path(folder).filename().string();
  report.family = golden.family;
  report.provenance = golden.provenance;
  report.num_logits = std::ssize(golden.logits) * runner->model().config.vocab_size;
  report.tolerance = !in_float32                           ? kBf16Tolerance
                     : std::string_view(ops.name) == "ref" ? kReferenceTolerance
                                                           : kFastTolerance;
  TensorView logits = runner->run(0, golden.prompt);
  report.max_abs_error = max_abs_error(logits, golden);
  report.num_greedy = num_greedy;
  int64_t row = num_prompt - 1;
  for (const int32_t token : golden.greedy) {
    // Where the best logits are closer than the tolerance, either may be the larger.
    const float* const values = logits.f32_row(row);
    const auto behind = static_cast<double>(values[argmax_row(logits, row)]) - values[token];
    if (behind > (in_float32 ? 0.0 : 2.0 * report.tolerance)) break;
    ++report.num_greedy_equal;
    if (report.num_greedy_equal < num_greedy) logits = runner->run(0, {token});
    row = 0;
  }
  return report;
}

Result<std::vector<std::string>> golden_folders(const std::string& root) {
  std::vector<std::string> folders;
  std::error_code error;
  for (fs::directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    std::error_code absent;
    if (fs::exists(it->path() / "golden.json", absent)) folders.push_back(it->path().string());
  }
  if (folders.empty()) {
    return failed(str(root, ": no folder with a golden.json",
                      error ? " (" + error.message() + ")" : std::string()));
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

}  // namespace slipstream

#include "bench/campaign_client.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>

#include "base/strings.h"
#include "base/write_all.h"
#include "bench/child_process.h"
#include "bench/load_client.h"
#include "bench/record.h"
#include "bench/serve.h"

namespace slipstream {
namespace {

ArrivalKind arrival_kind(const std::string& arrival) {
  if (arrival == "closed") return ArrivalKind::kClosed;
  if (arrival == "constant") return ArrivalKind::kConstant;
  if (arrival == "poisson") return ArrivalKind::kPoisson;
  return ArrivalKind::kAllAtOnce;
}

ServeBenchOptions serve_options(const ClientAsk& ask) {
  ServeBenchOptions options;
  options.url = ask.url;
  options.endpoint = ask.endpoint;
  options.num_prompts = ask.load.requests;
  options.input_len = ask.shape.tokens_in;
  options.output_len = ask.shape.tokens_out;
  options.arrivals.kind = arrival_kind(ask.load.arrival);
  options.arrivals.rate = ask.load.request_rate;
  options.arrivals.concurrency = ask.load.concurrency;
  options.prompts.as_ids = !ask.text_prompts;
  options.prompts.prefix_share = ask.shape.prefix_share;
  if (ask.vocab_size > 0) options.prompts.vocab_size = ask.vocab_size;
  options.num_warmups = 0;  // the campaign sends its own
  options.ignore_eos = ask.ignore_eos;
  options.extra_body = ask.extra_body;
  options.goodput = {ask.limits.value("ttft_ms", 0.0), ask.limits.value("tpot_ms", 0.0),
                     ask.limits.value("e2e_ms", 0.0)};
  options.request_timeout_s = ask.timeout_s;
  options.seed = ask.seed;
  return options;
}

// Times from the first send of the run, so that rows show what overlapped.
Json request_row(const StreamTimes& stream, int64_t begin_ns) {
  // To the microsecond; divided, so that three decimals are all that is printed.
  const auto ms = [](int64_t ns) { return std::round(static_cast<double>(ns) / 1e3) / 1e3; };
  Json row{{"ok", stream.ok}};
  if (!stream.ok) {
    row["error_kind"] = stream.error_kind;
    row["error"] = stream.error;
  }
  if (stream.sent_ns > 0) row["sent_ms"] = ms(stream.sent_ns - begin_ns);
  if (stream.sent_ns > 0) row["e2e_ms"] = ms(stream.ended_ns - stream.sent_ns);
  if (stream.prompt_tokens >= 0) row["prompt_tokens"] = stream.prompt_tokens;
  if (stream.completion_tokens >= 0) row["completion_tokens"] = stream.completion_tokens;
  if (stream.chunk_ns.empty()) return row;
  row["ttft_ms"] = ms(stream.chunk_ns.front() - stream.sent_ns);
  Json gaps = Json::array();
  for (size_t idx = 1; idx < stream.chunk_ns.size(); ++idx) {
    gaps.push_back(ms(stream.chunk_ns[idx] - stream.chunk_ns[idx - 1]));
  }
  row["itl_ms"] = std::move(gaps);
  return row;
}

// Under another name first: a file of rows is complete or not there.
void write_rows(const LoadResult& result, const std::string& path) {
  int64_t begin_ns = INT64_MAX;
  for (const StreamTimes& stream : result.streams) {
    if (stream.sent_ns > 0) begin_ns = std::min(begin_ns, stream.sent_ns);
  }
  const std::string part = path + ".part";
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  for (const StreamTimes& stream : result.streams) {
    file << dump_json(request_row(stream, begin_ns)) << "\n";
  }
  file.close();
  std::error_code code;
  if (file) std::filesystem::rename(part, path, code);
}

// The measurement, in its own process. A line is the record, or the error as a text.
[[noreturn]] void measure(const ClientAsk& ask, int fd) {
  ::setpgid(0, 0);  // Ctrl-C is the campaign's to handle
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // An engine that computes on every core would make the client late, and so its figures invalid:
  // the little it does goes first. Needs a privilege; without it the lag says how late it was.
  const sched_param priority{.sched_priority = ::sched_get_priority_min(SCHED_FIFO)};
  const bool goes_first = ::sched_setscheduler(0, SCHED_FIFO, &priority) == 0;
  bool written = true;
  Result<RecordWriter> records = RecordWriter::open("", [&](const std::string& line) {
    Json record = parse_json(line, "record").value();
    record["client_scheduling"] = goes_first ? "fifo" : "normal";
    written = written && write_all(fd, dump_json(record) + "\n");
  });
  Status status = records.status();
  ServeBenchHooks hooks;
  if (!ask.rows_path.empty()) {
    hooks.on_result = [&](const LoadResult& result) { write_rows(result, ask.rows_path); };
  }
  if (records.ok()) status = bench_serve(serve_options(ask), records.value(), hooks).status();
  if (!status.ok()) written = write_all(fd, dump_json(Json(status.message())) + "\n");
  ::_exit(written ? 0 : 1);
}

// All digits of a number.
std::string exact(double value) { return dump_json(Json(value)); }

Result<Json> parse_answer(const std::string& answer) {
  const Result<Json> parsed = parse_json(answer, "the load generator's record");
  if (!parsed.ok()) return failed("the load generator ended without a record");
  if (parsed->is_string()) return failed(parsed->get<std::string>());
  for (const char* key : {"requests", "errors"}) {
    if (!parsed->contains(key)) return failed(str("the load generator's record lacks ", key));
  }
  return parsed;
}

}  // namespace

Result<std::unique_ptr<CampaignClient>> CampaignClient::start(const ClientAsk& ask) {
  std::error_code code;
  std::filesystem::remove(ask.rows_path, code);  // of an earlier try
  SLIPSTREAM_ASSIGN_OR_RETURN(const ForkedChild child,
                              fork_child([&](int fd) { measure(ask, fd); }));
  return std::unique_ptr<CampaignClient>(new CampaignClient(child.pid, child.read_fd));
}

CampaignClient::~CampaignClient() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  ::close(fd_);
}

std::optional<Result<Json>> CampaignClient::poll(int wait_ms) {
  pollfd watched{fd_, POLLIN, 0};
  if (::poll(&watched, 1, wait_ms) <= 0) return std::nullopt;
  std::array<char, 1 << 16> bytes{};
  const ssize_t got = ::read(fd_, bytes.data(), bytes.size());
  if (got < 0) return std::nullopt;  // EINTR
  if (got > 0) {
    answer_.append(bytes.data(), static_cast<size_t>(got));
    return std::nullopt;
  }
  return parse_answer(answer_);
}

std::string client_command(const ClientAsk& ask) {
  std::string text = str("slipstream bench serve --url ", ask.url, " --endpoint ", ask.endpoint,
                         " --input-len ", ask.shape.tokens_in, " --output-len ",
                         ask.shape.tokens_out, " --num-prompts ", ask.load.requests);
  if (ask.load.concurrency > 0) text += str(" --max-concurrency ", ask.load.concurrency);
  if (ask.load.request_rate > 0.0) text += " --request-rate " + exact(ask.load.request_rate);
  if (ask.load.arrival == "constant") text += " --constant-rate";
  if (ask.vocab_size > 0) text += str(" --vocab-size ", ask.vocab_size);
  if (ask.shape.prefix_share > 0.0) text += " --prefix-share " + exact(ask.shape.prefix_share);
  if (ask.text_prompts) text += " --text-prompts";
  if (!ask.ignore_eos) text += " --no-ignore-eos";
  if (!ask.extra_body.empty()) text += " --extra-body '" + dump_json(ask.extra_body) + "'";
  if (!ask.limits.empty()) text += " --goodput";
  for (const auto& [name, limit] : ask.limits.items()) {
    text += str(" ", name.substr(0, name.find('_')), ":", dump_json(limit));
  }
  return text + str(" --request-timeout ", ask.timeout_s, " --num-warmups 0 --seed ", ask.seed);
}

}  // namespace slipstream

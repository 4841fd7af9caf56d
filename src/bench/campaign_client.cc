#include "bench/campaign_client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string_view>

#include "base/strings.h"
#include "bench/record.h"
#include "bench/serve.h"

namespace slipstream {
namespace {

ServeBenchOptions serve_options(const ClientAsk& ask) {
  ServeBenchOptions options;
  options.url = ask.url;
  options.endpoint = ask.endpoint;
  options.num_prompts = ask.load.requests;
  options.input_len = ask.shape.tokens_in;
  options.output_len = ask.shape.tokens_out;
  options.max_concurrency = ask.load.concurrency;
  options.request_rate = ask.load.request_rate;
  options.poisson = ask.load.arrival == "poisson";
  if (ask.vocab_size > 0) options.vocab_size = ask.vocab_size;
  options.seed = ask.seed;
  return options;
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// The measurement, in its own process. A line is the record, or the error as a text.
[[noreturn]] void measure(const ClientAsk& ask, int fd) {
  ::setpgid(0, 0);  // Ctrl-C is the campaign's to handle
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  bool written = true;
  Result<RecordWriter> records = RecordWriter::open(
      "", [&](const std::string& line) { written = written && write_all(fd, line); });
  Status status = records.status();
  if (records.ok()) status = bench_serve(serve_options(ask), records.value()).status();
  if (!status.ok()) written = write_all(fd, dump_json(Json(status.message())) + "\n");
  ::_exit(written ? 0 : 1);
}

Result<Json> parse_answer(const std::string& answer) {
  const Result<Json> parsed = parse_json(answer, "the load generator's record");
  if (!parsed.ok()) return failed("the load generator ended without a record");
  if (parsed->is_string()) return failed(parsed->get<std::string>());
  return parsed;
}

}  // namespace

Result<std::unique_ptr<CampaignClient>> CampaignClient::start(const ClientAsk& ask) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return failed(str("pipe: ", ::strerror(errno)));
  const pid_t pid = ::fork();
  if (pid == 0) measure(ask, ends[1]);
  ::close(ends[1]);
  if (pid < 0) {
    ::close(ends[0]);
    return failed(str("fork: ", ::strerror(errno)));
  }
  return std::unique_ptr<CampaignClient>(new CampaignClient(pid, ends[0]));
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
  if (ask.load.request_rate > 0.0) text += str(" --request-rate ", ask.load.request_rate);
  if (ask.load.arrival == "constant") text += " --constant-rate";
  if (ask.vocab_size > 0) text += str(" --vocab-size ", ask.vocab_size);
  return text + str(" --seed ", ask.seed);
}

}  // namespace slipstream

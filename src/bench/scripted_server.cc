#include "bench/scripted_server.h"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <queue>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/json.h"
#include "base/strings.h"

namespace slipstream {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr int kBacklog = 4096;
constexpr std::string_view kStreamHead =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
    "transfer-encoding: chunked\r\n\r\n";

std::string framed(const std::string& event) {
  const std::string bytes = "data: " + event + "\n\n";
  std::ostringstream size;
  size << std::hex << bytes.size();
  return size.str() + "\r\n" + bytes + "\r\n";
}

// As large as what servers send, so that the client's work is what it is with them.
std::string chunk_event() {
  return framed(R"({"id":"cmpl-0123456789abcdef0123456789abcdef","object":"text_completion",)"
                R"("created":1700000000,"model":"scripted","choices":[{"index":0,"text":" word",)"
                R"("logprobs":null,"finish_reason":null,"stop_reason":null}],"usage":null})");
}

std::string end_events(int64_t num_chunks) {
  const Json usage{{"choices", Json::array()},
                   {"usage", Json{{"prompt_tokens", 1},
                                  {"completion_tokens", num_chunks},
                                  {"total_tokens", num_chunks + 1}}}};
  return framed(dump_json(usage)) + framed("[DONE]") + "0\r\n\r\n";
}

std::string refusal(int status) {
  const std::string body = R"({"error":{"message":"as the script says"}})";
  return str("HTTP/1.1 ", status,
             " Scripted\r\ncontent-type: application/json\r\ncontent-length: ", body.size(),
             "\r\nconnection: close\r\n\r\n", body);
}

struct Stream {
  explicit Stream(tcp::socket of_client) : socket(std::move(of_client)) {}

  tcp::socket socket;
  boost::beast::flat_buffer buffer;
  http::request_parser<http::string_body> parser;
  StreamScript script;
  ScriptedLog* log = nullptr;
  int num_written = 0;
};

class AsioScriptedServer final : public ScriptedServer {
 public:
  AsioScriptedServer(int64_t num_requests, std::function<StreamScript(int64_t)> script)
      : script_(std::move(script)),
        acceptor_(io_),
        timer_(io_),
        chunk_(chunk_event()),
        log_(static_cast<size_t>(num_requests)) {}
  ~AsioScriptedServer() override { stop(); }

  Status listen();
  int port() const override { return port_; }
  const std::vector<ScriptedLog>& stop() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
    return log_;
  }

 private:
  using Due = std::pair<int64_t, std::shared_ptr<Stream>>;
  struct Later {
    bool operator()(const Due& a, const Due& b) const { return a.first > b.first; }
  };

  void accept();
  void answer(const std::shared_ptr<Stream>& stream);
  void schedule(const std::shared_ptr<Stream>& stream, int64_t due_ns);
  void arm_timer();
  void write_due();
  void write_chunk(const std::shared_ptr<Stream>& stream, int64_t due_ns);
  // A client that does not read is a broken one: its stream ends.
  static bool write(Stream& stream, std::string_view bytes) {
    error_code ec;
    return stream.socket.write_some(asio::const_buffer(bytes.data(), bytes.size()), ec) ==
           bytes.size();
  }

  std::function<StreamScript(int64_t)> script_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer timer_;
  int64_t armed_ns_ = INT64_MAX;
  std::priority_queue<Due, std::vector<Due>, Later> due_;
  std::string chunk_;
  std::vector<ScriptedLog> log_;
  int port_ = 0;
  std::thread thread_;
};

Status AsioScriptedServer::listen() {
  error_code ec;
  const tcp::endpoint endpoint(asio::ip::address_v4::loopback(), 0);
  acceptor_.open(endpoint.protocol(), ec);
  if (!ec) acceptor_.bind(endpoint, ec);
  if (!ec) acceptor_.listen(kBacklog, ec);
  if (ec) return failed(str("the scripted server cannot listen: ", ec.message()));
  port_ = acceptor_.local_endpoint(ec).port();
  accept();
  thread_ = std::thread([this] { io_.run(); });
  return {};
}

void AsioScriptedServer::accept() {
  acceptor_.async_accept([this](const error_code& ec, tcp::socket socket) {
    if (!ec) {
      const auto stream = std::make_shared<Stream>(std::move(socket));
      error_code ignored;
      stream->socket.set_option(tcp::no_delay(true), ignored);
      stream->socket.non_blocking(true, ignored);
      http::async_read(stream->socket, stream->buffer, stream->parser,
                       [this, stream](const error_code& error, size_t) {
                         if (!error) answer(stream);
                       });
    }
    accept();
  });
}

void AsioScriptedServer::answer(const std::shared_ptr<Stream>& stream) {
  const int64_t now_ns = steady_now_ns();
  const Result<Json> body = parse_json(stream->parser.get().body(), "body");
  const bool is_known = body.ok() && body->is_object() && body->contains("prompt") &&
                        body->at("prompt").is_array() && !body->at("prompt").empty() &&
                        body->at("prompt")[0].is_number_unsigned() &&
                        body->at("prompt")[0].get<uint64_t>() < log_.size();
  if (!is_known) {
    write(*stream, refusal(400));
    return;
  }
  const auto request_idx = body->at("prompt")[0].get<int64_t>();
  stream->script = script_(request_idx);
  stream->log = &log_[static_cast<size_t>(request_idx)];
  *stream->log = {.received_ns = now_ns, .due_ns = {}, .written_ns = {}};
  const ScriptedFault fault = stream->script.fault;
  if (fault == ScriptedFault::kHttp429 || fault == ScriptedFault::kHttp500) {
    write(*stream, refusal(fault == ScriptedFault::kHttp429 ? 429 : 500));
    return;
  }
  write(*stream, kStreamHead);
  schedule(stream, now_ns + stream->script.ttft_ns);
}

void AsioScriptedServer::schedule(const std::shared_ptr<Stream>& stream, int64_t due_ns) {
  if (stream->num_written == stream->script.stall_chunk) due_ns += stream->script.stall_ns;
  due_.emplace(due_ns, stream);
  if (due_ns < armed_ns_) arm_timer();
}

void AsioScriptedServer::arm_timer() {
  armed_ns_ = due_.top().first;
  timer_.expires_at(asio::steady_timer::time_point(std::chrono::nanoseconds(armed_ns_)));
  timer_.async_wait([this](const error_code& ec) {
    if (!ec) write_due();
  });
}

void AsioScriptedServer::write_due() {
  while (!due_.empty() && due_.top().first <= steady_now_ns()) {
    const auto [due_ns, stream] = due_.top();
    due_.pop();
    // Not from within schedule(): the timer is armed once, below.
    armed_ns_ = INT64_MIN;
    write_chunk(stream, due_ns);
  }
  armed_ns_ = INT64_MAX;
  if (!due_.empty()) arm_timer();
}

void AsioScriptedServer::write_chunk(const std::shared_ptr<Stream>& stream, int64_t due_ns) {
  const StreamScript& script = stream->script;
  const bool is_half = stream->num_written == script.num_chunks / 2;
  if (is_half && script.fault == ScriptedFault::kClose) return;
  if (is_half && script.fault == ScriptedFault::kErrorEvent) {
    write(*stream, framed(R"({"error":{"message":"as the script says"}})") + "0\r\n\r\n");
    return;
  }
  stream->log->due_ns.push_back(due_ns);
  stream->log->written_ns.push_back(steady_now_ns());
  if (!write(*stream, chunk_)) return;
  if (++stream->num_written == script.num_chunks) {
    write(*stream, end_events(script.num_chunks));
    return;
  }
  schedule(stream, due_ns + script.itl_ns);
}

}  // namespace

Result<std::unique_ptr<ScriptedServer>> ScriptedServer::create(
    int64_t num_requests, std::function<StreamScript(int64_t)> script) {
  auto server = std::make_unique<AsioScriptedServer>(num_requests, std::move(script));
  SLIPSTREAM_RETURN_IF_ERROR(server->listen());
  return std::unique_ptr<ScriptedServer>(std::move(server));
}

}  // namespace slipstream

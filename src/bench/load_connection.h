// LoadConnection: one place of the load, which runs session after session, a connection per
// request. Lives on one thread of the load client.
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/lag.h"
#include "bench/load_client.h"
#include "bench/response_reader.h"
#include "bench/stream_event.h"

namespace slipstream {

// What all threads of a load share. Results are disjoint: a request's belongs to who runs it.
struct LoadShared {
  LoadShared(const HttpTarget& of_server, const LoadOptions& of_load,
             const std::vector<LoadSession>& to_run)
      : target(of_server), options(of_load), sessions(to_run) {}

  const HttpTarget& target;
  const LoadOptions& options;
  const std::vector<LoadSession>& sessions;
  std::vector<size_t> first_stream;  // of each session
  std::vector<StreamTimes> streams;
  boost::asio::ip::tcp::endpoint endpoint;
  std::string head;  // of every request, up to the length of its body
  int64_t start_ns = 0;
  std::atomic<size_t> next_session{0};
  std::atomic<int64_t> num_preparing{0};  // connections that are opened before the start
  std::atomic<int64_t> num_sent{0}, num_done{0}, num_failed{0}, num_refused_in_a_row{0};
  std::atomic<bool> stop{false};         // nothing more is taken
  std::atomic<bool> server_lost{false};  // so many connections failed in a row
};

// What the connections of one thread share.
struct LoadLoop {
  boost::asio::io_context io{1};
  StreamEventReader events;
  LagCounts lag;
  std::array<char, 64 << 10> buffer;
  std::atomic<int64_t> num_chunks{0};
  int64_t num_running = 0;  // places that are not finished
};

class LoadConnection {
 public:
  LoadConnection(LoadShared& shared, LoadLoop& loop);
  LoadConnection(const LoadConnection&) = delete;
  LoadConnection& operator=(const LoadConnection&) = delete;

  // Takes the first session, and connects where it is to be sent at once.
  void prepare();
  // The clock runs: sends, or waits for the time to.
  void go();
  // Gives up a request that has taken too long.
  void check_timeout(int64_t now_ns);
  // Ends what is under way as interrupted, and takes nothing more.
  void abort();

 private:
  enum class Phase : uint8_t { kIdle, kConnecting, kConnected, kStreaming, kFinished };

  void take_session();
  void wait_due();
  void connect();
  void on_connected(const boost::system::error_code& ec);
  void send();
  void write_rest();
  void arm_read();
  void on_readable();
  int64_t receive(size_t& num_bytes);
  void on_line(std::string_view line);
  void on_end();
  void fail(std::string kind, std::string what);
  void end_request();
  void next_turn();
  void finish();
  void close();

  StreamTimes& times() { return shared_.streams[stream_idx_]; }
  const LoadSession& session() const { return shared_.sessions[session_idx_]; }
  bool keeps_answer() const { return turn_ + 1 < session().num_turns; }

  LoadShared& shared_;
  LoadLoop& loop_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer timer_;
  Phase phase_ = Phase::kIdle;
  bool started_ = false;     // the clock runs
  uint32_t generation_ = 0;  // of the socket: a late handler of an earlier one is ignored
  size_t session_idx_ = 0;
  size_t stream_idx_ = 0;
  int turn_ = 0;
  int64_t attempt_ns_ = 0;      // when the attempt began
  int64_t arrived_ns_ = 0;      // of the bytes being read
  int64_t bare_finish_ns_ = 0;  // of a finish_reason that came without text
  int64_t usage_so_far_ = 0;
  bool done_seen_ = false;
  std::string later_body_;
  const std::string* body_ = nullptr;
  std::string out_;  // head and body, as far as the kernel did not take them at once
  size_t out_begin_ = 0;
  std::optional<ResponseReader> reader_;
  std::vector<std::string> answers_;
};

}  // namespace slipstream

// HttpConnection: one client's socket, from accept to close. Network thread only.
//
// Costs little while idle: no buffer and no timer of its own. Bytes are read into one buffer of
// the server; only what is left over is kept. Writes go to the kernel at once, and only what it
// does not take is kept. Deadlines are kept in lists, one per kind of wait, that one central tick
// looks at.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>

#include "base/random.h"
#include "server/http_server.h"

namespace slipstream {

class HttpConnection;

// What a connection waits for. Every kind has one duration, so each list is sorted by deadline.
enum class Wait : size_t { kNothing, kIdle, kRead, kSend, kLinger };
constexpr size_t kNumWaits = 5;

// What the connections of a server share.
struct HttpShared {
  HttpShared(HttpServerOptions of_server, HttpApp& of_requests, uint64_t seed)
      : options(std::move(of_server)), app(of_requests), id_source(seed) {}

  void post(std::function<void()> work);
  int64_t wait_ns(Wait wait) const;
  std::string make_request_id();

  HttpServerOptions options;
  HttpApp& app;
  SplitMix64 id_source;
  // Keeps every open connection alive; see HttpConnection::wait_for().
  std::array<std::list<std::shared_ptr<HttpConnection>>, kNumWaits> connections;
  int64_t num_connections = 0;
  int64_t num_undone = 0;   // requests decided on and not ended
  int64_t num_sending = 0;  // connections with unsent bytes
  std::array<char, 64 << 10> read_buffer;
  std::string frame;              // one response head or chunk being written
  boost::asio::io_context io{1};  // last: what waits in it goes before what it refers to
};

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(HttpShared& shared, boost::asio::ip::tcp::socket socket);
  ~HttpConnection();

  void start();
  // Its deadline passed.
  void on_deadline();
  int64_t deadline_ns() const { return deadline_ns_; }
  // Ends the unfinished response, if there is one.
  void shut_down_response();
  void close(CloseReason reason);
  // Bytes have come that nobody has looked at: who idles is about to be busy.
  bool has_unread() const;

 private:
  class Response;
  struct Reading;  // the request being read
  enum class Phase { kReading, kResponding, kClosing, kClosed };

  template <typename Turn>
  void guarded(Turn turn);
  void arm_read();
  void arm_write();
  void arm_error();
  void on_readable();
  void on_writable();
  void on_end_of_input();
  void on_error();
  void linger();
  void wait_for(Wait wait);
  void settle_wait();

  void take(std::string_view bytes);
  void advance(std::string_view bytes);
  void go_on_reading();
  bool may_start_request() const;
  void on_head();
  void on_request();
  void refuse(HttpResponse response, bool body_follows);
  HttpResponse shaped(const ApiError& error) const;

  std::shared_ptr<Response> begin_response();
  void send_bytes(std::string_view bytes);
  void response_ended(bool keep_alive);
  void begin_closing();
  void probe_client();

  HttpShared& shared_;
  boost::asio::ip::tcp::socket socket_;
  Phase phase_ = Phase::kReading;
  Wait wait_ = Wait::kNothing;
  int64_t deadline_ns_ = 0;
  std::list<std::shared_ptr<HttpConnection>>::iterator place_;
  bool read_armed_ = false;
  bool write_armed_ = false;
  bool error_armed_ = false;
  bool advancing_ = false;  // a response that ends now must not start the next request itself
  bool input_ended_ = false;
  bool must_linger_ = false;
  std::string in_;   // read and not understood yet, or pipelined
  std::string out_;  // not taken by the kernel yet
  size_t out_begin_ = 0;
  size_t lingered_bytes_ = 0;
  std::unique_ptr<Reading> reading_;
  Response* response_ = nullptr;  // the unfinished one; it keeps this connection alive
};

}  // namespace slipstream

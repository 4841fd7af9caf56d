// HttpConnection::Response: the writer a handler gets, and HTTP as it is written.
//
// Keeps the connection alive until the response ended. Network thread only.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "server/access_log.h"
#include "server/http_connection.h"

namespace slipstream {

class HttpConnection::Response final : public ResponseWriter,
                                       public std::enable_shared_from_this<Response> {
 public:
  struct Head {
    HttpHeaders headers;
    bool is_head_request = false;
    bool is_http_1_0 = false;
    bool keep_alive = true;
  };

  Response(std::shared_ptr<HttpConnection> connection, HttpOutcome outcome, Head head)
      : shared_(connection->shared_),
        connection_(std::move(connection)),
        outcome_(std::move(outcome)),
        head_(std::move(head)) {}
  ~Response() override;

  void send(HttpResponse response) override;
  void begin_stream(HttpResponse response) override;
  void write(std::string_view bytes) override;
  void end() override;
  bool closed() const override { return connection_ == nullptr; }
  void on_close(std::function<void(CloseReason)> callback) override;
  void note(const CallRecord& record) override { record_ = std::make_unique<CallRecord>(record); }

  // The connection is gone.
  void lose(CloseReason reason);
  // Gives the handler its last chance, then ends the response.
  void shut_down();
  bool begun() const { return begun_; }
  bool is_event_stream_begun() const { return begun_ && is_event_stream_; }
  bool is_http_1_0() const { return head_.is_http_1_0; }
  void keep_no_connection() { head_.keep_alive = false; }

 private:
  void append_head(std::string& out, const HttpResponse& response, std::optional<size_t> length);
  void append_part(std::string& out, std::string_view bytes);
  void abandon();
  void fail(const ApiError& error);
  void finish();
  void report();

  HttpShared& shared_;
  std::shared_ptr<HttpConnection> connection_;  // null: ended or lost
  HttpOutcome outcome_;
  Head head_;
  std::function<void(CloseReason)> on_close_;
  std::unique_ptr<CallRecord> record_;
  std::optional<CloseReason> lost_;
  bool begun_ = false;
  bool is_event_stream_ = false;
  bool reported_ = false;
};

}  // namespace slipstream

// HttpParser: bytes of a connection -> one HttpRequest, or the error that ends the connection.
//
// Stricter than the parser beneath it, because whatever two parsers read differently is how a
// request is smuggled past one of them: lines end with CRLF, nothing is folded, a length is given
// once and one way, a host exactly once. Limits hold while bytes arrive. No I/O, no clock; one
// object per request, one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "server/errors.h"
#include "server/http.h"

namespace slipstream {

struct HttpParserLimits {
  int64_t max_body_bytes = 8 << 20;
  int64_t max_header_bytes = 32 << 10;
  int64_t max_url_bytes = 8 << 10;
  int32_t max_header_lines = 128;
};

class HttpParser {
 public:
  enum class State { kHead, kBody, kDone, kFailed };

  explicit HttpParser(HttpParserLimits limits);
  ~HttpParser();
  HttpParser(HttpParser&& other) noexcept;
  HttpParser& operator=(HttpParser&& other) noexcept;

  // Takes bytes from the front and returns how many; the caller offers the rest again, with more
  // behind it. A head is taken as a whole, and nothing behind it in the same call. 0: more are
  // needed, or the state is final.
  size_t feed(std::string_view bytes);
  // The body's bytes are counted and checked, but not kept.
  void discard_body();

  State state() const;
  const ApiError& error() const;  // with kFailed
  HttpRequest& request();         // the head from kBody on, the body with kDone

  // From kBody on:
  bool keep_alive() const;
  bool is_http_1_0() const;
  bool expects_continue() const;
  // Bytes of body still to come; -1: chunked, so nobody knows.
  int64_t body_bytes_left() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace slipstream

// The bytes of one HTTP response -> its status and the lines of its body, as they come.
//
// Owns nothing but the framing: chunked, of a given length, or up to the end of the connection.
// Beast's parser does that part. No I/O, no clock; one object per response.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace slipstream {

class ResponseReader {
 public:
  // `on_line` gets every line of a body with status 200, without its line end; it must not destroy
  // the reader.
  explicit ResponseReader(std::function<void(std::string_view line)> on_line);
  ~ResponseReader();
  ResponseReader(ResponseReader&&) noexcept;
  ResponseReader& operator=(ResponseReader&&) noexcept;

  // False: this is no HTTP response, or a line of it is too long.
  bool feed(std::string_view bytes);
  // The connection ended. False: in the middle of the response.
  bool feed_end();

  bool complete() const;
  int status() const;  // 0: the head is not here yet
  // The first bytes of a body whose status is not 200.
  const std::string& refusal() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace slipstream

// KeepingWriter: where a handler under test sends its one response.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string_view>
#include <utility>

#include "server/http.h"

namespace slipstream {

class KeepingWriter : public ResponseWriter {
 public:
  void send(HttpResponse response) override { sent = std::move(response); }
  void begin_stream(HttpResponse) override { FAIL(); }
  void write(std::string_view) override { FAIL(); }
  void end() override { FAIL(); }
  bool closed() const override { return false; }
  void on_close(std::function<void(CloseReason)>) override {}
  HttpResponse sent;
};

}  // namespace slipstream

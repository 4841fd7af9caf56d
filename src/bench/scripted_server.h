// ScriptedServer: an OpenAI-compatible server without a model, which streams by a script and notes
// when it wrote what. The measure of the load client.
//
// One thread of its own, from create() to the destructor. Serves POST on any path; the request's
// number is the first id of its "prompt".
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/status.h"

namespace slipstream {

enum class ScriptedFault : uint8_t {
  kNone,
  kHttp429,     // instead of a stream
  kHttp500,     // instead of a stream
  kErrorEvent,  // after half of the chunks, then the end
  kClose,       // after half of the chunks, without an end
};

struct StreamScript {
  int64_t ttft_ns = 0;
  int64_t itl_ns = 0;
  int num_chunks = 1;
  ScriptedFault fault = ScriptedFault::kNone;
  int stall_chunk = -1;  // comes so much later; -1: none
  int64_t stall_ns = 0;
};

// Of one request; steady clock.
struct ScriptedLog {
  int64_t received_ns = 0;
  std::vector<int64_t> due_ns;      // of each chunk
  std::vector<int64_t> written_ns;  // just before it was given to the kernel
};

class ScriptedServer {
 public:
  // Listens on a free loopback port. `script` is called on the server's thread.
  static Result<std::unique_ptr<ScriptedServer>> create(
      int64_t num_requests, std::function<StreamScript(int64_t request_idx)> script);
  virtual ~ScriptedServer() = default;

  virtual int port() const = 0;
  // Ends the thread; the log by request number is complete then.
  virtual const std::vector<ScriptedLog>& stop() = 0;
};

}  // namespace slipstream

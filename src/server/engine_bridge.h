// EngineBridge: carries the engine's events to the network thread, one post per step.
//
// Owns the map from request ids to listeners. The engine calls sink() on its thread; everything
// else is network thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "server/http.h"
#include "slipstream/engine.h"

namespace slipstream {

// Who waits for the events of a request. `on_events` gets all events of one listener of one step
// together, so a step makes one write per response however many choices it carries.
class EventListener {
 public:
  virtual ~EventListener() = default;
  virtual void on_events(std::span<TokenEvent* const> events) = 0;
};

class EngineBridge {
 public:
  explicit EngineBridge(EventLoop& loop) : loop_(loop) {}

  // What Engine::open gets. May be called before attach().
  EventSink sink();
  void attach(Engine& engine) { engine_ = &engine; }
  Engine& engine() { return *engine_; }

  // The listener is held until the request's last event was delivered or the id is cancelled.
  Result<RequestId> submit(Request request, std::shared_ptr<EventListener> listener);
  // No further event of `id` reaches its listener.
  void cancel(RequestId id);
  // Requests whose last event was not seen yet, cancelled ones excluded.
  int64_t num_open() const { return static_cast<int64_t>(listeners_.size()); }

 private:
  void deliver(std::vector<TokenEvent> events);

  EventLoop& loop_;
  Engine* engine_ = nullptr;
  std::unordered_map<RequestId, std::shared_ptr<EventListener>> listeners_;
};

}  // namespace slipstream

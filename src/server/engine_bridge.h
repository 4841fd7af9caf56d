// EngineBridge: carries the engine's events to the network thread, one post per step.
//
// Owns the map from request ids to listeners. The engine calls sink() on its thread; everything
// else is network thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "server/http.h"
#include "slipstream/engine.h"

namespace slipstream {

// Who waits for the events of requests. `on_events` gets all events of one listener of one step
// together, so a step makes one write per response however many choices it carries.
class EventListener {
 public:
  virtual ~EventListener() = default;
  // The events may be moved from. Those of an id that was cancelled in the same step may be among
  // them.
  virtual void on_events(std::span<TokenEvent* const> events) = 0;

 private:
  friend class EngineBridge;
  std::vector<TokenEvent*> inbox_;  // of the step being delivered
};

class EngineBridge {
 public:
  explicit EngineBridge(EventLoop& loop) : loop_(loop) {}
  EngineBridge(const EngineBridge&) = delete;
  EngineBridge& operator=(const EngineBridge&) = delete;

  // What Engine::open gets; it must not be called after the bridge or its loop ended. May be taken
  // before attach().
  EventSink sink();
  void attach(Engine& engine) { engine_ = &engine; }
  bool attached() const { return engine_ != nullptr; }
  Engine& engine() { return *engine_; }

  // The listener is held until the request's last event was delivered or the id is cancelled.
  Result<RequestId> submit(Request request, std::shared_ptr<EventListener> listener);
  // No event of a later step of `id` reaches its listener.
  void cancel(RequestId id);
  // Requests whose last event was not seen yet, cancelled ones excluded.
  int64_t num_open() const { return static_cast<int64_t>(listeners_.size()); }

 private:
  void deliver(std::vector<TokenEvent> events);
  void sort_by_listener(std::vector<TokenEvent>& events);
  void clear_inboxes();

  EventLoop& loop_;
  Engine* engine_ = nullptr;
  std::unordered_map<RequestId, std::shared_ptr<EventListener>> listeners_;
  std::vector<std::shared_ptr<EventListener>> touched_;  // by the step being delivered
};

}  // namespace slipstream

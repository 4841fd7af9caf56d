#include "server/engine_bridge.h"

#include <new>
#include <utility>

namespace slipstream {

EventSink EngineBridge::sink() {
  return [this](std::span<const TokenEvent> events) {
    if (events.empty()) return;
    // std::function copies its target, so what is moved in must be copyable: a shared box is.
    auto batch = std::make_shared<std::vector<TokenEvent>>(events.begin(), events.end());
    loop_.post([this, batch = std::move(batch)] { deliver(std::move(*batch)); });
  };
}

Result<RequestId> EngineBridge::submit(Request request, std::shared_ptr<EventListener> listener) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const RequestId id, engine_->submit(std::move(request)));
  // Its first events are delivered by a later turn of this thread's loop, so none is missed.
  try {
    listeners_.emplace(id, std::move(listener));
  } catch (const std::bad_alloc&) {
    engine_->cancel(id);
    throw;
  }
  return id;
}

void EngineBridge::cancel(RequestId id) {
  if (listeners_.erase(id) > 0) engine_->cancel(id);
}

void EngineBridge::deliver(std::vector<TokenEvent> events) {
  try {
    sort_by_listener(events);
    for (const std::shared_ptr<EventListener>& listener : touched_) {
      listener->on_events(listener->inbox_);
    }
  } catch (...) {
    clear_inboxes();
    throw;
  }
  clear_inboxes();
}

void EngineBridge::sort_by_listener(std::vector<TokenEvent>& events) {
  for (TokenEvent& event : events) {
    const auto found = listeners_.find(event.request);
    if (found == listeners_.end()) continue;  // cancelled: late events are normal
    EventListener& listener = *found->second;
    if (listener.inbox_.empty()) touched_.push_back(found->second);
    listener.inbox_.push_back(&event);
    if (event.finish != FinishReason::kNone) listeners_.erase(found);
  }
}

// The events they point to end with their delivery.
void EngineBridge::clear_inboxes() {
  for (const std::shared_ptr<EventListener>& listener : touched_) listener->inbox_.clear();
  touched_.clear();
}

}  // namespace slipstream

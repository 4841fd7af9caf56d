// Conversation: the messages of a chat, and their file form.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "cli/chat_prompt.h"

namespace slipstream {

class Conversation {
 public:
  // The system message, or empty; kept in front of whatever follows.
  void set_system(std::string text) { system_ = std::move(text); }
  const std::string& system() const { return system_; }

  void add(std::string role, std::string content) {
    turns_.push_back({std::move(role), std::move(content)});
  }
  void drop_last() { turns_.pop_back(); }
  void reset() { turns_.clear(); }  // keeps the system message

  size_t num_turns() const { return turns_.size(); }
  std::vector<ChatMessage> messages() const;

  // {"messages": [{"role", "content"}, ...]}. A file is written under a temporary name and
  // renamed; loading replaces the conversation only when the whole file is good.
  Status save(const std::string& path) const;
  Status load(const std::string& path);

 private:
  std::string system_;
  std::vector<ChatMessage> turns_;
};

}  // namespace slipstream

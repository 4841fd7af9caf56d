#include "cli/conversation.h"

#include <errno.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/json.h"
#include "base/mmap_file.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr uint64_t kMaxFileBytes = 64u << 20;

}  // namespace

std::vector<ChatMessage> Conversation::messages() const {
  std::vector<ChatMessage> all;
  if (!system_.empty()) all.push_back({"system", system_});
  all.insert(all.end(), turns_.begin(), turns_.end());
  return all;
}

Status Conversation::save(const std::string& path) const {
  Json list = Json::array();
  for (const ChatMessage& message : messages()) {
    list.push_back(Json{{"role", message.role}, {"content", message.content}});
  }
  const std::string temporary = str(path, ".partial-", ::getpid());
  std::ofstream file(temporary, std::ios::binary);
  file << dump_json(Json{{"messages", std::move(list)}}, 2) << "\n";
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    std::remove(temporary.c_str());
    return failed(str(path, ": cannot write: ", std::strerror(error)));
  }
  return {};
}

Status Conversation::load(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxFileBytes));
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json document, parse_json(text, path));
  if (!document.is_object() || !document.contains("messages") || !document["messages"].is_array()) {
    return failed(path + ": expected an object with \"messages\"");
  }
  Conversation loaded;
  for (const Json& message : document["messages"]) {
    if (!message.is_object()) return failed(path + ": a message is not an object");
    SLIPSTREAM_ASSIGN_OR_RETURN(std::string role, json_string(message, "role", ""));
    SLIPSTREAM_ASSIGN_OR_RETURN(std::string content, json_string(message, "content", ""));
    if (role != "system" && role != "user" && role != "assistant") {
      return failed(str(path, ": role ", quote(role), " is not system, user or assistant"));
    }
    if (role == "system" && loaded.turns_.empty()) {
      loaded.system_ = std::move(content);
    } else {
      loaded.add(std::move(role), std::move(content));
    }
  }
  *this = std::move(loaded);
  return {};
}

}  // namespace slipstream

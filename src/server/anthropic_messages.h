// POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, text only.
#pragma once

#include <memory>
#include <string_view>

#include "server/errors.h"
#include "server/generation_route.h"
#include "server/http.h"

namespace slipstream {

Dialect messages_dialect();
Route count_tokens_route(ServerContext& context, std::shared_ptr<const ParamTable> table);

struct MessagesOptions {
  bool ends_with_context = false;  // the context leaves less room than max_tokens asks for
};
// Anthropic's message object, and its events when streamed.
std::unique_ptr<AnswerFormat> make_messages_format(const MessagesOptions& options);

// {"type":"error","error":{"type","message"},"request_id"}
HttpResponse messages_error(const ApiError& error, std::string_view request_id);

}  // namespace slipstream

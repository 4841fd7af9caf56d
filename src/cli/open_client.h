// Opens an engine the way commands do: MODEL resolved, progress shown.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "bench/engine_client.h"
#include "cli/shared_flags.h"

namespace slipstream {

struct OpenedModel {
  std::unique_ptr<EngineClient> client;
  EngineOptions options;  // as opened
  std::string name;       // the model list's name, else the folder's name or the file's stem
};

Result<OpenedModel> open_model(const SharedOptions& shared);

}  // namespace slipstream

#include "cli/open_client.h"

#include <utility>

#include "cli/load_progress.h"
#include "cli/model_path.h"

namespace slipstream {

Result<OpenedModel> open_model(const SharedOptions& shared) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const ModelPath model, resolve_model(shared.model));
  OpenedModel opened;
  opened.name = model.name;
  opened.options = shared.engine;
  opened.options.model = model.path;
  LoadProgress progress;
  EngineOptions with_progress = opened.options;
  with_progress.on_progress = [&progress](const LoadProgressEvent& event) {
    progress.update(event);
  };
  SLIPSTREAM_ASSIGN_OR_RETURN(opened.client, EngineClient::open(with_progress));
  return opened;
}

}  // namespace slipstream

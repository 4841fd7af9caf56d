// MODEL as users type it -> a path: a file, a folder, a name of the model list, hf:ORG/REPO.
//
// Owns where the model list and the cache are. Does not open models and fetches nothing.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace slipstream {

struct ModelPath {
  std::string path;
  std::string name;  // the list's name, else the folder's name or the file's stem
};

// Empty: the list's default model. A model that is not in the cache yet is an error (exit code 1)
// that says how to fetch it; an unknown name is bad usage.
Result<ModelPath> resolve_model(const std::string& model);

// The folder that holds models.json and fetch.py: beside an installed binary, or of the source
// tree the binary was built in.
Result<std::string> share_folder();

}  // namespace slipstream

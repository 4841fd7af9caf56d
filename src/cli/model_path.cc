#include "cli/model_path.h"

#include <filesystem>
#include <optional>
#include <system_error>

#include "base/json.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "cli/environment.h"

namespace slipstream {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxListBytes = 4u << 20;

struct ListedModel {
  std::string name;
  std::string file;  // below the cache folder
  bool is_default = false;
};

bool path_exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// The same layout as fetch.py writes: models/NAME/<file name of the source's member>.
Result<ListedModel> read_entry(const Json& entry) {
  ListedModel model;
  SLIPSTREAM_ASSIGN_OR_RETURN(model.name, json_string(entry, "name", ""));
  SLIPSTREAM_ASSIGN_OR_RETURN(model.is_default, json_bool(entry, "default", false));
  if (!entry.contains("source") || !entry["source"].is_object()) {
    return failed("an entry has no \"source\"");
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string member, json_string(entry["source"], "member", ""));
  const std::string file = fs::path(member).filename().string();
  if (model.name.empty() || file.empty()) return failed("an entry lacks a name or a member");
  model.file = "models/" + model.name + "/" + file;
  return model;
}

Result<std::vector<ListedModel>> read_model_list() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string folder, share_folder());
  const std::string path = folder + "/models.json";
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxListBytes));
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json list, parse_json(text, path));
  if (!list.is_object() || !list.contains("models") || !list["models"].is_array()) {
    return failed(path + ": has no \"models\"; reinstall it");
  }
  std::vector<ListedModel> models;
  for (const Json& entry : list["models"]) {
    Result<ListedModel> model = read_entry(entry);
    if (!model.ok()) return model.status().in(path);
    models.push_back(std::move(model).value());
  }
  return models;
}

Result<ModelPath> in_cache(const std::string& name, const std::string& file,
                           const std::string& pull_command) {
  const std::string home = cache_home();
  if (home.empty()) {
    return failed("there is no home folder; set SLIPSTREAM_HOME to the cache folder");
  }
  const std::string path = home + "/" + file;
  if (!path_exists(path)) {
    return failed(
        str("model ", quote(name), " is not in ", home, " yet; `", pull_command, "` fetches it"));
  }
  return ModelPath{path, name};
}

// hf:ORG/REPO or hf:ORG/REPO:FILE.gguf, as fetch.py stores them.
Result<ModelPath> resolve_hf(const std::string& model) {
  const std::string rest = model.substr(3);
  const size_t colon = rest.find(':');
  const std::string repo = rest.substr(0, colon);
  const std::vector<std::string> parts = split(repo, '/');
  if (parts.size() != 2 || parts[0].empty() || parts[1].empty() || parts[0][0] == '.' ||
      parts[1][0] == '.') {
    return bad_usage(str(quote(model), ": expected hf:ORG/REPO or hf:ORG/REPO:FILE.gguf"));
  }
  if (colon == std::string::npos) return in_cache(model, "hf/" + repo, "slipstream pull " + model);
  const std::string file = fs::path(rest.substr(colon + 1)).filename().string();
  return in_cache(model, "gguf/" + repo + "/" + file, "slipstream pull " + model);
}

std::string name_of_path(const fs::path& path) {
  const fs::path clean = path.filename().empty() ? path.parent_path() : path;
  std::error_code error;
  return fs::is_directory(clean, error) ? clean.filename().string() : clean.stem().string();
}

}  // namespace

Result<std::string> share_folder() {
  std::error_code error;
  const fs::path binary = fs::read_symlink("/proc/self/exe", error);
  std::vector<fs::path> candidates;
  if (!error) {
    candidates.push_back(binary.parent_path().parent_path() / "share/slipstream");
  }
  candidates.emplace_back(SLIPSTREAM_SHARE_DIR);
  for (const fs::path& folder : candidates) {
    if (path_exists(folder / "models.json")) return folder.string();
  }
  return failed(str("share/slipstream/models.json is neither in ", candidates.front().string(),
                    " nor in ", candidates.back().string(), "; reinstall slipstream"));
}

Result<ModelPath> resolve_model(const std::string& model) {
  if (starts_with(model, "hf:")) return resolve_hf(model);
  if (!model.empty() && path_exists(model)) return ModelPath{model, name_of_path(model)};
  Result<std::vector<ListedModel>> models = read_model_list();
  if (!models.ok()) {
    if (model.empty()) return models.status();
    return bad_usage(str("model ", quote(model), ": no such file or folder"));
  }
  std::string names;
  for (const ListedModel& listed : models.value()) {
    if (model.empty() ? listed.is_default : listed.name == model) {
      return in_cache(listed.name, listed.file, "slipstream pull " + listed.name);
    }
    names += (names.empty() ? "" : ", ") + listed.name;
  }
  if (model.empty()) return failed("the model list has no default model; give --model");
  return bad_usage(
      str("model ", quote(model),
          ": no such file or folder, and not in the model list; known names: ", names));
}

}  // namespace slipstream

#include "cli/almanac_site.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <system_error>
#include <utility>

#include "base/strings.h"
#include "bench/almanac_files.h"
#include "server/assets.h"

namespace slipstream {
namespace {

namespace fs = std::filesystem;

// Below the page, on a server as in a folder.
constexpr const char* kDataFolder = "almanac/";

// Where an asset lies in an exported folder; "": the almanac does not need it.
std::string site_path(const Asset& asset) {
  if (asset.path == "/almanac") return "index.html";
  for (const char* used : {"/assets/almanac/", "/assets/shared/base.css", "/assets/shared/mark.svg",
                           "/assets/vendor/chart.js"}) {
    if (starts_with(asset.path, used)) return std::string(asset.path.substr(1));
  }
  return "";
}

Status cannot_write(const fs::path& path, const std::string& why) {
  return failed(str("site ", quote(path.string()), " cannot be written: ", why,
                    "; free disk space or name another folder"));
}

// A reader sees the old file or the new one.
Status replace_file(const fs::path& path, std::string_view bytes) {
  std::error_code code;
  fs::create_directories(path.parent_path(), code);
  if (code) return cannot_write(path, code.message());
  const fs::path part = path.string() + ".part";
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  std::string why = file ? "" : "the write failed";
  if (why.empty()) {
    fs::rename(part, path, code);
    if (code) why = code.message();
  }
  if (why.empty()) return {};
  fs::remove(part, code);
  return cannot_write(path, why);
}

Status require_own_folder(const fs::path& folder) {
  std::error_code code;
  if (!fs::exists(folder, code)) return {};
  if (!fs::is_directory(folder, code)) {
    return bad_usage(str(quote(folder.string()), " is a file; name a folder for the site"));
  }
  if (fs::is_empty(folder, code) || fs::exists(folder / kDataFolder / "points.js", code)) return {};
  return bad_usage(str("folder ", quote(folder.string()),
                       " holds other files; name a new or empty one, or an earlier export"));
}

}  // namespace

Status write_almanac_site(PointStore& store, const std::string& folder) {
  const fs::path root(folder);
  SLIPSTREAM_RETURN_IF_ERROR(require_own_folder(root));
  for (const AlmanacFile& file : almanac_files()) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string bytes, make_almanac_file(store, file));
    SLIPSTREAM_RETURN_IF_ERROR(replace_file(root / kDataFolder / file.name, bytes));
  }
  for (const Asset& asset : embedded_assets()) {
    const std::string path = site_path(asset);
    if (!path.empty()) SLIPSTREAM_RETURN_IF_ERROR(replace_file(root / path, asset.bytes));
  }
  return {};
}

DataFiles live_almanac_files(std::string store_path) {
  return [path = std::move(store_path)](std::string_view name) -> Result<std::optional<DataFile>> {
    const AlmanacFile* file = find_almanac_file(name);
    if (file == nullptr) return std::optional<DataFile>();
    SLIPSTREAM_ASSIGN_OR_RETURN(const auto store, PointStore::open_read_only(path));
    SLIPSTREAM_ASSIGN_OR_RETURN(std::string bytes, make_almanac_file(*store, *file));
    return std::optional<DataFile>({std::string(file->content_type), std::move(bytes)});
  };
}

Result<DataFiles> loaded_almanac_files(const std::string& store_path) {
  std::map<std::string, DataFile, std::less<>> files;
  if (store_path.empty()) {
    // The page's script element finds a script, and the script no points.
    files["points.js"] = {std::string(find_almanac_file("points.js")->content_type), ""};
  } else {
    SLIPSTREAM_ASSIGN_OR_RETURN(const auto store, PointStore::open_read_only(store_path));
    for (const AlmanacFile& file : almanac_files()) {
      SLIPSTREAM_ASSIGN_OR_RETURN(std::string bytes, make_almanac_file(*store, file));
      files[std::string(file.name)] = {std::string(file.content_type), std::move(bytes)};
    }
  }
  return DataFiles(
      [files = std::move(files)](std::string_view name) -> Result<std::optional<DataFile>> {
        const auto found = files.find(name);
        return found == files.end() ? std::optional<DataFile>() : std::optional(found->second);
      });
}

}  // namespace slipstream

// The static pages: `/`, `/almanac` and `/assets/...`, built into the binary by
// cmake/EmbedAssets.cmake.
//
// They hold no data of anyone, so they need no key and no engine. Immutable: any thread may read
// the table; the handlers run on the network thread.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/http.h"

namespace slipstream {

struct Asset {
  std::string_view path;  // as requested: "/", "/assets/shared/base.css"
  std::string_view content_type;
  std::string_view etag;    // of the content, without quotes
  std::string_view policy;  // Content-Security-Policy
  std::string_view bytes;
  std::string_view gzip_bytes;  // the same, compressed
};

std::span<const Asset> embedded_assets();

// The answer to one GET of an asset: 200 in the encoding the client takes, or 304. The server
// itself adds X-Content-Type-Options to every response.
HttpResponse serve_asset(const Asset& asset, const HttpRequest& request);

// Answers GET of the assets under `path`: one of theirs, or "/assets/{path}".
Route asset_route(std::string path);
std::vector<Route> web_routes();

}  // namespace slipstream

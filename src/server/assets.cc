#include "server/assets.h"

#include <algorithm>
#include <cctype>
#include <memory>
#include <string>
#include <utility>

#include "base/strings.h"
#include "server/errors.h"

namespace slipstream {
namespace {

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Calls `each` with the trimmed members of a comma-separated header until it returns true.
template <typename Each>
bool any_member(std::string_view list, Each each) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    if (each(trim(list.substr(0, comma)))) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) ==
           std::tolower(static_cast<unsigned char>(y));
  });
}

// A member with "q=0" is a refusal; any other quality is consent.
bool accepts_gzip(std::string_view accept_encoding) {
  return any_member(accept_encoding, [](std::string_view member) {
    const size_t semicolon = std::min(member.find(';'), member.size());
    if (!equals_ignoring_case(trim(member.substr(0, semicolon)), "gzip")) return false;
    const std::string_view quality = trim(member.substr(std::min(semicolon + 1, member.size())));
    return quality.substr(0, 3) != "q=0" || quality.find_first_of("123456789") != quality.npos;
  });
}

}  // namespace

HttpResponse serve_asset(const Asset& asset, const HttpRequest& request) {
  const bool gzip = accepts_gzip(request.header("accept-encoding"));
  // A tag names bytes, so each encoding has its own.
  std::string etag;
  etag.append("\"").append(asset.etag).append(gzip ? "-gz\"" : "\"");

  HttpResponse response;
  response.content_type = asset.content_type;
  response.headers = {
      {"ETag", etag},
      {"Cache-Control", "no-cache"},
      {"Vary", "Accept-Encoding"},
      {"Content-Security-Policy", std::string(asset.policy)},
      {"Referrer-Policy", "no-referrer"},
      {"Cross-Origin-Opener-Policy", "same-origin"},
      {"Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()"},
  };
  const bool unchanged = any_member(request.header("if-none-match"), [&](std::string_view member) {
    if (member.substr(0, 2) == "W/") member.remove_prefix(2);
    return member == etag || member == "*";
  });
  if (unchanged) {
    response.status = 304;
    return response;
  }
  if (gzip) response.headers.emplace_back("Content-Encoding", "gzip");
  response.body = gzip ? asset.gzip_bytes : asset.bytes;
  return response;
}

Route asset_route(std::string path) {
  Route route;
  route.method = "GET";
  route.path = std::move(path);
  route.needs_key = false;
  route.needs_engine = false;
  route.handler = [](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    for (const Asset& asset : embedded_assets()) {
      if (asset.path == request.path) return writer->send(serve_asset(asset, request));
    }
    writer->send(error_response(not_found(str("no asset ", quote(request.path)))));
  };
  return route;
}

// One route for all assets: metrics and logs name the route, and the files are of no interest.
std::vector<Route> web_routes() {
  return {asset_route("/"), asset_route("/almanac"), asset_route("/assets/{path}")};
}

}  // namespace slipstream

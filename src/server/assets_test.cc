#include "server/assets.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/keeping_writer_test_util.h"

namespace slipstream {
namespace {

const Asset& asset_at(std::string_view path) {
  for (const Asset& asset : embedded_assets()) {
    if (asset.path == path) return asset;
  }
  static const Asset kNone;
  ADD_FAILURE() << "no asset " << path;
  return kNone;
}

std::string header_of(const HttpResponse& response, std::string_view name) {
  for (const auto& [key, value] : response.headers) {
    if (key == name) return value;
  }
  return "";
}

HttpRequest request_with(std::string name, std::string value) {
  HttpRequest request;
  request.headers = {{std::move(name), std::move(value)}};
  return request;
}

TEST(Assets, ThePageAndAllItsScriptsAreThere) {
  for (const char* path : {"/", "/assets/playground/main.js", "/assets/shared/base.css",
                           "/assets/vendor/marked.js", "/assets/vendor/highlight.js", "/almanac",
                           "/assets/almanac/almanac.js", "/assets/vendor/chart.js"}) {
    EXPECT_FALSE(asset_at(path).bytes.empty()) << path;
  }
  EXPECT_NE(asset_at("/").bytes.find("/assets/playground/main.js"), std::string_view::npos);
}

TEST(Assets, TheStaticPagesNeedNeitherAKeyNorAnEngine) {
  const std::vector<Route> routes = web_routes();
  ASSERT_EQ(routes.size(), 3u);
  for (const Route& route : routes) {
    EXPECT_EQ(route.method, "GET");
    EXPECT_FALSE(route.needs_key) << route.path;
    EXPECT_FALSE(route.needs_engine) << route.path;
  }
}

TEST(Assets, EveryAssetIsServedUnderItsPathAndNothingElseIs) {
  const auto get = [](std::string path) {
    HttpRequest request;
    request.path = std::move(path);
    const auto writer = std::make_shared<KeepingWriter>();
    web_routes().back().handler(request, writer);
    return writer->sent;
  };
  for (const Asset& asset : embedded_assets()) {
    const HttpResponse response = get(std::string(asset.path));
    EXPECT_EQ(response.status, 200) << asset.path;
    EXPECT_EQ(response.body, asset.bytes) << asset.path;
  }
  for (const char* path : {"/assets/", "/assets/nope.js", "/assets/../playground/main.js",
                           "/assets/playground/main.js/", "/assets/%2e%2e/etc/passwd"}) {
    EXPECT_EQ(get(path).status, 404) << path;
  }
}

TEST(Assets, AClientThatTakesGzipGetsItAndOthersDoNot) {
  const Asset& asset = asset_at("/");
  for (const char* accepts : {"gzip", "br, gzip, deflate", "GZIP;q=0.5"}) {
    const HttpResponse response = serve_asset(asset, request_with("accept-encoding", accepts));
    EXPECT_EQ(response.body, asset.gzip_bytes) << accepts;
    EXPECT_EQ(header_of(response, "Content-Encoding"), "gzip");
  }
  for (const char* accepts : {"", "br", "gzip;q=0", "gzip; q=0.000", "xgzip"}) {
    const HttpResponse response = serve_asset(asset, request_with("accept-encoding", accepts));
    EXPECT_EQ(response.body, asset.bytes) << accepts;
    EXPECT_EQ(header_of(response, "Content-Encoding"), "");
  }
}

TEST(Assets, AnUnchangedAssetIsNotSentAgain) {
  const Asset& asset = asset_at("/");
  const std::string etag = header_of(serve_asset(asset, {}), "ETag");
  ASSERT_GT(etag.size(), 2u);
  for (const std::string& match : {etag, "\"other\", W/" + etag, std::string("*")}) {
    const HttpResponse response = serve_asset(asset, request_with("if-none-match", match));
    EXPECT_EQ(response.status, 304) << match;
    EXPECT_EQ(response.body, "");
    EXPECT_EQ(header_of(response, "ETag"), etag);
  }
  EXPECT_EQ(serve_asset(asset, request_with("if-none-match", "\"other\"")).status, 200);
}

TEST(Assets, EachEncodingHasItsOwnTag) {
  const Asset& asset = asset_at("/");
  EXPECT_NE(header_of(serve_asset(asset, {}), "ETag"),
            header_of(serve_asset(asset, request_with("accept-encoding", "gzip")), "ETag"));
}

TEST(Assets, NoPageRunsForeignScriptsAndThePreviewHasNoOriginAndNoNetwork) {
  for (const Asset& asset : embedded_assets()) {
    EXPECT_NE(asset.policy.find("default-src 'none'"), std::string_view::npos) << asset.path;
    const bool preview = asset.path == "/assets/playground/preview_frame.html";
    EXPECT_EQ(asset.policy.find("'unsafe-inline'") != std::string_view::npos, preview)
        << asset.path;
    EXPECT_EQ(asset.policy.find("sandbox allow-scripts;") == 0, preview) << asset.path;
    EXPECT_EQ(asset.policy.find("allow-same-origin"), std::string_view::npos) << asset.path;
    if (preview) {
      EXPECT_EQ(asset.policy.find("connect-src"), std::string_view::npos);
    }
  }
}

}  // namespace
}  // namespace slipstream

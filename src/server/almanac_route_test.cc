// Rules of the almanac's data route: open to all, only the files it is given, and no internals in
// an error.
#include "server/almanac_route.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "server/keeping_writer_test_util.h"

namespace slipstream {
namespace {

HttpResponse get(const std::string& name) {
  const Route route =
      almanac_data_route([](std::string_view asked) -> Result<std::optional<DataFile>> {
        if (asked == "points.js") return std::optional<DataFile>({"text/javascript", "let a;"});
        if (asked == "broken") return failed("/secret/almanac.db is not there");
        return std::optional<DataFile>();
      });
  HttpRequest request;
  request.path = "/almanac/" + name;
  request.path_tail = name;
  const auto writer = std::make_shared<KeepingWriter>();
  route.handler(request, writer);
  return writer->sent;
}

TEST(AlmanacRoute, IsOpenLikeThePage) {
  const Route route = almanac_data_route({});
  EXPECT_EQ(route.path, "/almanac/{file}");
  EXPECT_FALSE(route.needs_key);
  EXPECT_FALSE(route.needs_engine);
}

TEST(AlmanacRoute, AnswersWithTheFileOr404) {
  const HttpResponse script = get("points.js");
  EXPECT_EQ(script.status, 200);
  EXPECT_EQ(script.content_type, "text/javascript");
  EXPECT_EQ(script.body, "let a;");
  EXPECT_EQ(get("points.db-wal").status, 404);
  EXPECT_EQ(get("../etc/passwd").status, 404);
}

TEST(AlmanacRoute, AFailureTellsTheClientNoPath) {
  const HttpResponse response = get("broken");
  EXPECT_EQ(response.status, 500);
  EXPECT_EQ(response.body.find("secret"), std::string::npos);
}

}  // namespace
}  // namespace slipstream

#include "server/almanac_route.h"

#include <memory>
#include <utility>

#include "base/log.h"
#include "base/strings.h"
#include "server/errors.h"

namespace slipstream {

Route almanac_data_route(DataFiles files) {
  Route route;
  route.method = "GET";
  route.path = "/almanac/{file}";
  route.needs_key = false;
  route.needs_engine = false;
  route.handler = [files = std::move(files)](HttpRequest request,
                                             std::shared_ptr<ResponseWriter> writer) {
    Result<std::optional<DataFile>> file = files(request.path_tail);
    if (!file.ok()) {
      log_error("almanac", file.status().message());
      return writer->send(error_response(server_error("the almanac's points cannot be read")));
    }
    if (!file.value()) {
      return writer->send(error_response(not_found(str("no file ", quote(request.path)))));
    }
    HttpResponse response;
    response.content_type = std::move(file.value()->content_type);
    response.headers = {{"Cache-Control", "no-cache"}};
    response.body = std::move(file.value()->bytes);
    writer->send(std::move(response));
  };
  return route;
}

}  // namespace slipstream

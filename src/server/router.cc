#include "server/router.h"

#include <utility>

#include "base/check.h"
#include "base/strings.h"

namespace slipstream {

void Router::add(Route route) {
  const size_t brace = route.path.find('{');
  Methods* methods = nullptr;
  if (brace == std::string::npos) {
    methods = &exact_[route.path];
  } else {
    const std::string prefix = route.path.substr(0, brace);
    SLIPSTREAM_CHECK(ends_with(prefix, "/") && route.path.back() == '}', route.path);
    for (auto& [known, of_known] : prefixes_) {
      if (known == prefix) methods = &of_known;
    }
    if (methods == nullptr) methods = &prefixes_.emplace_back(prefix, Methods{}).second;
  }
  for (const auto& known : methods->routes) {
    SLIPSTREAM_CHECK(known->method != route.method, route.path);
  }
  methods->routes.push_back(std::make_unique<Route>(std::move(route)));
}

const Router::Methods* Router::find(std::string_view path, std::string_view& path_tail) const {
  const auto exact = exact_.find(std::string(path));
  if (exact != exact_.end()) return &exact->second;
  for (const auto& [prefix, methods] : prefixes_) {
    if (path.size() > prefix.size() && starts_with(path, prefix)) {
      path_tail = path.substr(prefix.size());
      return &methods;
    }
  }
  return nullptr;
}

Router::Match Router::match(std::string_view method, std::string_view path) const {
  Match match;
  const Methods* methods = find(path, match.path_tail);
  if (methods == nullptr) return match;
  for (const auto& route : methods->routes) {
    if (route->method == method || (route->method == "GET" && method == "HEAD")) {
      match.route = route.get();
      return match;
    }
  }
  for (const auto& route : methods->routes) {
    match.allow += (match.allow.empty() ? "" : ", ") + route->method;
    if (route->method == "GET") match.allow += ", HEAD";
  }
  return match;
}

}  // namespace slipstream

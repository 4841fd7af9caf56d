// Router: which route answers a method and a path. Paths match byte by byte: nothing is decoded,
// folded or cleaned up.
//
// Built once, then read by the network thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "server/http.h"

namespace slipstream {

class Router {
 public:
  // Two routes of one method and path are a bug.
  void add(Route route);

  struct Match {
    const Route* route = nullptr;
    std::string_view path_tail;  // into the path
    std::string allow;  // without a route: the methods this path knows; empty: no such path
  };
  Match match(std::string_view method, std::string_view path) const;

 private:
  struct Methods {
    std::vector<std::unique_ptr<Route>> routes;
  };
  const Methods* find(std::string_view path, std::string_view& path_tail) const;

  std::unordered_map<std::string, Methods> exact_;
  std::vector<std::pair<std::string, Methods>> prefixes_;  // "/v1/models/": the tail is not empty
};

}  // namespace slipstream

// Where a server is, and one plain HTTP call to it: what a load needs before and beside its
// streams.
//
// Owns the reading of --url, name resolution and calls that wait for their answer. Blocks; from any
// thread.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace slipstream {

struct HttpTarget {
  std::string url;      // as it was given
  std::string host;     // a name or an address
  std::string address;  // numeric; what resolve_target() found
  int port = 80;
  std::string base_path;  // "/api" of "http://HOST/api", else empty
  std::string api_key;    // sent as a bearer token; empty: none

  // "/v1/models" below the base path.
  std::string path_of(const std::string& endpoint) const { return base_path + endpoint; }
  // "HOST:PORT" as the host header has it.
  std::string authority() const;
};

// "http://HOST[:PORT][/PATH]". A trailing "/v1" is dropped: endpoints bring their own.
Result<HttpTarget> parse_target(const std::string& url);
// Fills `address`; IPv4 wins, since servers that listen on a loopback name often know only that.
Status resolve_target(HttpTarget& target);

struct HttpReply {
  int status = 0;
  std::string body;
};

// POST with a body, GET without one. Errors are those of the connection; any status is a reply.
Result<HttpReply> http_call(const HttpTarget& target, const std::string& path,
                            const std::string& body, int64_t timeout_ms);

}  // namespace slipstream

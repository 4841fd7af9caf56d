// PointStore: the measured points of the almanac in one SQLite file.
//
// A point is on the disk when insert() returns: one transaction a point, in WAL mode, synchronous.
// Used by one thread; other processes may read or write the same file.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/json.h"
#include "base/status.h"

namespace slipstream {

enum class IfTaken : uint8_t {
  kRefuse,      // another measurement under the same identity stays out
  kNextRepeat,  // it becomes one more repeat of the series
};

enum class InsertOutcome : uint8_t {
  kNew,
  kPresent,  // this very measurement is stored already
  kTaken,    // another one is, and stays
};

struct PointFilter {
  std::optional<std::string> campaign = {}, model = {}, engine = {};
  std::optional<std::string> gpu = {};  // a part of its name, in any case; "cpu": no GPU
  std::optional<int64_t> tokens_in = {}, tokens_out = {};

  bool is_set() const { return campaign || model || engine || gpu || tokens_in || tokens_out; }
};

class PointStore {
 public:
  // Creates the file and its folder if they are missing.
  static Result<std::unique_ptr<PointStore>> open(const std::string& path);
  static Result<std::unique_ptr<PointStore>> open_read_only(const std::string& path);
  virtual ~PointStore() = default;

  // After an error nothing of the point is stored; it may be inserted again.
  virtual Result<InsertOutcome> insert(const Json& point, IfTaken if_taken) = 0;
  // Whether the point with these identity columns is stored: what a campaign need not repeat.
  virtual Result<bool> contains(const Json& point) = 0;
  // Complete points, by model, shape, engine, load and repeat: the same order for the same points.
  // Stops at the visitor's first error and returns it.
  virtual Status for_each(const PointFilter& filter,
                          const std::function<Status(const Json& point)>& visit) = 0;
  // Writes a copy of the store as it is now, one file without a log beside it. `path` is not there
  // yet.
  virtual Status copy_to(const std::string& path) = 0;
};

}  // namespace slipstream

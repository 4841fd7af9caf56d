// CampaignFolder: what a campaign keeps beside its store: the engines' logs, a line per request of
// each point, and what failed. "almanac.db" has "almanac.runs/CAMPAIGN/" beside it.
//
// Used by one thread; a lock keeps a second run of the same campaign out.
#pragma once

#include <memory>
#include <string>

#include "base/json.h"
#include "base/status.h"

namespace slipstream {

class CampaignFolder {
 public:
  // Makes the folders. An error where they cannot be made or another process holds the lock.
  static Result<std::unique_ptr<CampaignFolder>> open(const std::string& store_path,
                                                      const std::string& campaign);
  ~CampaignFolder();
  CampaignFolder(const CampaignFolder&) = delete;
  CampaignFolder& operator=(const CampaignFolder&) = delete;

  std::string log_path(const std::string& name) const { return path_ + "/logs/" + name + ".log"; }
  std::string rows_path(const std::string& id) const { return path_ + "/rows/" + id + ".jsonl"; }
  std::string failures_path() const { return path_ + "/failures.jsonl"; }
  // Relative to the folder of the store: what a point says, so that both can be moved together.
  std::string relative(const std::string& path) const;

  // Appends a line to failures.jsonl; it is on the disk when this returns.
  Status add_failure(const Json& failure);

 private:
  CampaignFolder(std::string base, std::string path, int lock_fd)
      : base_(std::move(base)), path_(std::move(path)), lock_fd_(lock_fd) {}

  std::string base_;  // of the store
  std::string path_;
  int lock_fd_;
};

}  // namespace slipstream

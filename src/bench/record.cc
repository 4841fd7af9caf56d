#include "bench/record.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "base/machine.h"
#include "base/strings.h"
#include "base/time_text.h"
#include "bench/build_info.h"

namespace slipstream {
namespace {

// The value of the first line "key : value" of a /proc file; empty when there is none.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!starts_with(line, key)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t value = line.find_first_not_of(" \t", colon + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "";
}

Json host_json(const RecordHead& head) {
  utsname system{};
  const bool known = ::uname(&system) == 0;
  std::string cpu = proc_value("/proc/cpuinfo", "model name");
  if (cpu.empty() && known) cpu = static_cast<const char*>(system.machine);
  const GpuNames gpu = head.model == nullptr ? head.gpu
                                             : GpuNames{head.model->gpu, head.model->gpu_driver,
                                                        head.model->gpu_runtime};
  const bool on_gpu = !gpu.name.empty();
  return Json{{"cpu", cpu},
              {"cores", ::sysconf(_SC_NPROCESSORS_ONLN)},
              {"cores_used", head.cores_used},
              {"memory_bytes", physical_memory_bytes()},
              {"kernel", known ? static_cast<const char*>(system.release) : ""},
              {"gpus", on_gpu ? Json::array({gpu.name}) : Json::array()},
              {"driver", on_gpu ? Json(gpu.driver) : Json(nullptr)},
              {"cuda", on_gpu ? Json(gpu.cuda) : Json(nullptr)}};
}

// The command line as typed; words with spaces in single quotes.
std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::string text;
  for (const std::string& word : split(bytes, '\0')) {
    if (word.empty()) continue;
    const bool plain = word.find_first_of(" \t\n'\"\\$") == std::string::npos;
    text += (text.empty() ? "" : " ") + (plain ? word : "'" + word + "'");
  }
  return text;
}

}  // namespace

Json begin_record(const RecordHead& head) {
  Json record{{"schema", kRecordSchema},
              {"kind", head.kind},
              {"engine", "slipstream"},
              {"engine_version", engine_version()},
              {"git_commit", git_commit()},
              {"host", host_json(head)},
              {"started_at", utc_now(TimeDigits::kSeconds)}};
  if (head.model != nullptr) {
    record["model"] = Json{{"name", head.model->name},
                           {"family", head.model->family},
                           {"params", head.model->num_parameters},
                           {"weights", head.model->weights_format},
                           {"kv", head.model->kv_format},
                           {"bytes_per_token", head.bytes_per_token},
                           {"kv_bytes_per_token", head.model->kv_bytes_per_token}};
    record["device"] = head.model->device;
    record["executor"] = head.model->executor;
    record["kernels"] = head.model->kernels;
  }
  record["command"] = command_line();
  record["config"] = head.config;
  record["repeats"] = head.repeats;
  return record;
}

Result<RecordWriter> RecordWriter::open(const std::string& save_path,
                                        std::function<void(const std::string& line)> print) {
  if (!save_path.empty()) {
    const int fd = ::open(save_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) return failed(str("--save ", save_path, ": ", std::strerror(errno)));
    ::close(fd);
  }
  return RecordWriter(save_path, std::move(print));
}

Status RecordWriter::write(const Json& record) {
  const std::string line = dump_json(record) + "\n";
  print_(line);
  if (path_.empty()) return {};
  // One write of the whole line: a record is in the file or it is not.
  const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const off_t size_before = fd >= 0 ? ::lseek(fd, 0, SEEK_END) : 0;
  const ssize_t count = fd >= 0 ? ::write(fd, line.data(), line.size()) : -1;
  // A disk that is full takes a part and says why only to the next write.
  const int error = count >= 0 ? ENOSPC : errno;
  const bool written = count == static_cast<ssize_t>(line.size());
  if (count > 0 && !written) {
    [[maybe_unused]] const int cut = ::ftruncate(fd, size_before);
  }
  if (fd >= 0) ::close(fd);
  save_failed_ = save_failed_ || !written;
  return written ? Status() : failed(str("--save ", path_, ": ", std::strerror(error)));
}

}  // namespace slipstream

// Writing to a file descriptor.
#pragma once

#include <string_view>

namespace slipstream {

// Whether every byte was written; errno says why not.
bool write_all(int fd, std::string_view bytes);

}  // namespace slipstream

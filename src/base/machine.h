// What this machine, or the container it pretends to be, has.
#pragma once

#include <cstdint>

namespace slipstream {

// Cores this process may run on.
int available_cores();
// Memory of the machine or of the container, whichever is smaller.
int64_t physical_memory_bytes();

}  // namespace slipstream

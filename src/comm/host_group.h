// Members of a group that share the memory of one process: threads of the CPU.
#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace slipstream {

// A communicator per rank, for one thread each. Values are f32. Sums are taken in rank order, so
// results depend on neither timing nor the order of arrival.
std::vector<std::unique_ptr<Communicator>> make_host_group(int world_size);

}  // namespace slipstream

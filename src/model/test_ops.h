// The op tables of this machine, for tests that hold for each of them.
#pragma once

#include <vector>

#include "ops/ops.h"

namespace slipstream {

inline std::vector<const Ops*> available_ops() {
  std::vector<const Ops*> tables;
  for (const CpuIsa isa : {CpuIsa::kRef, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (const Ops* ops = cpu_ops(isa)) tables.push_back(ops);
  }
  return tables;
}

}  // namespace slipstream

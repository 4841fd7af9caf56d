// What stands for the CUDA table in a build without CUDA.
#include "ops/ops.h"

namespace slipstream {

const Ops* cuda_ops(std::string* why) {
  *why = "this build has no CUDA kernels; `make cuda` builds them";
  return nullptr;
}

}  // namespace slipstream

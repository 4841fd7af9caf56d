// The reference table: plain loops that define every op. Never fast, always right.
#pragma once

#include "ops/ops.h"

namespace slipstream {

const Ops* ref_ops();

}  // namespace slipstream

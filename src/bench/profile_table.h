// The table of a profile: what each op of a step takes, beside the limits of the machine.
#pragma once

#include <string>

#include "slipstream/step_profile.h"

namespace slipstream {

// What an op could take at least, as a share of what it took: it has to read its bytes, at
// `read_gb_s`, and to compute its products, at their format's rate.
struct LimitShare {
  double share = 0.0;  // 0: no limit is known
  std::string limit;   // the one that binds: "read", or the format of the products, "bf16"
};
LimitShare limit_share(const StepProfile::Op& op, double read_gb_s);

// A line of totals, a line of columns, and a line for each op, longest first: calls, us and share
// of a step, us a call, GB/s, TFLOP/s, and the share of the limit that binds. Of at least one step.
std::string profile_table(const StepProfile& profile, double read_gb_s);

}  // namespace slipstream

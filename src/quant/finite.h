// Finds NaN and infinity in a stored matrix without dequantising it: in block formats only the f16
// scales can hold them. The scales of E4M3 matrices are for the loader to check. One such value
// turns every logit into NaN, long after loading.
#pragma once

#include <cstdint>

#include "quant/format.h"

namespace slipstream {

// The first row with a value that is not finite; -1 when there is none.
int64_t first_non_finite_row(const SourceMatrix& matrix);

}  // namespace slipstream

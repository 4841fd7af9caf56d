// What must hold of a DecodeProgram before it is launched, shown from its data alone: a program
// that is wrong would compute wrong values, or wait for ever.
#pragma once

#include "megakernel/program.h"

namespace slipstream {

// The device's side.
struct ProgramLimits {
  int num_multiprocessors = 0;
  int64_t shared_bytes = 0;  // that a CTA may take
  int64_t ring_offset = 0;   // what of it is not the ring's
};

// The error names the product or vector, and the first thing that is wrong with it.
//
// Of every product: each row is in one tile of one CTA, each slice of columns in one round and one
// warp, no CTA is without a share, tiles lie one after the other within the CTA's stream. Of what
// CTAs hand on: o and down give a CTA the same rows of x, whose residual it keeps; both values of a
// word of the MLP come from one CTA; each value of attention is merged once.
Status check_program(const DecodeProgram& program);
// That all CTAs run at once, and the ring has room for the slots that a product needs ahead.
Status check_fits(const DecodeProgram& program, const ProgramLimits& limits);

}  // namespace slipstream

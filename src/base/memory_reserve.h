// MemoryReserve: memory held back for the moment when the system has none left.
//
// While some is left, an allocation by `new` that the system refuses is tried again after a piece
// of the reserve went back to it. Whoever takes work on calls refill() now and then, and stops
// taking it when the system does not give the piece back. With the reserve gone, `new` throws as
// ever. One at a time: the handler of failed allocations is the process's.
#pragma once

#include <cstddef>

namespace slipstream {

class MemoryReserve {
 public:
  // Address space only: a page nobody writes to takes no memory.
  MemoryReserve();
  ~MemoryReserve();
  MemoryReserve(const MemoryReserve&) = delete;
  MemoryReserve& operator=(const MemoryReserve&) = delete;

  // Takes back what was given, as far as the system lets it; whether it is whole again.
  bool refill();
};

}  // namespace slipstream

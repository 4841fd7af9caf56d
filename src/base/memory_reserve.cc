#include "base/memory_reserve.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <new>

#include "base/check.h"

namespace slipstream {
namespace {

// Each piece saves one allocation, so their number is how many may fail before work has ended and
// memory came back; their size is what a thread asks for at once, and more.
constexpr size_t kNumPieces = 16;
constexpr size_t kPieceBytes = size_t{4} << 20;

// What the handler can reach. Written by the one MemoryReserve.
std::array<std::atomic<void*>, kNumPieces> pieces{};
std::atomic<bool> reserve_exists{false};

void give_piece() {
  for (std::atomic<void*>& piece : pieces) {
    void* const memory = piece.exchange(nullptr);
    if (memory == nullptr) continue;
    ::munmap(memory, kPieceBytes);
    return;  // `new` tries again
  }
  throw std::bad_alloc();
}

}  // namespace

MemoryReserve::MemoryReserve() {
  SLIPSTREAM_CHECK(!reserve_exists.exchange(true), "one MemoryReserve at a time");
  refill();
  std::set_new_handler(give_piece);
}

MemoryReserve::~MemoryReserve() {
  std::set_new_handler(nullptr);
  for (std::atomic<void*>& piece : pieces) {
    if (void* const memory = piece.exchange(nullptr)) ::munmap(memory, kPieceBytes);
  }
  reserve_exists = false;
}

bool MemoryReserve::refill() {
  for (std::atomic<void*>& piece : pieces) {
    if (piece != nullptr) continue;
    void* const memory =
        ::mmap(nullptr, kPieceBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    piece = memory;  // nobody else fills
  }
  return true;
}

}  // namespace slipstream

// The persistent kernel of a build without CUDA: there is none.
#include "megakernel/decoder.h"

namespace slipstream {

struct PersistentDecoder::State {};

Result<DecodeProgram> PersistentDecoder::plan(const DecoderSpec&, const DecoderWeights&,
                                              const KVGroupSpec&, const Ops&) {
  return bad_usage("this build has no CUDA kernels");
}
Result<std::unique_ptr<PersistentDecoder>> PersistentDecoder::open(const DecodeModel&,
                                                                   const DecodeProgram&, int64_t) {
  return bad_usage("this build has no CUDA kernels");
}
PersistentDecoder::PersistentDecoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
PersistentDecoder::~PersistentDecoder() = default;
Status PersistentDecoder::start(const DecodeLaunch&) { return {}; }
std::span<const int32_t> PersistentDecoder::wait(int64_t, int64_t) { return {}; }
bool PersistentDecoder::ended() const { return true; }
void PersistentDecoder::stop() {}
void PersistentDecoder::abort() {}
void PersistentDecoder::set_most_in_flight(int32_t) {}
void PersistentDecoder::withhold_token(int32_t) {}
int32_t PersistentDecoder::num_ring_slots() const { return 0; }
std::vector<DecodePhase> PersistentDecoder::phases() const { return {}; }

}  // namespace slipstream

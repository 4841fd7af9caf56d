#include "ops/cuda/cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/library_function.h"
#include "base/log.h"
#include "base/strings.h"
#include "ops/cuda/device_state.h"

namespace slipstream::cuda {
namespace {

// In order; the loader resolves a bare name.
constexpr std::array kPlaces = {
    "$ORIGIN/libcublasLt.so.13",
    "libcublasLt.so.13",
    "/usr/local/cuda-13.0/targets/x86_64-linux/lib/libcublasLt.so.13",
    "/usr/local/cuda/lib64/libcublasLt.so.13",
    "libcublasLt.so.12",
};
constexpr size_t kWorkspaceBytes = 64u << 20;
constexpr int kMaxCandidates = 8;
constexpr int64_t kMostTileTokens = 1024;  // see add_tiles()

struct Api {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetVersion) get_version = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulAlgoConfigSetAttribute) algo_set = nullptr;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) algo_get = nullptr;
  decltype(&cublasLtMatmulAlgoCheck) algo_check = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
};

bool find_all(void* library, Api& api) {
  return find_function(library, "cublasLtCreate", api.create) &&
         find_function(library, "cublasLtDestroy", api.destroy) &&
         find_function(library, "cublasLtGetVersion", api.get_version) &&
         find_function(library, "cublasLtMatmulDescCreate", api.desc_create) &&
         find_function(library, "cublasLtMatmulDescDestroy", api.desc_destroy) &&
         find_function(library, "cublasLtMatmulDescSetAttribute", api.desc_set) &&
         find_function(library, "cublasLtMatrixLayoutCreate", api.layout_create) &&
         find_function(library, "cublasLtMatrixLayoutDestroy", api.layout_destroy) &&
         find_function(library, "cublasLtMatmulPreferenceCreate", api.preference_create) &&
         find_function(library, "cublasLtMatmulPreferenceDestroy", api.preference_destroy) &&
         find_function(library, "cublasLtMatmulPreferenceSetAttribute", api.preference_set) &&
         find_function(library, "cublasLtMatmulAlgoGetHeuristic", api.heuristic) &&
         find_function(library, "cublasLtMatmulAlgoConfigSetAttribute", api.algo_set) &&
         find_function(library, "cublasLtMatmulAlgoConfigGetAttribute", api.algo_get) &&
         find_function(library, "cublasLtMatmulAlgoCheck", api.algo_check) &&
         find_function(library, "cublasLtMatmul", api.matmul);
}

cudaDataType_t data_type(DType dtype) {
  if (dtype == DType::kF8E4M3) return CUDA_R_8F_E4M3;
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

// Times what a call takes on the device, weights read from memory as in a step.
class CallTimer {
 public:
  // `flushed` is overwritten before each call, so that it leaves nothing in the L2 cache.
  CallTimer(cudaStream_t stream, void* flushed, size_t flushed_bytes)
      : stream_(stream), flushed_(flushed), flushed_bytes_(flushed_bytes) {
    cudaEventCreate(&begin_);
    cudaEventCreate(&end_);
  }
  CallTimer(const CallTimer&) = delete;
  CallTimer& operator=(const CallTimer&) = delete;
  ~CallTimer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  // The least of several; infinite when the call fails.
  template <typename Call>
  float least_ms(const Call& call) const {
    constexpr int kRepeats = 4;
    float least = std::numeric_limits<float>::infinity();
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      float ms = 0.0f;
      cudaMemsetAsync(flushed_, 0, flushed_bytes_, stream_);
      cudaEventRecord(begin_, stream_);
      if (!call()) return std::numeric_limits<float>::infinity();
      cudaEventRecord(end_, stream_);
      if (cudaEventSynchronize(end_) != cudaSuccess) break;
      if (cudaEventElapsedTime(&ms, begin_, end_) == cudaSuccess) least = std::min(least, ms);
    }
    return least;
  }

 private:
  cudaStream_t stream_;
  void* flushed_;
  size_t flushed_bytes_;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

class CublasLtImpl final : public CublasLt {
 public:
  CublasLtImpl(const Api& api, cublasLtHandle_t handle, void* workspace, std::string choices_path,
               bool deterministic)
      : api_(api),
        handle_(handle),
        workspace_(workspace),
        choices_(std::move(choices_path)),
        deterministic_(deterministic) {}
  ~CublasLtImpl() override {
    for (auto& [shape, plan] : plans_) destroy(plan);
    cudaFree(workspace_);
    api_.destroy(handle_);
    // The library stays loaded: it has threads and handlers of its own.
  }

  Status gemm(const GemmShape& shape, const GemmOperands& operands, cudaStream_t stream) override {
    auto found = plans_.find(shape);
    if (found == plans_.end()) {
      SLIPSTREAM_ASSIGN_OR_RETURN(const Plan plan, make_plan(shape, operands, stream));
      found = plans_.emplace(shape, plan).first;
    }
    const Plan& plan = found->second;
    if (shape.input == DType::kF8E4M3) {
      // Scale pointers belong to the description, so they are set for each call.
      api_.desc_set(plan.desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &operands.w_scale,
                    sizeof(operands.w_scale));
      api_.desc_set(plan.desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &operands.x_scale,
                    sizeof(operands.x_scale));
    }
    const cublasStatus_t status = multiply(plan, plan.algo, operands, stream);
    if (status != CUBLAS_STATUS_SUCCESS) {
      return failed(str("cuBLASLt status ", static_cast<int>(status), " for M=", shape.num_tokens,
                        " N=", shape.num_rows, " K=", shape.num_cols));
    }
    return {};
  }

 private:
  struct Plan {
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t w = nullptr;
    cublasLtMatrixLayout_t x = nullptr;
    cublasLtMatrixLayout_t y = nullptr;
    cublasLtMatmulAlgo_t algo{};
  };

  void destroy(const Plan& plan) const {
    if (plan.y != nullptr) api_.layout_destroy(plan.y);
    if (plan.x != nullptr) api_.layout_destroy(plan.x);
    if (plan.w != nullptr) api_.layout_destroy(plan.w);
    if (plan.desc != nullptr) api_.desc_destroy(plan.desc);
  }

  // Column-major to cuBLAS: y^T [N, M] = w [K, N]^T x [K, M].
  cublasStatus_t multiply(const Plan& plan, const cublasLtMatmulAlgo_t& algo,
                          const GemmOperands& operands, cudaStream_t stream) const {
    const float one = 1.0f;
    const float zero = 0.0f;
    return api_.matmul(handle_, plan.desc, &one, operands.w, plan.w, operands.x, plan.x, &zero,
                       operands.y, plan.y, operands.y, plan.y, &algo, workspace_, kWorkspaceBytes,
                       stream);
  }

  bool describe(const GemmShape& shape, const GemmOperands& operands, Plan& plan) const {
    const auto m = static_cast<uint64_t>(shape.num_tokens);
    const auto n = static_cast<uint64_t>(shape.num_rows);
    const auto k = static_cast<uint64_t>(shape.num_cols);
    const cudaDataType_t in = data_type(shape.input);
    bool ok = api_.desc_create(&plan.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
    ok = ok && set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (shape.input == DType::kF8E4M3) {
      const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
      // Sums stay in the tensor cores' own accumulators, of fewer bits, instead of being added up
      // in float every few products: what is lost lies under the rounding of y to bf16.
      const int8_t fast_accumulation = 1;
      ok = ok && set(plan.desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode) &&
           set(plan.desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode) &&
           set(plan.desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, operands.w_scale) &&
           set(plan.desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, operands.x_scale) &&
           set(plan.desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast_accumulation);
    }
    ok = ok && api_.layout_create(&plan.w, in, k, n, shape.num_cols) == CUBLAS_STATUS_SUCCESS;
    ok = ok && api_.layout_create(&plan.x, in, k, m, shape.num_cols) == CUBLAS_STATUS_SUCCESS;
    return ok && api_.layout_create(&plan.y, data_type(shape.output), n, m, shape.y_stride) ==
                     CUBLAS_STATUS_SUCCESS;
  }

  // What the library holds to be fast, best first; none on failure.
  std::vector<cublasLtMatmulAlgo_t> candidates(const Plan& plan) const {
    std::array<cublasLtMatmulHeuristicResult_t, kMaxCandidates> found{};
    int count = 0;
    cublasLtMatmulPreference_t preference = nullptr;
    if (api_.preference_create(&preference) != CUBLAS_STATUS_SUCCESS) return {};
    // Without reductions of its own every algorithm adds a row up in one piece.
    const uint32_t reductions =
        deterministic_ ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_MASK;
    const bool ok =
        api_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                            sizeof(kWorkspaceBytes)) == CUBLAS_STATUS_SUCCESS &&
        api_.preference_set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                            sizeof(reductions)) == CUBLAS_STATUS_SUCCESS &&
        api_.heuristic(handle_, plan.desc, plan.w, plan.x, plan.y, plan.y, preference,
                       kMaxCandidates, found.data(), &count) == CUBLAS_STATUS_SUCCESS;
    api_.preference_destroy(preference);
    std::vector<cublasLtMatmulAlgo_t> algos;
    for (int i = 0; ok && i < count; ++i) algos.push_back(found[static_cast<size_t>(i)].algo);
    return algos;
  }

  // With a scale a row the library offers one algorithm, whose tiles of 128x128 leave many
  // multiprocessors idle in the last wave of a batch of hundreds; others exist.
  void add_tiles(const Plan& plan, std::vector<cublasLtMatmulAlgo_t>& algos) const {
    const cublasLtMatmulAlgo_t offered = algos.front();
    for (const uint32_t tile :
         {CUBLASLT_MATMUL_TILE_32x64, CUBLASLT_MATMUL_TILE_64x64, CUBLASLT_MATMUL_TILE_64x128,
          CUBLASLT_MATMUL_TILE_128x64, CUBLASLT_MATMUL_TILE_96x64, CUBLASLT_MATMUL_TILE_96x128,
          CUBLASLT_MATMUL_TILE_128x128}) {
      for (const uint16_t cluster : {CUBLASLT_CLUSTER_SHAPE_1x1x1, CUBLASLT_CLUSTER_SHAPE_2x1x1,
                                     CUBLASLT_CLUSTER_SHAPE_4x1x1, CUBLASLT_CLUSTER_SHAPE_1x2x1}) {
        cublasLtMatmulAlgo_t algo = offered;
        const bool ok = set(algo, CUBLASLT_ALGO_CONFIG_TILE_ID, tile) &&
                        set(algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, cluster) &&
                        can_run(plan, algo);
        if (ok) algos.push_back(algo);
      }
    }
  }

  cublasLtMatmulAlgo_t fastest(const Plan& plan, std::span<const cublasLtMatmulAlgo_t> algos,
                               const GemmOperands& operands, cudaStream_t stream) const {
    cudaStreamSynchronize(stream);
    const CallTimer timer(stream, workspace_, kWorkspaceBytes);
    const cublasLtMatmulAlgo_t* best = &algos.front();
    float best_ms = std::numeric_limits<float>::infinity();
    for (const cublasLtMatmulAlgo_t& algo : algos) {
      const float ms = timer.least_ms(
          [&] { return multiply(plan, algo, operands, stream) == CUBLAS_STATUS_SUCCESS; });
      if (ms >= best_ms) continue;
      best_ms = ms;
      best = &algo;
    }
    return *best;
  }

  bool can_run(const Plan& plan, const cublasLtMatmulAlgo_t& algo) const {
    cublasLtMatmulHeuristicResult_t result{};
    return api_.algo_check(handle_, plan.desc, plan.w, plan.x, plan.y, plan.y, &algo, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= kWorkspaceBytes;
  }

  // Whether a row's sums are added up in one piece: shares of K would be cut by what M leaves free.
  bool sums_in_one_piece(const cublasLtMatmulAlgo_t& algo) const {
    int32_t num_shares = 0;
    uint32_t reduction = 0;
    size_t written = 0;
    return api_.algo_get(&algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &num_shares, sizeof(num_shares),
                         &written) == CUBLAS_STATUS_SUCCESS &&
           api_.algo_get(&algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction,
                         sizeof(reduction), &written) == CUBLAS_STATUS_SUCCESS &&
           num_shares <= 1 && reduction == CUBLASLT_REDUCTION_SCHEME_NONE;
  }

  // The algorithms of a matrix that serve every number of tokens: those for kFixedTokens.
  std::vector<cublasLtMatmulAlgo_t> fixed_algorithms(GemmShape shape,
                                                     const GemmOperands& operands) {
    constexpr int64_t kFixedTokens = 128;
    shape.num_tokens = kFixedTokens;
    const auto found = fixed_.find(shape);
    if (found != fixed_.end()) return found->second;
    Plan plan;
    std::vector<cublasLtMatmulAlgo_t> algos;
    if (describe(shape, operands, plan)) algos = candidates(plan);
    destroy(plan);
    std::erase_if(algos, [&](const auto& algo) { return !sums_in_one_piece(algo); });
    return fixed_.emplace(shape, algos).first->second;
  }

  Result<Plan> make_plan(const GemmShape& shape, const GemmOperands& operands,
                         cudaStream_t stream) {
    Plan plan;
    const bool described = describe(shape, operands, plan);
    std::vector<cublasLtMatmulAlgo_t> algos;
    if (described) algos = deterministic_ ? fixed_algorithms(shape, operands) : candidates(plan);
    if (algos.empty() || (deterministic_ && !can_run(plan, algos.front()))) {
      destroy(plan);
      return failed(str("cuBLASLt has no ", deterministic_ ? "deterministic " : "",
                        "algorithm for M=", shape.num_tokens, " N=", shape.num_rows,
                        " K=", shape.num_cols, " in ", dtype_name(shape.input)));
    }
    if (deterministic_) {
      plan.algo = algos.front();
      return plan;
    }
    plan.algo = algos.front();
    if (algos.size() == 1 && shape.num_tokens <= kMostTileTokens) add_tiles(plan, algos);
    if (algos.size() == 1) return plan;
    using Algorithm = GemmChoices::Algorithm;
    static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));
    const auto same_as = [](const Algorithm& known) {
      return [&known](const cublasLtMatmulAlgo_t& algo) {
        return std::bit_cast<Algorithm>(algo) == known;
      };
    };
    // A choice that the library does not offer comes from a file that something else has written.
    if (const Algorithm* const known = choices_.find(shape)) {
      const auto found = std::find_if(algos.begin(), algos.end(), same_as(*known));
      if (found != algos.end()) {
        plan.algo = *found;
        return plan;
      }
    }
    plan.algo = fastest(plan, algos, operands, stream);
    choices_.add(shape, std::bit_cast<Algorithm>(plan.algo));
    return plan;
  }

  template <typename T>
  bool set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
           const T& value) const {
    return api_.desc_set(desc, attribute, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
  }

  template <typename T>
  bool set(cublasLtMatmulAlgo_t& algo, cublasLtMatmulAlgoConfigAttributes_t attribute,
           const T& value) const {
    return api_.algo_set(&algo, attribute, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
  }

  Api api_;
  cublasLtHandle_t handle_;
  void* workspace_;
  GemmChoices choices_;
  bool deterministic_;
  std::unordered_map<GemmShape, std::vector<cublasLtMatmulAlgo_t>, GemmShapeHash> fixed_;
  std::unordered_map<GemmShape, Plan, GemmShapeHash> plans_;
};

// FOLDER/gemm/NVIDIA-H200_580.159.04_cublaslt-130100.txt
std::string choices_path(const std::string& cache_folder, size_t version) {
  const DeviceDescription device = describe();
  std::string name = str(device.name, "_", device.driver, "_cublaslt-", version, ".txt");
  std::replace_if(name.begin(), name.end(), [](char c) { return c == ' ' || c == '/'; }, '-');
  return str(cache_folder, "/gemm/", name);
}

}  // namespace

Result<std::unique_ptr<CublasLt>> CublasLt::open(const std::string& cache_folder,
                                                 bool deterministic) {
  void* library = nullptr;
  for (const char* place : kPlaces) {
    library = dlopen(place, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  if (library == nullptr) {
    return does_not_fit(
        "libcublasLt.so.13 is not found: install CUDA 13's libraries or put it beside the program");
  }
  Api api;
  if (!find_all(library, api)) {
    return does_not_fit("libcublasLt lacks functions of CUDA 13: another version was found");
  }
  cublasLtHandle_t handle = nullptr;
  if (api.create(&handle) != CUBLAS_STATUS_SUCCESS) return failed("cuBLASLt does not start");
  void* workspace = nullptr;
  if (cudaMalloc(&workspace, kWorkspaceBytes) != cudaSuccess) {
    api.destroy(handle);
    return does_not_fit(str("the GPU has no ", kWorkspaceBytes, " bytes left for cuBLASLt"));
  }
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(api.create), &info);
  const size_t version = api.get_version();
  log_info("cuda", "cublaslt=", info.dli_fname != nullptr ? info.dli_fname : "?",
           " version=", version);
  return std::unique_ptr<CublasLt>(std::make_unique<CublasLtImpl>(
      api, handle, workspace, cache_folder.empty() ? "" : choices_path(cache_folder, version),
      deterministic));
}

}  // namespace slipstream::cuda

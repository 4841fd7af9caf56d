#include "ops/cuda/cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <vector>

#include "base/log.h"
#include "base/strings.h"

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
  decltype(&cublasLtMatmul) matmul = nullptr;
};

template <typename F>
bool find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

bool find_all(void* library, Api& api) {
  return find(library, "cublasLtCreate", api.create) &&
         find(library, "cublasLtDestroy", api.destroy) &&
         find(library, "cublasLtGetVersion", api.get_version) &&
         find(library, "cublasLtMatmulDescCreate", api.desc_create) &&
         find(library, "cublasLtMatmulDescDestroy", api.desc_destroy) &&
         find(library, "cublasLtMatmulDescSetAttribute", api.desc_set) &&
         find(library, "cublasLtMatrixLayoutCreate", api.layout_create) &&
         find(library, "cublasLtMatrixLayoutDestroy", api.layout_destroy) &&
         find(library, "cublasLtMatmulPreferenceCreate", api.preference_create) &&
         find(library, "cublasLtMatmulPreferenceDestroy", api.preference_destroy) &&
         find(library, "cublasLtMatmulPreferenceSetAttribute", api.preference_set) &&
         find(library, "cublasLtMatmulAlgoGetHeuristic", api.heuristic) &&
         find(library, "cublasLtMatmul", api.matmul);
}

cudaDataType_t data_type(DType dtype) {
  if (dtype == DType::kF8E4M3) return CUDA_R_8F_E4M3;
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

struct ShapeHash {
  size_t operator()(const GemmShape& shape) const {
    uint64_t hash = 0;
    for (const int64_t part :
         {shape.num_tokens, shape.num_rows, shape.num_cols, shape.y_stride,
          static_cast<int64_t>(shape.input) * 16 + static_cast<int64_t>(shape.output)}) {
      hash = (hash ^ static_cast<uint64_t>(part)) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

class CublasLtImpl final : public CublasLt {
 public:
  CublasLtImpl(const Api& api, cublasLtHandle_t handle, void* workspace)
      : api_(api), handle_(handle), workspace_(workspace) {}
  ~CublasLtImpl() override {
    for (auto& [shape, plan] : plans_) destroy(plan);
    cudaFree(workspace_);
    api_.destroy(handle_);
    // The library stays loaded: it has threads and handlers of its own.
  }

  Status gemm(const GemmShape& shape, const GemmOperands& operands, cudaStream_t stream) override {
    auto found = plans_.find(shape);
    if (found == plans_.end()) {
      SLIPSTREAM_ASSIGN_OR_RETURN(const Plan plan, make_plan(shape, operands));
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
    const float one = 1.0f;
    const float zero = 0.0f;
    // Column-major to cuBLAS: y^T [N, M] = w [K, N]^T x [K, M].
    const cublasStatus_t status = api_.matmul(
        handle_, plan.desc, &one, operands.w, plan.w, operands.x, plan.x, &zero, operands.y, plan.y,
        operands.y, plan.y, &plan.algo, workspace_, kWorkspaceBytes, stream);
    if (status != CUBLAS_STATUS_SUCCESS) {
      return failed(str("cuBLASLt status ", static_cast<int>(status), " for M=", shape.num_tokens,
                        " N=", shape.num_rows, " K=", shape.num_cols));
    }
    return {};
  }

  std::string version() const override { return std::to_string(api_.get_version()); }

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

  Result<Plan> make_plan(const GemmShape& shape, const GemmOperands& operands) const {
    Plan plan;
    const auto m = static_cast<uint64_t>(shape.num_tokens);
    const auto n = static_cast<uint64_t>(shape.num_rows);
    const auto k = static_cast<uint64_t>(shape.num_cols);
    const cudaDataType_t in = data_type(shape.input);
    const cublasOperation_t transpose = CUBLAS_OP_T;
    bool ok = api_.desc_create(&plan.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
    ok = ok && set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSA, transpose);
    if (shape.input == DType::kF8E4M3) {
      const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
      ok = ok && set(plan.desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode) &&
           set(plan.desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode) &&
           set(plan.desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, operands.w_scale) &&
           set(plan.desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, operands.x_scale);
    }
    ok = ok && api_.layout_create(&plan.w, in, k, n, shape.num_cols) == CUBLAS_STATUS_SUCCESS;
    ok = ok && api_.layout_create(&plan.x, in, k, m, shape.num_cols) == CUBLAS_STATUS_SUCCESS;
    ok = ok && api_.layout_create(&plan.y, data_type(shape.output), n, m, shape.y_stride) ==
                   CUBLAS_STATUS_SUCCESS;
    cublasLtMatmulPreference_t preference = nullptr;
    ok = ok && api_.preference_create(&preference) == CUBLAS_STATUS_SUCCESS;
    ok = ok &&
         api_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                             sizeof(kWorkspaceBytes)) == CUBLAS_STATUS_SUCCESS;
    std::array<cublasLtMatmulHeuristicResult_t, kMaxCandidates> candidates{};
    int count = 0;
    ok = ok &&
         api_.heuristic(handle_, plan.desc, plan.w, plan.x, plan.y, plan.y, preference, 1,
                        candidates.data(), &count) == CUBLAS_STATUS_SUCCESS &&
         count > 0;
    if (preference != nullptr) api_.preference_destroy(preference);
    if (!ok) {
      destroy(plan);
      return failed(str("cuBLASLt has no algorithm for M=", shape.num_tokens, " N=", shape.num_rows,
                        " K=", shape.num_cols, " in ", dtype_name(shape.input)));
    }
    plan.algo = candidates.front().algo;
    return plan;
  }

  template <typename T>
  bool set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
           const T& value) const {
    return api_.desc_set(desc, attribute, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
  }

  Api api_;
  cublasLtHandle_t handle_;
  void* workspace_;
  std::unordered_map<GemmShape, Plan, ShapeHash> plans_;
};

}  // namespace

Result<std::unique_ptr<CublasLt>> CublasLt::open() {
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
  log_info("cuda", "cublaslt=", info.dli_fname != nullptr ? info.dli_fname : "?",
           " version=", api.get_version());
  return std::unique_ptr<CublasLt>(std::make_unique<CublasLtImpl>(api, handle, workspace));
}

}  // namespace slipstream::cuda

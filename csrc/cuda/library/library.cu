// cuBLAS and cuSOLVER behind large.h, for every pass in one file, so that the elementwise kernels are compiled once.
// Cholesky (potrf and two triangular solves) rather than LU: the shifted matrices are positive definite, the
// factorisation has half the flops and no pivot search. Which is faster on a GPU has not been measured.
#include <cublas_v2.h>
#include <cusolverDn.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/library/large.h"
#include "cuda/library/library.h"
#include "cuda_passes.h"  // made by cmake/passes.cmake

namespace fastsqrtm {
namespace cuda {
namespace {

void check_library(int status, const char* what) {
  if (status != 0) throw std::runtime_error(std::string("fastsqrtm: ") + what + ": status " + std::to_string(status));
}

// Lets the thread allocate while a graph is being captured: memory that a library allocates for itself is no part of
// the graph.
class AllocationInCapture {
 public:
  AllocationInCapture() { check(cudaThreadExchangeStreamCaptureMode(&mode_), "capture mode"); }
  ~AllocationInCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  AllocationInCapture(const AllocationInCapture&) = delete;
  AllocationInCapture& operator=(const AllocationInCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;  // after construction the previous mode
};

// Handles by device. They are not for concurrent use, so each thread has its own; when it ends, the next takes them.
// None is destroyed: when a thread ends another device may be current, when the process ends CUDA may be gone.
class SolverHandles {
 public:
  ~SolverHandles() {
    const std::lock_guard<std::mutex> lock(mutex());
    for (const auto& [device, handle] : own_) {
      if (handle) free()[device].push_back(handle);
    }
  }

  cusolverDnHandle_t of(int device) {
    cusolverDnHandle_t& handle = own_[device];
    if (handle) return handle;
    const std::lock_guard<std::mutex> lock(mutex());
    std::vector<cusolverDnHandle_t>& left = free()[device];
    if (left.empty()) {
      check_library(cusolverDnCreate(&handle), "cusolverDnCreate");
    } else {
      handle = left.back();
      left.pop_back();
    }
    return handle;
  }

 private:
  static std::mutex& mutex() {
    static auto& mutex = *new std::mutex;
    return mutex;
  }
  static std::unordered_map<int, std::vector<cusolverDnHandle_t>>& free() {
    static auto& handles = *new std::unordered_map<int, std::vector<cusolverDnHandle_t>>;
    return handles;
  }

  std::unordered_map<int, cusolverDnHandle_t> own_;
};

cusolverDnHandle_t solver_handle(cudaStream_t stream) {
  thread_local SolverHandles handles;
  int device = 0;
  check(cudaGetDevice(&device), "current device");
  const cusolverDnHandle_t handle = handles.of(device);
  check_library(cusolverDnSetStream(handle, stream), "cusolverDnSetStream");
  return handle;
}

// torch may have TF32 switched on in its handle. Here products are float32: the condition of the problem leaves no
// digits to spare. Their factors are the host's.
class FullPrecision {
 public:
  explicit FullPrecision(cublasHandle_t blas) : blas_(blas) {
    check_library(cublasGetMathMode(blas_, &math_), "cublasGetMathMode");
    check_library(cublasGetPointerMode(blas_, &pointers_), "cublasGetPointerMode");
    check_library(cublasSetMathMode(blas_, CUBLAS_DEFAULT_MATH), "cublasSetMathMode");
    check_library(cublasSetPointerMode(blas_, CUBLAS_POINTER_MODE_HOST), "cublasSetPointerMode");
  }
  ~FullPrecision() {
    cublasSetMathMode(blas_, math_);
    cublasSetPointerMode(blas_, pointers_);
  }
  FullPrecision(const FullPrecision&) = delete;
  FullPrecision& operator=(const FullPrecision&) = delete;

 private:
  cublasHandle_t blas_;
  cublasMath_t math_;
  cublasPointerMode_t pointers_;
};

template <typename T>
class DeviceLibrary {
 public:
  DeviceLibrary(cublasHandle_t blas, cudaStream_t stream) : blas_(blas), stream_(stream) {}

  template <class... Parameters, class... Arguments>
  void run(void (*kernel)(Parameters...), int64_t blocks_x, int64_t blocks_y, int threads_x, int threads_y,
           std::size_t shared_bytes, const Arguments&... arguments) {
    launch(kernel, dim3(static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y)), dim3(threads_x, threads_y),
           shared_bytes, stream_, arguments...);
  }

  // Which is faster has not been measured: gpu-check sets the variable and compares.
  static bool sweeps_in_blocks() {
    static const bool chosen = [] {
      const char* value = std::getenv("FASTSQRTM_BLOCKED_SWEEP");
      return value != nullptr && std::strcmp(value, "1") == 0;
    }();
    return chosen;
  }

  // Row-major X Y is column-major Y X.
  void gemm(T alpha, const T* x, const T* y, T beta, T* out, int n, int64_t batch, const Rows& rows = {}) {
    const long long size = static_cast<long long>(n) * n;
    const int height = rows.count * n, count = static_cast<int>(batch);
    if constexpr (sizeof(T) == 8) {
      check_library(
          cublasDgemmStridedBatched(blas_, CUBLAS_OP_N, CUBLAS_OP_N, n, height, n, &alpha, y, n, rows.y * size, x, n,
                                    rows.x * size, &beta, out, n, rows.out * size, count),
          "cublasDgemmStridedBatched");
    } else {
      check_library(
          cublasSgemmStridedBatched(blas_, CUBLAS_OP_N, CUBLAS_OP_N, n, height, n, &alpha, y, n, rows.y * size, x, n,
                                    rows.x * size, &beta, out, n, rows.out * size, count),
          "cublasSgemmStridedBatched");
    }
  }

  void factor(T** factors, int* info, int n, int64_t terms) {
    const int count = static_cast<int>(terms);
    const AllocationInCapture allowed;
    const cusolverDnHandle_t solver = solver_handle(stream_);
    if constexpr (sizeof(T) == 8) {
      check_library(cusolverDnDpotrfBatched(solver, CUBLAS_FILL_MODE_LOWER, n, factors, n, info, count),
                    "cusolverDnDpotrfBatched");
    } else {
      check_library(cusolverDnSpotrfBatched(solver, CUBLAS_FILL_MODE_LOWER, n, factors, n, info, count),
                    "cusolverDnSpotrfBatched");
    }
  }

  void solve(T** factors, T** rights, int* info, int n, int64_t terms) {
    const AllocationInCapture allowed;
    factor(factors, info, n, terms);
    const int count = static_cast<int>(terms);
    const cublasFillMode_t lower = CUBLAS_FILL_MODE_LOWER;
    const T one = 1;
    for (const cublasOperation_t transpose : {CUBLAS_OP_N, CUBLAS_OP_T}) {
      if constexpr (sizeof(T) == 8) {
        check_library(cublasDtrsmBatched(blas_, CUBLAS_SIDE_LEFT, lower, transpose, CUBLAS_DIAG_NON_UNIT, n, n, &one,
                                         factors, n, rights, n, count),
                      "cublasDtrsmBatched");
      } else {
        check_library(cublasStrsmBatched(blas_, CUBLAS_SIDE_LEFT, lower, transpose, CUBLAS_DIAG_NON_UNIT, n, n, &one,
                                         factors, n, rights, n, count),
                      "cublasStrsmBatched");
      }
    }
  }

  void products(const T* const* x, const T* const* y, T* const* out, int n, int64_t terms) {
    const int count = static_cast<int>(terms);
    const T one = 1, zero = 0;
    if constexpr (sizeof(T) == 8) {
      check_library(
          cublasDgemmBatched(blas_, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, y, n, x, n, &zero, out, n, count),
          "cublasDgemmBatched");
    } else {
      check_library(
          cublasSgemmBatched(blas_, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, y, n, x, n, &zero, out, n, count),
          "cublasSgemmBatched");
    }
  }

 private:
  cublasHandle_t blas_;
  cudaStream_t stream_;
};

template <class Pass, typename T, class Told>
void run_typed(const Told& pass, const Operands& operands, Context& context) {
  const Problem& problem = operands.problem;
  const auto handle = static_cast<cublasHandle_t>(context.blas_handle());
  const FullPrecision full_precision(handle);
  const int64_t chunk = large_chunk<Pass>(pass, problem.batch, problem.n, sizeof(T));
  void* workspace = context.allocate(large_workspace_bytes<Pass>(pass, chunk, problem.n, sizeof(T)));
  DeviceLibrary<T> library(handle, context.stream);
  in_parts(operands, chunk, [&](const Operands& part) { run_large_part<Pass, T>(library, pass, part, workspace); });
}

template <class Pass, class Told>
void run([[maybe_unused]] const Told& pass, const Operands& operands, [[maybe_unused]] Context& context) {
  if constexpr (Pass::takes_any_size) {
    throw std::logic_error("fastsqrtm: a pass without this path came to it");
  } else if (operands.problem.element == Element::float64) {
    run_typed<Pass, double>(pass, operands, context);
  } else {
    run_typed<Pass, float>(pass, operands, context);
  }
}

}  // namespace

#define PASS(Type, file)                                                                      \
  void run_by_library(const passes::Type& pass, const Operands& operands, Context& context) { \
    run<Type>(pass, operands, context);                                                       \
  }
#include "ops.def"

}  // namespace cuda
}  // namespace fastsqrtm

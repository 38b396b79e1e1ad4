// cuBLAS and cuSOLVER behind large.h. Cholesky (potrf and two triangular solves) rather than LU: the shifted matrices
// are positive definite, the factorisation has half the flops and no pivot search. Which is faster on a GPU is not
// measured.
#include <cublas_v2.h>
#include <cusolverDn.h>

#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/library/launch.h"
#include "cuda/library/library.h"
#include "cuda/library/newton.h"

namespace fastsqrtm {
namespace cuda {
namespace {

void check_library(int status, const char* what) {
  if (status != 0) throw std::runtime_error(std::string("fastsqrtm: ") + what + ": status " + std::to_string(status));
}

// While this lives, the thread may allocate although a graph is being captured: what a library allocates for itself is
// no part of the graph.
class AllocationInCapture {
 public:
  AllocationInCapture() { check(cudaThreadExchangeStreamCaptureMode(&mode_), "capture mode"); }
  ~AllocationInCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  AllocationInCapture(const AllocationInCapture&) = delete;
  AllocationInCapture& operator=(const AllocationInCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;  // then the one there was before
};

// Handles by device. They are not for concurrent use, so a thread has its own; one that ends leaves them to the next.
// None is ever destroyed: at the end of a thread another device may be current, at that of the process CUDA be gone.
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
// digits to spare.
class FullPrecision {
 public:
  explicit FullPrecision(cublasHandle_t blas) : blas_(blas) {
    check_library(cublasGetMathMode(blas_, &before_), "cublasGetMathMode");
    check_library(cublasSetMathMode(blas_, CUBLAS_DEFAULT_MATH), "cublasSetMathMode");
  }
  ~FullPrecision() { cublasSetMathMode(blas_, before_); }
  FullPrecision(const FullPrecision&) = delete;
  FullPrecision& operator=(const FullPrecision&) = delete;

 private:
  cublasHandle_t blas_;
  cublasMath_t before_;
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

int element_bytes(Storage storage) { return storage == Storage::float64 ? 8 : 4; }

// `matrices` for each of the batch.
Problem part_of(Problem problem, int64_t first, int64_t count, int matrices = 1) {
  problem.batch = count;
  problem.out =
      static_cast<char*>(problem.out) + first * matrices * problem.n * problem.n * storage_bytes(problem.storage);
  return problem;
}

Input part_of(Input in, int64_t first, Storage storage) {
  if (in.data) in.data = static_cast<const char*>(in.data) + first * in.batch_stride * storage_bytes(storage);
  return in;
}

// run(LargeNewton of a part of the batch, its first matrix, how many it has)
template <class F>
void newton_by_parts(Fused op, const Problem& problem, int poles, void* workspace, void* blas, cudaStream_t stream,
                     F run) {
  const auto handle = static_cast<cublasHandle_t>(blas);
  const FullPrecision full_precision(handle);
  const int64_t chunk = large_chunk(op, problem.batch, problem.n, poles, element_bytes(problem.storage));
  for (int64_t first = 0; first < problem.batch; first += chunk) {
    Problem part = problem;
    part.batch = problem.batch - first < chunk ? problem.batch - first : chunk;
    if (problem.storage == Storage::float64) {
      DeviceLibrary<double> library(handle, stream);
      LargeNewton<double, DeviceLibrary<double>> newton(library, op, part, poles, workspace);
      run(newton, double(), first, part.batch);
    } else {
      DeviceLibrary<float> library(handle, stream);
      LargeNewton<float, DeviceLibrary<float>> newton(library, op, part, poles, workspace);
      run(newton, float(), first, part.batch);
    }
  }
}

}  // namespace

int64_t large_workspace(Fused op, int64_t batch, int64_t n, int degree, Storage storage) {
  const int bytes = element_bytes(storage);
  return large_workspace_bytes(op, large_chunk(op, batch, n, degree, bytes), n, degree, bytes);
}

void launch_large(Fused op, const Problem& problem, const Input (&inputs)[3], int degree, int iterations, bool inverse,
                  void* workspace, void* blas, cudaStream_t stream) {
  const auto handle = static_cast<cublasHandle_t>(blas);
  const FullPrecision full_precision(handle);
  const int64_t chunk = large_chunk(op, problem.batch, problem.n, degree, element_bytes(problem.storage));
  const LargeOp whole{op, problem, inputs[0], inputs[1], inputs[2], degree, iterations, inverse};
  in_parts(whole, chunk, [&](const LargeOp& part) {
    if (problem.storage == Storage::float64) {
      DeviceLibrary<double> library(handle, stream);
      Large<double, DeviceLibrary<double>>(library, part, workspace).run();
    } else {
      DeviceLibrary<float> library(handle, stream);
      Large<float, DeviceLibrary<float>>(library, part, workspace).run();
    }
  });
}

void launch_large_accurate_roots(const Problem& problem, const Input& a, bool root, bool inverse,
                                 const RootDesign& design, void* workspace, void* blas, cudaStream_t stream) {
  newton_by_parts(Fused::accurate_roots, problem, design.poles, workspace, blas, stream,
                  [&](auto& newton, auto element, int64_t first, int64_t count) {
                    newton.accurate_roots(accurate_roots_arguments<decltype(element)>(
                        part_of(problem, first, count, root && inverse ? 2 : 1), part_of(a, first, problem.storage),
                        root, inverse, design));
                  });
}

void launch_large_accurate_backward(const AccurateBackwardArguments& arguments, void* workspace, void* blas,
                                    cudaStream_t stream) {
  newton_by_parts(Fused::accurate_backward, arguments.problem, 1, workspace, blas, stream,
                  [&](auto& newton, auto, int64_t first, int64_t count) {
                    AccurateBackwardArguments part = arguments;
                    part.problem = part_of(arguments.problem, first, count);
                    for (Input* in : {&part.root, &part.inverse_root, &part.root_cotangent, &part.inverse_cotangent}) {
                      *in = part_of(*in, first, arguments.problem.storage);
                    }
                    newton.accurate_backward(part);
                  });
}

void launch_large_lyapunov_newton(const LyapunovNewtonArguments& arguments, void* workspace, void* blas,
                                  cudaStream_t stream) {
  newton_by_parts(Fused::lyapunov_newton, arguments.problem, 1, workspace, blas, stream,
                  [&](auto& newton, auto, int64_t first, int64_t count) {
                    LyapunovNewtonArguments part = arguments;
                    part.problem = part_of(arguments.problem, first, count);
                    part.b = part_of(arguments.b, first, arguments.problem.storage);
                    part.c = part_of(arguments.c, first, arguments.problem.storage);
                    newton.lyapunov_newton(part);
                  });
}

}  // namespace cuda
}  // namespace fastsqrtm

// The path for large matrices on the device: cuBLAS and cuSOLVER. No torch header.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/arguments.h"

namespace fastsqrtm {
namespace cuda {

// Bytes of workspace that launch_large wants.
int64_t large_workspace(Fused op, int64_t batch, int64_t n, int degree, Storage storage);

// `blas` is a cublasHandle_t that follows `stream`; `workspace` is aligned to 256 bytes.
void launch_large(Fused op, const Problem& problem, const Input (&inputs)[3], int degree, int iterations, bool inverse,
                  void* workspace, void* blas, cudaStream_t stream);

// The accurate methods; for the roots, large_workspace wants the number of poles of the design for `degree`.
void launch_large_accurate_roots(const Problem& problem, const Input& a, bool root, bool inverse,
                                 const RootDesign& design, void* workspace, void* blas, cudaStream_t stream);
void launch_large_accurate_backward(const AccurateBackwardArguments& arguments, void* workspace, void* blas,
                                    cudaStream_t stream);
void launch_large_lyapunov_newton(const LyapunovNewtonArguments& arguments, void* workspace, void* blas,
                                  cudaStream_t stream);

}  // namespace cuda
}  // namespace fastsqrtm

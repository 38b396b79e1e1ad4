// Starting the fused kernels: pointers, sizes, strides, stream. No torch header.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/arguments.h"
#include "cuda/plan.h"

namespace fastsqrtm {
namespace cuda {

// Throws std::runtime_error with the text of the CUDA error.
void check(cudaError_t error, const char* what);

// What the plan has to know of a device; asked once for each.
DeviceLimits device_limits(int device);

void launch_mpa(const Problem& problem, const Input& a, int degree, bool inverse, const FusedPlan& plan,
                cudaStream_t stream);
void launch_mtp(const Problem& problem, const Input& a, int degree, bool inverse, const FusedPlan& plan,
                cudaStream_t stream);
void launch_ns(const NewtonSchulzArguments& arguments, const FusedPlan& plan, cudaStream_t stream);
void launch_sqrtm_lya_backward(const SqrtmLyaBackwardArguments& arguments, const FusedPlan& plan, cudaStream_t stream);
void launch_inv_sqrtm_lya_backward(const InvSqrtmLyaBackwardArguments& arguments, const FusedPlan& plan,
                                   cudaStream_t stream);
void launch_lyapunov(const LyapunovArguments& arguments, const FusedPlan& plan, cudaStream_t stream);
// `kept`: batch x kept_elements in the type of the computation.
void launch_mpa_backward(const Problem& problem, const Input& a, const Input& cotangent, int degree, bool inverse,
                         void* kept, const FusedPlan& plan, cudaStream_t stream);
void launch_mtp_backward(const Problem& problem, const Input& a, const Input& cotangent, int degree, bool inverse,
                         void* kept, const FusedPlan& plan, cudaStream_t stream);
void launch_ns_backward(const NewtonSchulzBackwardArguments& arguments, const FusedPlan& plan, cudaStream_t stream);
void launch_accurate_roots(const Problem& problem, const Input& a, bool root, bool inverse, const RootDesign& design,
                           const FusedPlan& plan, cudaStream_t stream);
void launch_accurate_backward(const AccurateBackwardArguments& arguments, const FusedPlan& plan, cudaStream_t stream);
void launch_lyapunov_newton(const LyapunovNewtonArguments& arguments, const FusedPlan& plan, cudaStream_t stream);

}  // namespace cuda
}  // namespace fastsqrtm

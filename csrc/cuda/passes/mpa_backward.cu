#include "cuda/launch.cuh"

namespace fastsqrtm {
namespace cuda {

void launch_mpa_backward(const Problem& problem, const Input& a, const Input& cotangent, int degree, bool inverse,
                         void* kept, const FusedPlan& plan, cudaStream_t stream) {
  if (problem.storage == Storage::float64) {
    const auto series = mpa_arguments<double>(problem, a, degree, inverse, plan);
    launch_fused<double>(mpa_backward_kernel_of<double>(plan.variant, VariantIndices<double>()),
                         MpaBackwardArguments<double>{series, cotangent, static_cast<double*>(kept)}, plan, stream);
  } else {
    const auto series = mpa_arguments<float>(problem, a, degree, inverse, plan);
    launch_fused<float>(mpa_backward_kernel_of<float>(plan.variant, VariantIndices<float>()),
                        MpaBackwardArguments<float>{series, cotangent, static_cast<float*>(kept)}, plan, stream);
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

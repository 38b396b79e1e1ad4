#include "cuda/launch.cuh"

namespace fastsqrtm {
namespace cuda {

void launch_mtp_backward(const Problem& problem, const Input& a, const Input& cotangent, int degree, bool inverse,
                         void* kept, const FusedPlan& plan, cudaStream_t stream) {
  if (problem.storage == Storage::float64) {
    const auto series = mtp_arguments<double>(problem, a, degree, inverse);
    launch_fused<double>(mtp_backward_kernel_of<double>(plan.variant, VariantIndices<double>()),
                         MtpBackwardArguments<double>{series, cotangent, static_cast<double*>(kept)}, plan, stream);
  } else {
    const auto series = mtp_arguments<float>(problem, a, degree, inverse);
    launch_fused<float>(mtp_backward_kernel_of<float>(plan.variant, VariantIndices<float>()),
                        MtpBackwardArguments<float>{series, cotangent, static_cast<float*>(kept)}, plan, stream);
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

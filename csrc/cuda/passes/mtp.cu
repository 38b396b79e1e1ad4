#include "cuda/launch.cuh"

namespace fastsqrtm {
namespace cuda {

void launch_mtp(const Problem& problem, const Input& a, int degree, bool inverse, const FusedPlan& plan,
                cudaStream_t stream) {
  if (problem.storage == Storage::float64) {
    launch_fused<double>(mtp_kernel_of<double>(plan.variant, VariantIndices<double>()),
                         mtp_arguments<double>(problem, a, degree, inverse), plan, stream);
  } else {
    launch_fused<float>(mtp_kernel_of<float>(plan.variant, VariantIndices<float>()),
                        mtp_arguments<float>(problem, a, degree, inverse), plan, stream);
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

#include "cuda/launch.cuh"

namespace fastsqrtm {
namespace cuda {

void launch_mpa(const Problem& problem, const Input& a, int degree, bool inverse, const FusedPlan& plan,
                cudaStream_t stream) {
  if (problem.storage == Storage::float64) {
    launch_fused<double>(mpa_kernel_of<double>(plan.variant, VariantIndices<double>()),
                         mpa_arguments<double>(problem, a, degree, inverse, plan), plan, stream);
  } else {
    launch_fused<float>(mpa_kernel_of<float>(plan.variant, VariantIndices<float>()),
                        mpa_arguments<float>(problem, a, degree, inverse, plan), plan, stream);
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

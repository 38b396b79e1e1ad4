#include "cuda/launch.cuh"

namespace fastsqrtm {
namespace cuda {

void launch_inv_sqrtm_lya_backward(const InvSqrtmLyaBackwardArguments& arguments, const FusedPlan& plan,
                                   cudaStream_t stream) {
  if (arguments.problem.storage == Storage::float64) {
    launch_fused<double>(inv_sqrtm_lya_backward_kernel_of<double>(plan.variant, VariantIndices<double>()), arguments,
                         plan, stream);
  } else {
    launch_fused<float>(inv_sqrtm_lya_backward_kernel_of<float>(plan.variant, VariantIndices<float>()), arguments, plan,
                        stream);
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

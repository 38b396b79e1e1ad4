#include "cuda/launch.cuh"

namespace fastsqrtm {
namespace cuda {

void launch_accurate_backward(const AccurateBackwardArguments& arguments, const FusedPlan& plan, cudaStream_t stream) {
  if (arguments.problem.storage == Storage::float64) {
    launch_fused<double>(accurate_backward_kernel_of<double>(plan.variant, VariantIndices<double>()), arguments, plan,
                         stream);
  } else {
    launch_fused<float>(accurate_backward_kernel_of<float>(plan.variant, VariantIndices<float>()), arguments, plan,
                        stream);
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

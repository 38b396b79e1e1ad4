#include "cuda/launch.cuh"

namespace fastsqrtm {
namespace cuda {

void launch_ns_backward(const NewtonSchulzBackwardArguments& arguments, const FusedPlan& plan, cudaStream_t stream) {
  if (arguments.steps.problem.storage == Storage::float64) {
    launch_fused<double>(ns_backward_kernel_of<double>(plan.variant, VariantIndices<double>()), arguments, plan,
                         stream);
  } else {
    launch_fused<float>(ns_backward_kernel_of<float>(plan.variant, VariantIndices<float>()), arguments, plan, stream);
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

#include "cuda/launch.cuh"

namespace fastsqrtm {
namespace cuda {

void launch_accurate_roots(const Problem& problem, const Input& a, bool root, bool inverse, const RootDesign& design,
                           const FusedPlan& plan, cudaStream_t stream) {
  if (problem.storage == Storage::float64) {
    launch_fused<double>(accurate_roots_kernel_of<double>(plan.variant, VariantIndices<double>()),
                         accurate_roots_arguments<double>(problem, a, root, inverse, design, plan.groups), plan,
                         stream);
  } else {
    launch_fused<float>(accurate_roots_kernel_of<float>(plan.variant, VariantIndices<float>()),
                        accurate_roots_arguments<float>(problem, a, root, inverse, design, plan.groups), plan, stream);
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

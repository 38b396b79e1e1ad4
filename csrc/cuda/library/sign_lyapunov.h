// The Lyapunov iteration of steps/sign_lyapunov.cuh on the path for large matrices, for the gradients of the paper.
#pragma once

#include <utility>

#include "cuda/library/large.h"

namespace fastsqrtm {
namespace cuda {

// Returns a pointer to C after the iterations from b and c, both symmetric and scaled. The other three are workspace.
template <class Large, typename T>
T* symmetric_iterations(Large& large, int iterations, T* b, T* c, T* first, T* second, T* third) {
  for (int k = 0; k < iterations; ++k) {
    large.gemm(1, c, b, 0, first);
    large.tiles(&transpose_minus_half_kernel<T>, second, first, large.n);
    large.gemm(1, b, second, 0, first);
    large.tiles(&symmetric_step_kernel<T>, c, first, second, large.n);
    if (k + 1 == iterations) break;
    large.gemm(T(-0.5), b, b, 1, second);
    large.gemm(1, b, second, 0, third);
    std::swap(b, third);
  }
  return c;
}

}  // namespace cuda
}  // namespace fastsqrtm

// The exact gradients of steps/derivative.cuh on the path for large matrices: the end of MpaBackward, MtpBackward and
// NsBackward.
#pragma once

#include "cuda/library/large.h"

namespace fastsqrtm {
namespace cuda {

// The arguments of finish_gradient for one term of weight 0 a matrix.
template <class Large, typename T>
ExactGradient<T> gradient_of(Large& large, void* out, bool inverse, const T* x, const T* g, const T* derivative,
                             const T* terms, T sign) {
  T* partial = large.template take<T>(large.batch * large_tiles(large.n));
  return {large.problem(), out,  x,    g,  derivative, terms, large.norms(), nullptr, partial, 1, 1, 1,
          inverse,         sign, T(0), {}, {},         true};
}

template <class Large, typename T>
void finish_gradient(Large& large, const ExactGradient<T>& gradient) {
  large.tiles(&radial_kernel<T>, gradient);
  large.tiles(&exact_gradient_kernel<T>, gradient);
}

}  // namespace cuda
}  // namespace fastsqrtm

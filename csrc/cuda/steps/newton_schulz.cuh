// What the kernels of the Newton-Schulz iteration share. Y <- Y P, M <- M P^2, P = (3 I - M)/2, from M = X and Y = X
// for the root, Y = I for the inverse root. Two steps at once have, with E = I - M,
//   P = E^2 H - M/2 + 3/2 I,   H = E^2/16 - 5/16 M + 11/16 I;
// an odd number of steps starts with a single one. All matrices are functions of X: products commute and are symmetric.
// Counterpart on the CPU: csrc/cpu/steps/newton_schulz.h.
#pragma once

#include "cuda/tile/norm.cuh"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace cuda {

// H of two steps without its part of I. Linear: of derivatives it is the same.
template <typename T>
__device__ __forceinline__ T two_steps_factor(T squared, T m) {
  return T(1. / 16) * squared - T(5. / 16) * m;
}
constexpr double two_steps_identity = 11. / 16;

// Takes M in f to E. Whether M is so close to I that two steps more leave nothing to do, or NaN: a matrix stops there.
template <class V, int split, typename T>
__device__ __forceinline__ bool take_from_identity(Fragment<V, split>& f, const Owner<V, split>& owner, int n,
                                                   T* scratch) {
  f.apply([](T m) { return -m; });
  add_identity(f, owner, n, T(1));
  return !(team_sum<V>(sum_of_squares(f, T(1)), scratch) > machine_epsilon<T>());
}

}  // namespace cuda
}  // namespace fastsqrtm

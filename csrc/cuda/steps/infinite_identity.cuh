// The test of InvSqrtmLyaBackward and RootsBackward for an input that is the inverse root of the zero matrix, whose
// gradient is 0 by definition.
#pragma once

#include "cuda/tile/norm.cuh"

namespace fastsqrtm {
namespace cuda {

// True if the matrix is infinite on the diagonal and 0 elsewhere. `scratch` is free again after a norm, whose second
// reduction uses the other half.
template <class V, int split, typename T>
__device__ __forceinline__ bool is_infinite_identity(Fragment<V, split>& f, const Owner<V, split>& owner, int n,
                                                     T* scratch) {
  bool other = f.any_under();
#pragma unroll
  for (int c = 0; c < V::tile; ++c) {
    const bool on_diagonal = c == owner.row && owner.diagonal_row() < n;
    other = other || !(f.diagonal[c] == (on_diagonal ? infinity<T>() : T(0)));
  }
  return reduce_team<V>(other ? T(1) : T(0), scratch, [](T a, T b) { return max_or_nan(a, b); }) == T(0);
}

}  // namespace cuda
}  // namespace fastsqrtm

// What the exact gradients of MPA, MTP and Newton-Schulz share. With L the Frechet derivative of the series r at X = A/nu, applied to
// the cotangent G, and <.,.> the sum of products of entries:
//   root     (L + X (<G, r>/2 - <L, X>)) / sqrt(nu)          inverse root   (L - X (<G, r>/2 + <L, X>)) / sqrt(nu)^3
// Counterpart on the CPU: csrc/cpu/steps/series.h.
#pragma once

#include <type_traits>

#include "cuda/tile/norm.cuh"

namespace fastsqrtm {
namespace cuda {

// A symmetric matrix that waits for its next use in registers, with the interface of Triangle.
template <class V, int split>
struct InRegisters {
  using T = typename V::scalar;
  Fragment<V, split> values;

  explicit __device__ __forceinline__ InRegisters(T*) {}
  __device__ __forceinline__ void store(const Fragment<V, split>& fragment) { values = fragment; }
  template <class F>
  __device__ __forceinline__ void combine_into(Fragment<V, split>& fragment, F f) const {
    fragment.combine(values, f);
  }
};

template <class V, int split, bool in_memory>
using Held = std::conditional_t<in_memory, Triangle<V, split>, InRegisters<V, split>>;

// This lane's part of <a, b + diagonal I>. An element under the diagonal stands for two.
template <class V, int split, typename T>
__device__ __forceinline__ T inner_product(const Fragment<V, split>& a, const Fragment<V, split>& b, T diagonal,
                                           const Owner<V, split>& owner) {
  T under = 0, on_diagonal = 0;
#pragma unroll
  for (int r = 0; r < a.rows; ++r) {
#pragma unroll
    for (int c = 0; c < V::tile; ++c) under += a.under[r][c] * b.under[r][c];
  }
#pragma unroll
  for (int c = 0; c < V::tile; ++c) {
    on_diagonal += a.diagonal[c] * (b.diagonal[c] + (c == owner.row ? diagonal : T(0)));
  }
  return T(2) * under + on_diagonal;
}

// Turns L into the gradient; `radial` is this lane's part of what X is multiplied by, `scale` 1 / sqrt(nu), or 0 for
// the zero matrix. The powers of nu come last, where they overflow only if the gradient does.
template <class V, int split, typename T>
__device__ __forceinline__ void finish_gradient(Fragment<V, split>& l, const Fragment<V, split>& x, T radial, T scale,
                                                bool inverse, T* scratch) {
  radial = reduce_team<V>(radial, scratch, [](T a, T b) { return a + b; });
  l.combine(x, [radial](T value, T direction) { return value + radial * direction; });
  for (int power = inverse ? 3 : 1; power > 0; --power) l.apply([scale](T value) { return value * scale; });
  if (scale == T(0)) l.apply([](T) { return T(0); });
}

}  // namespace cuda
}  // namespace fastsqrtm

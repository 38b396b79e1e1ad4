// The Lyapunov iteration B X + X B = C for symmetric B and symmetric (sign 1) or skew (sign -1) C in shared memory:
//   U~ = C^T B,  W = U~^T - sign/2 U~,  V = B W,  C <- (3 C - (V + sign V^T)) / 2,  M = B^2,  B <- (3 B - B M) / 2.
// V + sign V^T is B^2 C - B C B + C B^2, so a step costs three products of n^3 multiply-adds instead of six.
// Three matrices are enough: U~, W and M share one, and every product stays in registers until its place is free.
#pragma once

#include "cuda/tile/product.cuh"

namespace fastsqrtm {
namespace cuda {

// matrix <- matrix^T - sign/2 matrix. Every lane exchanges its own pairs of elements.
template <class V, int split, typename T>
__device__ __forceinline__ void transpose_minus_half(T* matrix, T sign, const Owner<V, split>& owner) {
  using L = Layout<V>;
  constexpr int rows = Owner<V, split>::rows;
  const T half = T(0.5) * sign;
  if (owner.i < V::tiles) {
    T own[rows][V::tile];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      L::load(matrix + (owner.first_row() + r) * V::padded, L::rotate(owner.j, owner.i), 0, own[r]);
    }
#pragma unroll
    for (int c = 0; c < V::tile; ++c) {
      T* row = matrix + (owner.j * V::tile + c) * V::padded;
      T mirrored[rows], replaced[rows];
      L::load(row, L::rotate(owner.i, owner.j), owner.slice * rows, mirrored);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        replaced[r] = own[r][c] - half * mirrored[r];
        own[r][c] = mirrored[r] - half * own[r][c];
      }
      L::store(row, L::rotate(owner.i, owner.j), owner.slice * rows, replaced);
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      L::store(matrix + (owner.first_row() + r) * V::padded, L::rotate(owner.j, owner.i), 0, own[r]);
    }
  }
  if (owner.has_diagonal()) {
    T own[V::tile] = {};
    if (owner.d < V::tiles) {
      L::load(matrix + owner.diagonal_row() * V::padded, L::rotate(owner.d, owner.d), 0, own);
#pragma unroll
      for (int c = 0; c < V::tile; ++c) {
        own[c] = matrix[L::at(owner.d * V::tile + c, owner.diagonal_row())] - half * own[c];
      }
    }
    // The lanes of a diagonal tile read each other's rows; they share a warp.
    __syncwarp();
    if (owner.d < V::tiles) {
      L::store(matrix + owner.diagonal_row() * V::padded, L::rotate(owner.d, owner.d), 0, own);
    }
  }
}

// On entry b and c hold B and C, scaled, and every lane's writes are behind a barrier. On return x = C / 2 in
// registers; b, c and work are free after the next barrier.
template <class V, int split, typename T>
__device__ __forceinline__ void solve_lyapunov(T* b, T* c, T* work, T sign, int iterations, int used_tiles,
                                               const Owner<V, split>& owner, Fragment<V, split>& x) {
  for (int iteration = 0; iteration < iterations; ++iteration) {
    {
      FullProduct<V> u;
      u.multiply(c, b, used_tiles);
      u.write(work);
    }
    sync_team<V>();
    transpose_minus_half(work, sign, owner);
    FASTSQRTM_SEEDED_SYNC(sync_team<V>());
    product_plus_transpose(b, work, sign, used_tiles, owner, x);
    Fragment<V, split> other;
    read(c, owner, other);
    x.combine(other, [](T delta, T old) { return T(1.5) * old - T(0.5) * delta; });
    if (iteration + 1 == iterations) break;  // the last step needs no new B, and C stays in registers
    write(c, owner, x, sign);
    symmetric_product(b, b, used_tiles, owner, other);
    sync_team<V>();
    write(work, owner, other, T(1));
    sync_team<V>();
    symmetric_product(b, work, used_tiles, owner, other);
    sync_team<V>();
    Fragment<V, split> old;
    read(b, owner, old);
    other.combine(old, [](T bm, T value) { return T(1.5) * value - T(0.5) * bm; });
    write(b, owner, other, T(1));
    sync_team<V>();
  }
  if (iterations == 0) read(c, owner, x);
  x.apply([](T value) { return T(0.5) * value; });
}

}  // namespace cuda
}  // namespace fastsqrtm

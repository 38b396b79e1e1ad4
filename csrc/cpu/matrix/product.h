// C = A B for symmetric A, both in panel layout: register tiles over blocks of k that keep the right operand in L1.
#pragma once

#include "cpu/matrix/panel.h"
#include "cpu/matrix/team.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// tile_rows x vectors accumulators.
template <class T, int vectors>
struct Tile {
  static constexpr int tile_rows = Simd<T>::tile_rows, lanes = Simd<T>::lanes;
  Vector<T> sum[tile_rows][vectors];

  void clear() {
    for (int r = 0; r < tile_rows; ++r)
      for (int v = 0; v < vectors; ++v) sum[r][v] = Vector<T>{};
  }

  void load(const T* c, int stride) {
    for (int r = 0; r < tile_rows; ++r)
      for (int v = 0; v < vectors; ++v) sum[r][v] = FASTSQRTM_ISA::load(c + r * stride + v * lanes);
  }

  void add(const T* c, int stride) {
    for (int r = 0; r < tile_rows; ++r)
      for (int v = 0; v < vectors; ++v) sum[r][v] += FASTSQRTM_ISA::load(c + r * stride + v * lanes);
  }

  void store(T* c, int stride) const {
    for (int r = 0; r < tile_rows; ++r)
      for (int v = 0; v < vectors; ++v) FASTSQRTM_ISA::store(c + r * stride + v * lanes, sum[r][v]);
  }

  // sum(r, :) += sign * sum_k a[k][r] b[k][:]. The r of the left operand are neighbours, or `r_stride` apart.
  template <int sign = 1, int r_stride = 1>
  void multiply(const T* a, int a_stride, const T* b, int b_stride, int k_count) {
    for (int k = 0; k < k_count; ++k) {
      Vector<T> right[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) right[v] = FASTSQRTM_ISA::load(b + v * lanes);
#pragma GCC unroll 8
      for (int r = 0; r < tile_rows; ++r) {
        const Vector<T> left = broadcast(a[r * r_stride]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
          if constexpr (sign > 0)
            sum[r][v] += left * right[v];
          else
            sum[r][v] -= left * right[v];
        }
      }
      a += a_stride;
      b += b_stride;
    }
  }
};

enum class Triangle { full, lower };

template <class T, int vectors>
inline void product_tile(const Panels<T>& A, const Panels<T>& B, const Panels<T>& C, int i, int j, int k0, int k1,
                         bool add) {
  Tile<T, vectors> tile;
  tile.clear();
  tile.multiply(A.at(k0, i), A.width, B.at(k0, j), B.width, k1 - k0);
  if (add) tile.add(C.at(i, j), C.width);  // at the end: a short sum rounds less than a long one
  tile.store(C.at(i, j), C.width);
}

// C = A B, or C + A B. Triangle::lower computes the blocks on and under the diagonal; mirror() in symmetric.h completes
// the matrix.
template <class T>
void product(const Team& team, Triangle triangle, const Panels<T>& A, const Panels<T>& B, const Panels<T>& C,
             bool add = false) {
  using S = Simd<T>;
  constexpr int k_block_bytes = 24 * 1024;  // of the right operand: half of a 48 KB L1, three quarters of a 32 KB one
  const int n = C.n;
  const int k_blocks =
      (n + k_block_bytes / int(S::panel * sizeof(T)) - 1) / (k_block_bytes / int(S::panel * sizeof(T)));
  const int k_step = (n + k_blocks - 1) / k_blocks;
  team.each([&](int member) {
    for (int k0 = 0; k0 < n; k0 += k_step) {
      const int k1 = k0 + k_step < n ? k0 + k_step : n;
      for (int p = member; p < C.panels(); p = team.next(p)) {
        const int j = p * S::panel;
        const bool one_vector = n - j <= S::lanes;
        for (int i = triangle == Triangle::lower ? j : 0; i < n; i += S::tile_rows) {
          if (one_vector || (triangle == Triangle::lower && i < j + S::lanes))
            product_tile<T, 1>(A, B, C, i, j, k0, k1, add || k0 > 0);
          else
            product_tile<T, 2>(A, B, C, i, j, k0, k1, add || k0 > 0);
        }
      }
    }
  });
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

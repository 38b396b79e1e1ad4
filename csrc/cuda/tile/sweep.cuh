// The symmetric sweep (Gauss-Jordan on one triangle) of I + H, blocked, with H in the registers of a team.
//
// For a pivot block q with columns C = H(:, q) and pivot D = I + H(q, q):
//   H(i, j) -= C_i D^-1 C_j^T  for i, j != q,     H(i, q) = C_i D^-1,     H(q, q) = swept pivot.
// A block not yet swept is stored without the identity, so the pivots 1 + h lose nothing. The swept pivot has two
// forms: plain, -D^-1, which ends with -(I + H)^-1; and implicit, I - D^-1 with its diagonal computed as h/d instead of
// 1 - 1/d, which ends with H (I + H)^-1 without a subtraction. The sweep of H itself, sweep_own, has the identity in
// the padding alone.
//
// D^-1 costs its condition number in accuracy, which the shifts of mpa keep small. Elsewhere it is `factored`: with the
// Cholesky factor L of D and G = C L^-T the update is H(i, j) -= G_i G_j^T, and F = G L^-1.
//
// Only the panels C, or G in its place, and F = C D^-1 go through shared memory, `tile` columns wide. The lanes of the
// next pivot tile invert it by shuffles while the other warps still update their tiles, so a pivot block costs two
// barriers.
#pragma once

#include "cuda/tile/fragment.cuh"

namespace fastsqrtm {
namespace cuda {

// Panels are stored by columns, each laid out like an unrotated matrix row.
template <class V>
struct Panels {
  using T = typename V::scalar;
  T* columns;  // C: two buffers of tile x padded; while one is read, the next panel goes to the other
  T* solved;   // F: tile x padded
  T* inverse;  // D^-1: tile x tile; factored: row k has L(i, k) for i > k, and 1 / L(k, k)

  explicit __device__ __forceinline__ Panels(T* shared)
      : columns(shared), solved(shared + 2 * V::tile * V::padded), inverse(shared + 3 * V::tile * V::padded) {}
  __device__ __forceinline__ T* column(int q, int k) const { return columns + ((q & 1) * V::tile + k) * V::padded; }
};

// The owners of block column q write it to the panel.
template <class V, int split>
__device__ __forceinline__ void publish_panel(const Fragment<V, split>& h, const Owner<V, split>& owner, int q,
                                              const Panels<V>& panels) {
  using T = typename V::scalar;
  using L = Layout<V>;
  if (owner.i >= V::tiles) return;
  if (owner.j == q) {
#pragma unroll
    for (int k = 0; k < V::tile; ++k) {
      T column[h.rows];
#pragma unroll
      for (int r = 0; r < h.rows; ++r) column[r] = h.under[r][k];
      L::store(panels.column(q, k), owner.i, owner.slice * h.rows, column);
    }
  } else if (owner.i == q) {
#pragma unroll
    for (int r = 0; r < h.rows; ++r) {
      L::store(panels.column(q, owner.slice * h.rows + r), owner.j, 0, h.under[r]);
    }
  }
}

// Inverts pivot tile q, one row per lane; the warp that holds it runs this as a whole. A pivot that is not positive
// becomes NaN and with it, through D^-1, the whole matrix. Rows from `identity_from` on have the identity. Returns the
// pivot of this lane's row, and 1 where the tile is not its own.
template <bool factored, class V, int split>
__device__ __forceinline__ typename V::scalar sweep_pivot(Fragment<V, split>& h, const Owner<V, split>& owner, int q,
                                                          bool implicit, int identity_from, const Panels<V>& panels) {
  using T = typename V::scalar;
  constexpr int stride = TileLane<V, V::tile>::stride;
  if (!owner.in_warp_of(q)) return T(1);
  const int first_lane = static_cast<int>(threadIdx.x) % V::width % stride;
  T v[V::tile];
#pragma unroll
  for (int c = 0; c < V::tile; ++c) v[c] = h.diagonal[c];
  T implicit_diagonal = 0, own_pivot = 1;
#pragma unroll
  for (int k = 0; k < V::tile; ++k) {
    T pivot_row[V::tile];
#pragma unroll
    for (int c = 0; c < V::tile; ++c) {
      pivot_row[c] = __shfl_sync(all_lanes, v[c], first_lane + k * stride, V::width);
    }
    const T pivot = (q * V::tile + k >= identity_from ? T(1) : T(0)) + pivot_row[k];
    const T inverse = pivot > T(0) ? reciprocal(pivot) : not_a_number<T>();
    const T factor = v[k] * inverse;
    const bool is_pivot = owner.row == k;
    if (is_pivot) own_pivot = pivot > T(0) ? pivot : not_a_number<T>();
    if constexpr (factored) {
      const T root = square_root(inverse);
      if (owner.d == q && owner.row >= k) panels.inverse[k * V::tile + owner.row] = is_pivot ? root : v[k] * root;
    }
    implicit_diagonal = is_pivot ? factor : implicit_diagonal - factor * v[k];
#pragma unroll
    for (int c = 0; c < V::tile; ++c) {
      if (c != k) v[c] = is_pivot ? v[c] * inverse : v[c] - factor * pivot_row[c];
    }
    v[k] = is_pivot ? -inverse : factor;
  }
  if (owner.d != q) return T(1);
#pragma unroll
  for (int c = 0; c < V::tile; ++c) {
    if constexpr (!factored) panels.inverse[owner.row * V::tile + c] = -v[c];
    h.diagonal[c] = implicit && c == owner.row ? implicit_diagonal : v[c];
  }
  return own_pivot;
}

// F = C D^-1. The order of the rows is that of the panel; rows of block q hold nothing and are never used.
template <class V>
__device__ __forceinline__ void solve_panel(int q, const Panels<V>& panels) {
  using T = typename V::scalar;
  constexpr int vec = Layout<V>::vec;
  for (int item = threadIdx.x; item < V::padded * (V::tile / vec); item += V::threads) {
    const int row = item % V::padded;
    const int first = item / V::padded * vec;
    T sum[vec] = {};
#pragma unroll
    for (int k = 0; k < V::tile; ++k) {
      const T c = panels.column(q, k)[row];
      const auto inverse = *reinterpret_cast<const Pack<T, vec>*>(panels.inverse + k * V::tile + first);
#pragma unroll
      for (int e = 0; e < vec; ++e) sum[e] += c * inverse.value[e];
    }
#pragma unroll
    for (int e = 0; e < vec; ++e) panels.solved[(first + e) * V::padded + row] = sum[e];
  }
}

// C <- G = C L^-T and F = G L^-1, one row a lane.
template <class V>
__device__ __forceinline__ void solve_panel_factored(int q, const Panels<V>& panels) {
  using T = typename V::scalar;
  constexpr int vec = Layout<V>::vec;
  static_assert(V::padded <= V::threads, "a lane for every row");
  const int row = threadIdx.x;
  if (row >= V::padded) return;
  const auto load_factor = [&panels](int k, T(&factor)[V::tile]) {
#pragma unroll
    for (int first = 0; first < V::tile; first += vec) {
      const auto pack = *reinterpret_cast<const Pack<T, vec>*>(panels.inverse + k * V::tile + first);
#pragma unroll
      for (int e = 0; e < vec; ++e) factor[first + e] = pack.value[e];
    }
  };
  T g[V::tile], factor[V::tile];
#pragma unroll
  for (int k = 0; k < V::tile; ++k) g[k] = panels.column(q, k)[row];
#pragma unroll
  for (int k = 0; k < V::tile; ++k) {
    load_factor(k, factor);
    g[k] *= factor[k];
    panels.column(q, k)[row] = g[k];
#pragma unroll
    for (int i = k + 1; i < V::tile; ++i) g[i] -= factor[i] * g[k];
  }
#pragma unroll
  for (int k = V::tile - 1; k >= 0; --k) {
    load_factor(k, factor);
#pragma unroll
    for (int i = k + 1; i < V::tile; ++i) g[k] -= factor[i] * g[i];
    g[k] *= factor[k];
    panels.solved[k * V::padded + row] = g[k];
  }
}

template <bool factored, class V, int split>
__device__ __forceinline__ void update_tiles(Fragment<V, split>& h, const Owner<V, split>& owner, int q, int used_tiles,
                                             const Panels<V>& panels) {
  using T = typename V::scalar;
  using L = Layout<V>;
  if (owner.i < used_tiles) {
    if (owner.j == q) {
#pragma unroll
      for (int k = 0; k < V::tile; ++k) {
        T column[h.rows];
        L::load(panels.solved + k * V::padded, owner.i, owner.slice * h.rows, column);
#pragma unroll
        for (int r = 0; r < h.rows; ++r) h.under[r][k] = column[r];
      }
    } else if (owner.i == q) {
#pragma unroll
      for (int r = 0; r < h.rows; ++r) {
        L::load(panels.solved + (owner.slice * h.rows + r) * V::padded, owner.j, 0, h.under[r]);
      }
    } else {
#pragma unroll 2
      for (int k = 0; k < V::tile; ++k) {
        T left[h.rows], right[V::tile];
        L::load(factored ? panels.column(q, k) : panels.solved + k * V::padded, owner.i, owner.slice * h.rows, left);
        L::load(panels.column(q, k), owner.j, 0, right);
#pragma unroll
        for (int r = 0; r < h.rows; ++r) {
#pragma unroll
          for (int c = 0; c < V::tile; ++c) h.under[r][c] -= left[r] * right[c];
        }
      }
    }
  }
  if (owner.d < used_tiles && owner.d != q) {
#pragma unroll 2
    for (int k = 0; k < V::tile; ++k) {
      T left[1], right[V::tile];
      L::load(factored ? panels.column(q, k) : panels.solved + k * V::padded, owner.d, owner.row, left);
      L::load(panels.column(q, k), owner.d, 0, right);
#pragma unroll
      for (int c = 0; c < V::tile; ++c) h.diagonal[c] -= left[0] * right[c];
    }
  }
}

// Returns the pivot of this lane's row on the diagonal, and 1 where it has none: the determinant is their product.
template <bool factored, class V, int split>
__device__ __forceinline__ typename V::scalar sweep_from(Fragment<V, split>& h, const Owner<V, split>& owner,
                                                         int used_tiles, bool implicit, int identity_from,
                                                         const Panels<V>& panels) {
  publish_panel(h, owner, 0, panels);
  typename V::scalar pivot = sweep_pivot<factored>(h, owner, 0, implicit, identity_from, panels);
  sync_team<V>();
  for (int q = 0; q < used_tiles; ++q) {
    if constexpr (factored) {
      solve_panel_factored(q, panels);
    } else {
      solve_panel(q, panels);
    }
    FASTSQRTM_SEEDED_SYNC(sync_team<V>());
    update_tiles<factored>(h, owner, q, used_tiles, panels);
    if (q + 1 < used_tiles) {
      publish_panel(h, owner, q + 1, panels);
      pivot *= sweep_pivot<factored>(h, owner, q + 1, implicit, identity_from, panels);
    }
    sync_team<V>();
  }
  return pivot;
}

// Sweeps all `used_tiles` pivot blocks of I + H. Tiles past them are left alone.
template <bool factored = false, class V, int split>
__device__ __forceinline__ void sweep(Fragment<V, split>& h, const Owner<V, split>& owner, int used_tiles,
                                      bool implicit, const Panels<V>& panels) {
  sweep_from<factored>(h, owner, used_tiles, implicit, 0, panels);
}

// Zero on the diagonal past row n, where a sweep leaves -1.
template <class V, int split>
__device__ __forceinline__ void clear_padding(Fragment<V, split>& h, const Owner<V, split>& owner, int n) {
#pragma unroll
  for (int c = 0; c < V::tile; ++c) {
    if (c == owner.row && owner.diagonal_row() >= n) h.diagonal[c] = 0;
  }
}

// H <- -H^-1 for the n x n matrix H. Returns the same as sweep_from.
template <class V, int split>
__device__ __forceinline__ typename V::scalar sweep_own(Fragment<V, split>& h, const Owner<V, split>& owner, int n,
                                                        int used_tiles, const Panels<V>& panels) {
  const typename V::scalar pivot = sweep_from<true>(h, owner, used_tiles, false, n, panels);
  clear_padding(h, owner, n);
  return pivot;
}

}  // namespace cuda
}  // namespace fastsqrtm

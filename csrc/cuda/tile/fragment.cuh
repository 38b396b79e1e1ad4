// A symmetric (or skew) matrix spread over the registers of a team: every lane owns some rows of one tile under the
// diagonal and one row of one tile on the diagonal.
#pragma once

#include "cuda/plan.h"
#include "cuda/tile/layout.cuh"

namespace fastsqrtm {
namespace cuda {

// The lanes that share a tile are spaced so that neighbouring lanes work on neighbouring tiles: a shared-memory request
// is served eight lanes at a time, and those then read the same row.
template <class V, int split>
struct TileLane {
  static constexpr int stride = V::width / split;
  static __device__ __forceinline__ int tile(int lane) { return lane / V::width * stride + lane % stride; }
  static __device__ __forceinline__ int slice(int lane) { return lane % V::width / stride; }
};

// The tiles of this lane. A lane without one has row V::tiles, past every tile in use.
template <class V, int split_>
struct Owner {
  static constexpr int split = split_;
  static constexpr int rows = V::tile / split;  // of a tile under the diagonal, per lane
  static constexpr int lanes_under = V::shape.lanes_under_diagonal(split);

  int i = V::tiles, j = 0, slice = 0;  // tile under the diagonal, j < i, and this lane's share of its rows
  int d = V::tiles, row = 0;           // tile on the diagonal and this lane's row of it

  explicit __device__ __forceinline__ Owner(int lane = threadIdx.x) {
    slice = TileLane<V, split>::slice(lane);
    int index = TileLane<V, split>::tile(lane);
    if (index < V::shape.tiles_under_diagonal()) {
      for (i = 1; index >= i; ++i) index -= i;
      j = index;
    }
    if (has_diagonal()) {
      const int on_diagonal = lane - V::first_on_diagonal;
      row = TileLane<V, V::tile>::slice(on_diagonal);
      const int tile = TileLane<V, V::tile>::tile(on_diagonal);
      d = tile < V::tiles ? tile : V::tiles;
    }
  }

  // The same for all lanes of a warp.
  static __device__ __forceinline__ bool has_under() {
    return lanes_under == V::threads || static_cast<int>(threadIdx.x) < lanes_under;
  }
  static __device__ __forceinline__ bool has_diagonal() {
    return V::first_on_diagonal == 0 || static_cast<int>(threadIdx.x) >= V::first_on_diagonal;
  }
  // True if the warp of this lane holds diagonal tile t.
  static __device__ __forceinline__ bool in_warp_of(int t) {
    return static_cast<int>(threadIdx.x) / V::width ==
           V::first_on_diagonal / V::width + t / TileLane<V, V::tile>::stride;
  }

  __device__ __forceinline__ int first_row() const { return i * V::tile + slice * rows; }
  __device__ __forceinline__ int diagonal_row() const { return d * V::tile + row; }
};

template <class V, int split>
struct Fragment {
  using T = typename V::scalar;
  static constexpr int rows = V::tile / split;
  T under[rows][V::tile];
  T diagonal[V::tile];

  template <class F>
  __device__ __forceinline__ void apply(F f) {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
#pragma unroll
      for (int c = 0; c < V::tile; ++c) under[r][c] = f(under[r][c]);
    }
#pragma unroll
    for (int c = 0; c < V::tile; ++c) diagonal[c] = f(diagonal[c]);
  }

  // f(own element, the same element of the other)
  template <class F>
  __device__ __forceinline__ void combine(const Fragment& other, F f) {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
#pragma unroll
      for (int c = 0; c < V::tile; ++c) under[r][c] = f(under[r][c], other.under[r][c]);
    }
#pragma unroll
    for (int c = 0; c < V::tile; ++c) diagonal[c] = f(diagonal[c], other.diagonal[c]);
  }

  // True if an element of this lane's under the diagonal is not 0, or is NaN.
  __device__ __forceinline__ bool any_under() const {
    bool any = false;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
#pragma unroll
      for (int c = 0; c < V::tile; ++c) any = any || !(under[r][c] == T(0));
    }
    return any;
  }

  __device__ __forceinline__ void add_to_diagonal(const Owner<V, split>& owner, T value) {
#pragma unroll
    for (int c = 0; c < V::tile; ++c) diagonal[c] += c == owner.row ? value : T(0);
  }
};

// Adds to the diagonal of the n x n matrix, not of its padding.
template <class V, int split, typename T>
__device__ __forceinline__ void add_identity(Fragment<V, split>& f, const Owner<V, split>& owner, int n, T value) {
  f.add_to_diagonal(owner, owner.diagonal_row() < n ? value : T(0));
}

// Reads a symmetric matrix. Lanes without a tile get zeros.
template <class V, int split, typename T>
__device__ __forceinline__ void read(const T* matrix, const Owner<V, split>& owner, Fragment<V, split>& f) {
  using L = Layout<V>;
  f.apply([](T) { return T(0); });
  if (owner.i < V::tiles) {
#pragma unroll
    for (int r = 0; r < f.rows; ++r) {
      L::load(matrix + (owner.first_row() + r) * V::padded, L::rotate(owner.j, owner.i), 0, f.under[r]);
    }
  }
  if (owner.d < V::tiles) {
    L::load(matrix + owner.diagonal_row() * V::padded, L::rotate(owner.d, owner.d), 0, f.diagonal);
  }
}

// Reads (M + sign M^T) / 2 of a matrix without symmetry. Halved before the sum, which could overflow.
template <class V, int split, typename T>
__device__ __forceinline__ void read_part(const T* matrix, T sign, const Owner<V, split>& owner,
                                          Fragment<V, split>& f) {
  using L = Layout<V>;
  read(matrix, owner, f);
  if (owner.i < V::tiles) {
#pragma unroll
    for (int c = 0; c < V::tile; ++c) {
      T mirrored[f.rows];
      L::load(matrix + (owner.j * V::tile + c) * V::padded, L::rotate(owner.i, owner.j), owner.slice * f.rows,
              mirrored);
#pragma unroll
      for (int r = 0; r < f.rows; ++r) f.under[r][c] = T(0.5) * f.under[r][c] + sign * (T(0.5) * mirrored[r]);
    }
  }
  if (owner.d < V::tiles) {
#pragma unroll
    for (int c = 0; c < V::tile; ++c) {
      const T mirrored = matrix[L::at(owner.d * V::tile + c, owner.diagonal_row())];
      f.diagonal[c] = T(0.5) * f.diagonal[c] + sign * (T(0.5) * mirrored);
    }
  }
}

template <class V, int split, typename T>
__device__ __forceinline__ void write_under(T* matrix, const Owner<V, split>& owner, const Fragment<V, split>& f,
                                            T sign) {
  using L = Layout<V>;
  if (owner.i >= V::tiles) return;
#pragma unroll
  for (int r = 0; r < f.rows; ++r) {
    L::store(matrix + (owner.first_row() + r) * V::padded, L::rotate(owner.j, owner.i), 0, f.under[r]);
  }
#pragma unroll
  for (int c = 0; c < V::tile; ++c) {
    T column[f.rows];
#pragma unroll
    for (int r = 0; r < f.rows; ++r) column[r] = sign * f.under[r][c];
    L::store(matrix + (owner.j * V::tile + c) * V::padded, L::rotate(owner.i, owner.j), owner.slice * f.rows, column);
  }
}

// Writes a matrix with M^T = sign M. No lane touches an element that another one owns, so a lane may write where it has
// just read, without a barrier.
template <class V, int split, typename T>
__device__ __forceinline__ void write(T* matrix, const Owner<V, split>& owner, const Fragment<V, split>& f, T sign) {
  using L = Layout<V>;
  write_under(matrix, owner, f, sign);
  if (owner.d < V::tiles) {
    L::store(matrix + owner.diagonal_row() * V::padded, L::rotate(owner.d, owner.d), 0, f.diagonal);
  }
}

// The same for a fragment whose diagonal tiles are symmetric up to rounding only: their lower half counts.
template <class V, int split, typename T>
__device__ __forceinline__ void write_lower(T* matrix, const Owner<V, split>& owner, const Fragment<V, split>& f) {
  using L = Layout<V>;
  write_under(matrix, owner, f, T(1));
  if (owner.d >= V::tiles) return;
#pragma unroll
  for (int c = 0; c < V::tile; ++c) {
    if (c > owner.row) continue;
    matrix[L::at(owner.diagonal_row(), owner.d * V::tile + c)] = f.diagonal[c];
    matrix[L::at(owner.d * V::tile + c, owner.diagonal_row())] = f.diagonal[c];
  }
}

// A triangle packed by lanes: private to its lane, so no barrier is needed, and free of bank conflicts.
template <class V, int split>
struct Triangle {
  using T = typename V::scalar;
  static constexpr int vec = Layout<V>::vec;
  static constexpr int lanes_under = Owner<V, split>::lanes_under;
  static constexpr int elements = V::shape.triangle_elements(split);
  static constexpr int diagonal_start = lanes_under * (V::tile / split) * V::tile;

  T* data;

  // Calls f(slot, value) for every value of the fragment.
  template <class F>
  static __device__ __forceinline__ void for_each(Fragment<V, split>& fragment, F f) {
    const int lane = threadIdx.x;
    if (Owner<V, split>::has_under()) {
#pragma unroll
      for (int r = 0; r < fragment.rows; ++r) {
#pragma unroll
        for (int c = 0; c < V::tile; c += vec) {
          f(((r * V::tile + c) / vec * lanes_under + lane) * vec, &fragment.under[r][c]);
        }
      }
    }
    if (Owner<V, split>::has_diagonal()) {
#pragma unroll
      for (int c = 0; c < V::tile; c += vec) {
        f(diagonal_start + (c / vec * V::lanes_on_diagonal + lane - V::first_on_diagonal) * vec, &fragment.diagonal[c]);
      }
    }
  }

  __device__ __forceinline__ void store(Fragment<V, split>& fragment) const {
    T* target = data;
    for_each(fragment, [target](int slot, T* value) {
      Pack<T, vec> pack;
#pragma unroll
      for (int e = 0; e < vec; ++e) pack.value[e] = value[e];
      *reinterpret_cast<Pack<T, vec>*>(target + slot) = pack;
    });
  }

  // fragment = f(fragment, triangle)
  template <class F>
  __device__ __forceinline__ void combine_into(Fragment<V, split>& fragment, F f) const {
    const T* source = data;
    for_each(fragment, [source, f](int slot, T* value) {
      const auto pack = *reinterpret_cast<const Pack<T, vec>*>(source + slot);
#pragma unroll
      for (int e = 0; e < vec; ++e) value[e] = f(value[e], pack.value[e]);
    });
  }

  __device__ __forceinline__ void load(Fragment<V, split>& fragment) const {
    fragment.apply([](T) { return T(0); });  // for lanes without a tile
    combine_into(fragment, [](T, T value) { return value; });
  }

  // triangle = f(triangle, fragment)
  template <class F>
  __device__ __forceinline__ void update(Fragment<V, split>& fragment, F f) const {
    T* target = data;
    for_each(fragment, [target, f](int slot, T* value) {
      auto pack = *reinterpret_cast<const Pack<T, vec>*>(target + slot);
#pragma unroll
      for (int e = 0; e < vec; ++e) pack.value[e] = f(pack.value[e], value[e]);
      *reinterpret_cast<Pack<T, vec>*>(target + slot) = pack;
    });
  }
};

}  // namespace cuda
}  // namespace fastsqrtm

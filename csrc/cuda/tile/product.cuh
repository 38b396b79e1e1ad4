// Products of matrices in shared memory. Every left factor is symmetric (or skew), so both factors are read along their
// rows: out(i, j) = sum_k left(k, i) right(k, j). A tensor-core version would replace `accumulate`.
#pragma once

#include "cuda/tile/fragment.cuh"

namespace fastsqrtm {
namespace cuda {

// acc += left(K, tile i)^T right(K, tile j), K this slice of every block of `tile` rows, for `used_tiles` blocks.
template <class V, int split, typename T>
__device__ __forceinline__ void accumulate(const T* left, const T* right, int i, int j, int slice, int used_tiles,
                                           T (&acc)[V::tile][V::tile]) {
  using L = Layout<V>;
  constexpr int steps = V::tile / split;
  for (int block = 0; block < used_tiles; ++block) {
    const int rotated_i = L::rotate(i, block);
    const int rotated_j = L::rotate(j, block);
    const int row = (block * V::tile + slice * steps) * V::padded;
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      T a[V::tile], b[V::tile];
      L::load(left + row + step * V::padded, rotated_i, 0, a);
      L::load(right + row + step * V::padded, rotated_j, 0, b);
#pragma unroll
      for (int r = 0; r < V::tile; ++r) {
#pragma unroll
        for (int c = 0; c < V::tile; ++c) acc[r][c] += a[r] * b[c];
      }
    }
  }
}

// Sums the partial tiles of the lanes that share one; lane `slice` keeps its share of the rows in acc[0 .. tile/split).
// The order of the sum is fixed by the lanes' numbers.
template <class V, int split, int half, int rows, typename T>
__device__ __forceinline__ void scatter_half(T (&acc)[V::tile][V::tile], int slice) {
  if constexpr (half >= 1) {
    const bool upper = (slice & half) != 0;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
#pragma unroll
      for (int c = 0; c < V::tile; ++c) {
        const T keep = upper ? acc[r + rows][c] : acc[r][c];
        const T send = upper ? acc[r][c] : acc[r + rows][c];
        acc[r][c] = keep + __shfl_xor_sync(all_lanes, send, half * TileLane<V, split>::stride, V::width);
      }
    }
    scatter_half<V, split, half / 2, rows / 2>(acc, slice);
  }
}

template <class V, int split, typename T>
__device__ __forceinline__ void reduce_scatter(T (&acc)[V::tile][V::tile], int slice) {
  scatter_half<V, split, split / 2, V::tile / 2>(acc, slice);
}

template <int tile, typename T>
__device__ __forceinline__ void clear(T (&acc)[tile][tile]) {
#pragma unroll
  for (int r = 0; r < tile; ++r) {
#pragma unroll
    for (int c = 0; c < tile; ++c) acc[r][c] = T(0);
  }
}

// acc + sign acc^T, times factor: makes a tile on the diagonal exactly symmetric or skew.
template <int tile, typename T>
__device__ __forceinline__ void symmetrise(T (&acc)[tile][tile], T sign, T factor) {
#pragma unroll
  for (int r = 0; r < tile; ++r) {
#pragma unroll
    for (int c = 0; c <= r; ++c) {
      const T value = factor * (acc[r][c] + sign * acc[c][r]);
      acc[r][c] = value;
      acc[c][r] = sign * value;
    }
  }
}

// Tiles of one triangle. `tile_under(i, j, slice, acc)` fills a partial tile under the diagonal and `tile_diagonal` one
// on it, split over `tile` lanes, which makes it cheap next to the others. They replace `out`, or are added to it.
template <bool add = false, class V, int split, class Under, class Diagonal>
__device__ __forceinline__ void triangle_of_tiles(const Owner<V, split>& owner, int used_tiles, Fragment<V, split>& out,
                                                  Under tile_under, Diagonal tile_diagonal) {
  using T = typename V::scalar;
  if constexpr (!add) out.apply([](T) { return T(0); });
  if (owner.has_under()) {
    T acc[V::tile][V::tile];
    clear(acc);
    if (owner.i < used_tiles) tile_under(acc);
    reduce_scatter<V, split>(acc, owner.slice);
#pragma unroll
    for (int r = 0; r < out.rows; ++r) {
#pragma unroll
      for (int c = 0; c < V::tile; ++c) out.under[r][c] = add ? out.under[r][c] + acc[r][c] : acc[r][c];
    }
  }
  if (owner.has_diagonal()) {
    T acc[V::tile][V::tile];
    clear(acc);
    if (owner.d < used_tiles) tile_diagonal(acc);
    reduce_scatter<V, V::tile>(acc, owner.row);
#pragma unroll
    for (int c = 0; c < V::tile; ++c) out.diagonal[c] = add ? out.diagonal[c] + acc[0][c] : acc[0][c];
  }
}

// out = left right, known to be symmetric (or skew, sign -1): one triangle, half the work. With `add` out += left
// right, where only the whole sum need be symmetric.
template <bool add = false, class V, int split, typename T>
__device__ __forceinline__ void symmetric_product(const T* left, const T* right, int used_tiles,
                                                  const Owner<V, split>& owner, Fragment<V, split>& out,
                                                  T sign = T(1)) {
  triangle_of_tiles<add>(
      owner, used_tiles, out,
      [&](T(&acc)[V::tile][V::tile]) {
        accumulate<V, split>(left, right, owner.i, owner.j, owner.slice, used_tiles, acc);
      },
      [&](T(&acc)[V::tile][V::tile]) {
        accumulate<V, V::tile>(left, right, owner.d, owner.d, owner.row, used_tiles, acc);
        symmetrise(acc, sign, T(0.5));
      });
}

// out = V + sign V^T with V = left right, left symmetric, right any matrix: one triangle, the work of V alone.
template <class V, int split, typename T>
__device__ __forceinline__ void product_plus_transpose(const T* left, const T* right, T sign, int used_tiles,
                                                       const Owner<V, split>& owner, Fragment<V, split>& out) {
  triangle_of_tiles(
      owner, used_tiles, out,
      [&](T(&acc)[V::tile][V::tile]) {
        accumulate<V, split>(right, left, owner.i, owner.j, owner.slice, used_tiles, acc);
#pragma unroll
        for (int r = 0; r < V::tile; ++r) {
#pragma unroll
          for (int c = 0; c < V::tile; ++c) acc[r][c] *= sign;
        }
        accumulate<V, split>(left, right, owner.i, owner.j, owner.slice, used_tiles, acc);
      },
      [&](T(&acc)[V::tile][V::tile]) {
        accumulate<V, V::tile>(left, right, owner.d, owner.d, owner.row, used_tiles, acc);
        symmetrise(acc, sign, T(1));
      });
}

// This lane's tiles of a full product in registers: `tiles[round]` holds its rows in [0 .. tile/split_full).
template <class V>
struct FullProduct {
  using T = typename V::scalar;
  static constexpr int rows = V::tile / V::split_full;
  T tiles[V::full_rounds][V::tile][V::tile];

  struct Place {
    int i = V::tiles, j = 0, slice;
    explicit __device__ __forceinline__ Place(int round) {
      const int lane = static_cast<int>(threadIdx.x) + round * V::threads;
      const int index = TileLane<V, V::split_full>::tile(lane);
      slice = TileLane<V, V::split_full>::slice(lane);
      if (index < V::tiles * V::tiles) {
        i = index / V::tiles;
        j = index % V::tiles;
      }
    }
  };

  // left^T right, a matrix without symmetry.
  __device__ __forceinline__ void multiply(const T* left, const T* right, int used_tiles) {
#pragma unroll
    for (int round = 0; round < V::full_rounds; ++round) {
      const Place place(round);
      clear(tiles[round]);
      if (place.i < used_tiles && place.j < used_tiles) {
        accumulate<V, V::split_full>(left, right, place.i, place.j, place.slice, used_tiles, tiles[round]);
      }
      reduce_scatter<V, V::split_full>(tiles[round], place.slice);
    }
  }

  __device__ __forceinline__ void write(T* matrix) const {
    using L = Layout<V>;
#pragma unroll
    for (int round = 0; round < V::full_rounds; ++round) {
      const Place place(round);
      if (place.i >= V::tiles) continue;
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const int row = place.i * V::tile + place.slice * rows + r;
        L::store(matrix + row * V::padded, L::rotate(place.j, place.i), 0, tiles[round][r]);
      }
    }
  }
};

}  // namespace cuda
}  // namespace fastsqrtm

// How a matrix lies in shared memory: without padding, and so that the two access patterns of the kernels, runs of one
// row by neighbouring tiles and the same run of many rows by neighbouring tiles, meet different banks.
//
// Row i, column c = group * tile + half * vec + e lies at
//   i * padded + half * plane + ((group + i / tile) mod tiles) * vec + e
// that is: the first 16 bytes of every tile lie side by side (a tile of 8 floats would otherwise make every other lane
// meet the same bank), and the groups of a row are rotated by the tile row (a mirrored store would otherwise go to one
// bank from all lanes).
#pragma once

#include "cuda/tile/platform.cuh"

namespace fastsqrtm {
namespace cuda {

template <typename T, int count>
struct alignas(sizeof(T) * count) Pack {
  T value[count];
};

template <class V>
struct Layout {
  using T = typename V::scalar;
  static constexpr int tile = V::tile;
  static constexpr int tiles = V::tiles;
  static constexpr int padded = V::padded;
  static constexpr int vec = tile * static_cast<int>(sizeof(T)) < 16 ? tile : 16 / static_cast<int>(sizeof(T));
  static constexpr int plane = padded * vec / tile;

  static __device__ __forceinline__ int rotate(int group, int tile_row) {
    const int rotated = group + tile_row;
    return rotated >= tiles ? rotated - tiles : rotated;
  }

  static __device__ __forceinline__ int at(int row, int column) {
    const int in_tile = column % tile;
    return row * padded + in_tile / vec * plane + rotate(column / tile, row / tile) * vec + in_tile % vec;
  }

  // `count` columns of a tile from column `start` on; `row` points at the row, `rotated` is the rotated group. A panel
  // (see sweep.cuh) is read the same way without rotation.
  template <int count>
  static __device__ __forceinline__ void load(const T* row, int rotated, int start, T (&out)[count]) {
    constexpr int run = count < vec ? count : vec;
#pragma unroll
    for (int first = 0; first < count; first += run) {
      const int column = start + first;
      const auto pack =
          *reinterpret_cast<const Pack<T, run>*>(row + column / vec * plane + rotated * vec + column % vec);
#pragma unroll
      for (int e = 0; e < run; ++e) out[first + e] = pack.value[e];
    }
  }

  template <int count>
  static __device__ __forceinline__ void store(T* row, int rotated, int start, const T (&in)[count]) {
    constexpr int run = count < vec ? count : vec;
#pragma unroll
    for (int first = 0; first < count; first += run) {
      const int column = start + first;
      Pack<T, run> pack;
#pragma unroll
      for (int e = 0; e < run; ++e) pack.value[e] = in[first + e];
      *reinterpret_cast<Pack<T, run>*>(row + column / vec * plane + rotated * vec + column % vec) = pack;
    }
  }
};

}  // namespace cuda
}  // namespace fastsqrtm

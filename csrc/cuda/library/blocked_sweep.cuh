// The symmetric sweep of tile/sweep.cuh for matrices in global memory, in blocks of 64 columns: plain, H <- -(I +
// H)^-1, or implicit, H <- H (I + H)^-1. Per block three launches for all matrices: the fused sweep of the pivot block;
// F = C D^-1, which replaces the columns C; H(i, j) -= F_i C_j^T under the diagonal, mirrored. n^3 flop, and the bits
// of a matrix do not depend on the others. Like the fused one it costs the condition number of a pivot block in
// accuracy, which is small for the shifts of mpa alone. Not measured: see swept_in_blocks.
#pragma once

#include "cuda/library/large.h"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/sweep.cuh"

namespace fastsqrtm {
namespace cuda {

constexpr int block_edge = 64;
constexpr int block_depth = 32;  // of the inner dimension that is in shared memory at once
constexpr int block_lanes = 8;   // 8 x 8 threads have 8 x 8 elements each, lane + 8 e

template <typename T>
struct BlockedSweep {
  T* h;          // matrices x n x n
  T* workspace;  // blocked_elements(n) a matrix, at the start of each n x n
  int64_t matrices;
  int n;
  int pivot;  // block
  bool implicit;

  __device__ __forceinline__ int64_t start() const { return static_cast<int64_t>(blockIdx.y) * n * n; }
  __device__ __forceinline__ T* matrix() const { return h + start(); }
  __device__ __forceinline__ T* inverse() const { return workspace + start(); }                  // 64 x 64
  __device__ __forceinline__ T* columns() const { return inverse() + block_edge * block_edge; }  // C, n x 64
};

// Workspace of a matrix; smaller ones than n = 104 do not have it in n x n elements.
constexpr int64_t blocked_elements(int64_t n) { return block_edge * (block_edge + n); }

template <typename T>
constexpr int pivot_variant() {
  int index = 0;
  while (shape_at<T>(index).padded != block_edge) ++index;
  return index;
}
template <typename T>
using PivotVariant = Variant<T, pivot_variant<T>(), 1>;

template <typename T>
constexpr int pivot_elements() {
  return PivotVariant<T>::matrix_elements + PivotVariant<T>::panel_elements;
}

// One team for each matrix. H(q, q) <- the swept block, and D^-1 for the others.
template <typename T>
__global__ void __launch_bounds__(PivotVariant<T>::threads, 1) pivot_kernel(BlockedSweep<T> a) {
  using V = PivotVariant<T>;
  using L = Layout<V>;
  const int first = a.pivot * block_edge;
  const int size = smaller(block_edge, a.n - first);
  const Problem block = {a.matrices, size, size, size, sizeof(T) == 8 ? Element::float64 : Element::float32};
  const int64_t place = static_cast<int64_t>(first) * (a.n + 1);
  const Input in{a.h + place, static_cast<int64_t>(a.n) * a.n, a.n, 1};
  T* work = reinterpret_cast<T*>(dynamic_shared());
  const Panels<V> panels(work + V::matrix_elements);
  load_matrix<V>(work, in, block, blockIdx.y, threadIdx.x, V::threads);
  sync_team<V>();
  const Owner<V, V::split_sweep> owner;
  Fragment<V, V::split_sweep> h;
  read(work, owner, h);
  sweep(h, owner, (size + V::tile - 1) / V::tile, a.implicit, panels);
  write_lower(work, owner, h);
  sync_team<V>();
  T* swept = a.matrix() + place;
  T* inverse = a.inverse();
  for (int item = threadIdx.x; item < V::matrix_elements; item += V::threads) {
    const int row = item / block_edge, column = item % block_edge;
    const bool inside = row < size && column < size;
    const T value = work[L::at(row, column)];
    if (inside) swept[static_cast<int64_t>(row) * a.n + column] = value;
    inverse[item] = inside ? (a.implicit && row == column ? T(1) : T(0)) - value : T(0);
  }
}

// sum = X Y^T of two 64 x 64 blocks, whose elements x(row, k) and y(column, k) tell.
template <typename T, class X, class Y>
__device__ __forceinline__ void multiply_blocks(X x, Y y, T (&sum)[block_lanes][block_lanes]) {
  constexpr int pitch = block_edge + 1;
  T* left = reinterpret_cast<T*>(dynamic_shared());
  T* right = left + block_depth * pitch;
#pragma unroll
  for (int r = 0; r < block_lanes; ++r) {
#pragma unroll
    for (int c = 0; c < block_lanes; ++c) sum[r][c] = 0;
  }
  const int thread = threadIdx.y * block_lanes + threadIdx.x;
  for (int first = 0; first < block_edge; first += block_depth) {
    if (first > 0) __syncthreads();
    for (int item = thread; item < block_edge * block_depth; item += block_lanes * block_lanes) {
      const int row = item / block_depth, k = item % block_depth;
      left[k * pitch + row] = x(row, first + k);
      right[k * pitch + row] = y(row, first + k);
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < block_depth; ++k) {
      T rows[block_lanes], columns[block_lanes];
#pragma unroll
      for (int e = 0; e < block_lanes; ++e) {
        rows[e] = left[k * pitch + threadIdx.y + block_lanes * e];
        columns[e] = right[k * pitch + threadIdx.x + block_lanes * e];
      }
#pragma unroll
      for (int r = 0; r < block_lanes; ++r) {
#pragma unroll
        for (int c = 0; c < block_lanes; ++c) sum[r][c] += rows[r] * columns[c];
      }
    }
  }
}

// Calls f(row, column, value) for this thread's elements of a block that are in the matrix.
template <typename T, class F>
__device__ __forceinline__ void for_block(int n, int first_row, int first_column, T (&sum)[block_lanes][block_lanes],
                                          F f) {
#pragma unroll
  for (int r = 0; r < block_lanes; ++r) {
#pragma unroll
    for (int c = 0; c < block_lanes; ++c) {
      const int row = first_row + static_cast<int>(threadIdx.y) + block_lanes * r;
      const int column = first_column + static_cast<int>(threadIdx.x) + block_lanes * c;
      if (row < n && column < n) f(row, column, sum[r][c]);
    }
  }
}

// Block blockIdx.x of the columns: C is kept, F = C D^-1 and F^T take its places in H.
template <typename T>
__global__ void __launch_bounds__(block_lanes* block_lanes) panel_kernel(BlockedSweep<T> a) {
  const int block = blockIdx.x;
  if (block == a.pivot) return;
  const int n = a.n, first = block * block_edge, pivot = a.pivot * block_edge;
  T* h = a.matrix();
  T* columns = a.columns();
  const T* inverse = a.inverse();
  const auto column = [&](int row, int k) {
    const bool inside = first + row < n && pivot + k < n;
    const T value = inside ? h[static_cast<int64_t>(first + row) * n + pivot + k] : T(0);
    if (first + row < n) columns[(first + row) * block_edge + k] = value;
    return value;
  };
  T sum[block_lanes][block_lanes];
  multiply_blocks(column, [inverse](int row, int k) { return inverse[row * block_edge + k]; }, sum);
  for_block(n, first, pivot, sum, [&](int i, int j, T value) {
    h[static_cast<int64_t>(i) * n + j] = value;
    h[static_cast<int64_t>(j) * n + i] = value;
  });
}

// Block blockIdx.x of the triangle of blocks: H(i, j) -= F_i C_j^T.
template <typename T>
__global__ void __launch_bounds__(block_lanes* block_lanes) update_kernel(BlockedSweep<T> a) {
  int block_row = 0, block_column = blockIdx.x;
  while (block_column > block_row) block_column -= ++block_row;
  if (block_row == a.pivot || block_column == a.pivot) return;
  const int n = a.n, first_row = block_row * block_edge, first_column = block_column * block_edge;
  const int pivot = a.pivot * block_edge;
  T* h = a.matrix();
  const T* columns = a.columns();
  const auto solved = [&](int row, int k) {
    const bool inside = first_row + row < n && pivot + k < n;
    return inside ? h[static_cast<int64_t>(first_row + row) * n + pivot + k] : T(0);
  };
  const auto column = [&](int row, int k) {
    return first_column + row < n ? columns[(first_column + row) * block_edge + k] : T(0);
  };
  T sum[block_lanes][block_lanes];
  multiply_blocks(solved, column, sum);
  for_block(n, first_row, first_column, sum, [&](int i, int j, T value) {
    if (j > i) return;  // only where the block is on the diagonal
    const T updated = h[static_cast<int64_t>(i) * n + j] - value;
    h[static_cast<int64_t>(i) * n + j] = updated;
    h[static_cast<int64_t>(j) * n + i] = updated;
  });
}

// True if this pass should be swept in blocks rather than factored and solved by the libraries.
template <class Large>
bool swept_in_blocks(Large& large) {
  const int64_t n = large.n;
  return large.library().sweeps_in_blocks() && blocked_elements(n) <= n * n;
}

// Sweeps `matrices` matrices H, one after the other. The workspace has as many elements.
template <class Large, typename T>
void sweep_in_blocks(Large& large, T* h, T* workspace, int64_t matrices, bool implicit) {
  const int blocks = (large.n + block_edge - 1) / block_edge;
  const std::size_t product_bytes = 2 * block_depth * (block_edge + 1) * sizeof(T);
  for (int pivot = 0; pivot < blocks; ++pivot) {
    const BlockedSweep<T> a{h, workspace, matrices, large.n, pivot, implicit};
    large.library().run(&pivot_kernel<T>, 1, matrices, PivotVariant<T>::threads, 1, pivot_elements<T>() * sizeof(T), a);
    large.library().run(&panel_kernel<T>, blocks, matrices, block_lanes, block_lanes, product_bytes, a);
    large.library().run(&update_kernel<T>, blocks * (blocks + 1) / 2, matrices, block_lanes, block_lanes, product_bytes,
                        a);
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

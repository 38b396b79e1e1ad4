// Transfers of matrices of any shape, which lie in rows: those of memory.cuh are square.
#pragma once

#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"

namespace fastsqrtm {
namespace cuda {

// A matrix of any shape, `row` apart, zero past the batch. Returns the largest size of an element that this thread
// loads, or NaN.
template <class V, typename T>
__device__ __forceinline__ T load_rows(T* matrix, int64_t row, const Input& in, const Problem& problem, int64_t index,
                                       int rows, int columns) {
  T worst = 0;
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    const S* source = static_cast<const S*>(in.data) + index * in.batch_stride;
    for (int64_t item = threadIdx.x; item < static_cast<int64_t>(rows) * columns; item += V::threads) {
      const int i = static_cast<int>(item / columns), j = static_cast<int>(item % columns);
      const T x = index < problem.batch ? from_element<T>(source[i * in.row_stride + j * in.column_stride]) : T(0);
      matrix[i * row + j] = x;
      worst = max_or_nan(worst, std::fabs(x));
    }
  });
  return worst;
}

// Writes element(i, j) into one contiguous matrix of `out`.
template <class V, class F>
__device__ __forceinline__ void store_rows(void* out, const Problem& problem, int64_t index, int rows, int columns,
                                           F element) {
  using T = typename V::scalar;
  if (index >= problem.batch) return;
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    S* target = static_cast<S*>(out) + index * rows * columns;
    for (int64_t item = threadIdx.x; item < static_cast<int64_t>(rows) * columns; item += V::threads)
      target[item] = to_element<S>(element(static_cast<int>(item / columns), static_cast<int>(item % columns)));
  });
}

}  // namespace cuda
}  // namespace fastsqrtm

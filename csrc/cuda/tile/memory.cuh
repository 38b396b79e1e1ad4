// Transfers between global memory and shared memory: any strides, any element type, offsets in 64 bits.
#pragma once

#include <type_traits>

#include "cuda/pass.h"
#include "cuda/tile/layout.cuh"

namespace fastsqrtm {
namespace cuda {

template <typename T, typename S>
__device__ __forceinline__ T from_element(S x) {
  return static_cast<T>(x);
}
template <>
__device__ __forceinline__ float from_element<float, __half>(__half x) {
  return __half2float(x);
}
template <>
__device__ __forceinline__ float from_element<float, __nv_bfloat16>(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <typename S, typename T>
__device__ __forceinline__ S to_element(T x) {
  return static_cast<S>(x);
}
template <>
__device__ __forceinline__ __half to_element<__half, float>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 to_element<__nv_bfloat16, float>(float x) {
  return __float2bfloat16_rn(x);
}

// Calls f with a null pointer to the type of an element in memory; the branch stands outside of the element loops.
template <typename T, class F>
__device__ __forceinline__ void with_element(Element element, F f) {
  if constexpr (sizeof(T) == 8) {
    f(static_cast<double*>(nullptr));
  } else if (element == Element::float32) {
    f(static_cast<float*>(nullptr));
  } else if (element == Element::float16) {
    f(static_cast<__half*>(nullptr));
  } else {
    f(static_cast<__nv_bfloat16*>(nullptr));
  }
}

// Thread `thread` of `threads` loads its part of one matrix; everything past n is zero. A matrix past the batch is
// zero. Eight loads are in flight before the first is used.
template <class V, typename T>
__device__ __forceinline__ void load_matrix(T* matrix, const Input& in, const Problem& problem, int64_t index,
                                            int thread, int threads) {
  constexpr int in_flight = 8;
  const bool present = index < problem.batch;
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    const S* source = static_cast<const S*>(in.data) + (present ? index * in.batch_stride : 0);
#pragma unroll 1
    for (int first = thread; first < V::matrix_elements; first += in_flight * threads) {
      S value[in_flight];
#pragma unroll
      for (int e = 0; e < in_flight; ++e) {
        const int item = first + e * threads;
        const int row = item / V::padded;
        const int column = item % V::padded;
        const bool inside = present && row < problem.n && column < problem.n + FASTSQRTM_SEEDED_OFFSET;
        value[e] = inside ? source[row * in.row_stride + column * in.column_stride] : to_element<S>(T(0));
      }
#pragma unroll
      for (int e = 0; e < in_flight; ++e) {
        const int item = first + e * threads;
        if (item < V::matrix_elements) {
          matrix[Layout<V>::at(item / V::padded, item % V::padded)] = from_element<T>(value[e]);
        }
      }
    }
  });
}

// An entry on the diagonal; 0 past n and past the batch.
template <typename T>
__device__ __forceinline__ T load_diagonal(const Input& in, const Problem& problem, int64_t index, int row) {
  T value = 0;
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    if (index >= problem.batch || row >= problem.n) return;
    value = from_element<T>(
        static_cast<const S*>(in.data)[index * in.batch_stride + row * (in.row_stride + in.column_stride)]);
  });
  return value;
}

// Calls f(element of the shared matrix, its number in the batch's contiguous elements) for this thread's part.
template <class V, class F>
__device__ __forceinline__ void for_each_stored(const Problem& problem, int64_t index, int thread, int threads, F f) {
  if (index >= problem.batch) return;
  const int64_t start = index * problem.n * problem.n;
#pragma unroll 1
  for (int item = thread; item < V::matrix_elements; item += threads) {
    const int row = item / V::padded;
    const int column = item % V::padded;
    if (row < problem.n && column < problem.n) f(Layout<V>::at(row, column), start + row * problem.n + column);
  }
}

// out = matrix
template <class V, typename T>
__device__ __forceinline__ void store_matrix(const T* matrix, void* out, const Problem& problem, int64_t index,
                                             int thread, int threads) {
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    S* target = static_cast<S*>(out);
    for_each_stored<V>(problem, index, thread, threads,
                       [&](int from, int64_t to) { target[to] = to_element<S>(matrix[from]); });
  });
}

// out[index] = value: of a result with one number a matrix.
template <typename T>
__device__ __forceinline__ void store_number(T value, void* out, const Problem& problem, int64_t index) {
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    static_cast<S*>(out)[index] = to_element<S>(value);
  });
}

// kept = matrix, in the type of the computation. The same thread must call add_kept.
template <class V, typename T>
__device__ __forceinline__ void keep_matrix(const T* matrix, T* kept, const Problem& problem, int64_t index, int thread,
                                            int threads) {
  for_each_stored<V>(problem, index, thread, threads, [&](int from, int64_t to) { kept[to] = matrix[from]; });
}

// matrix += kept
template <class V, typename T>
__device__ __forceinline__ void add_kept(T* matrix, const T* kept, const Problem& problem, int64_t index, int thread,
                                         int threads) {
  for_each_stored<V>(problem, index, thread, threads, [&](int to, int64_t from) { matrix[to] += kept[from]; });
}

}  // namespace cuda
}  // namespace fastsqrtm

// The tiny path: one thread a matrix, which it has in registers. The threads of a block load their matrices together,
// so that neighbours read neighbours in memory, and find them in shared memory; results take the same way back.
//
// What a thread computes is the member run_lanes of the pass of the same name in csrc/cpu/passes, with vectors of one
// lane. A pass has here a specialisation of TinyPass:
//   Function                         that pass
//   Numbers<T>                       its scalars, made from passes::Type
//   at_zero(numbers)                 the diagonal of the result for the zero matrix, where the function leaves it
//   number                           the result that is one number a matrix, a logarithm; -1: none
//   of_inverse(operands)             whether the first input is an inverse, infinite where its matrix is zero
#pragma once

#include <utility>

#include "cuda/tiny/one_lane.cuh"
// After it.
#include "cpu/matrix/lanes.h"
#include "cuda/tile/memory.cuh"
#include "cuda/tiny/numbers.h"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace cuda {

template <class Pass>
struct TinyPass;

// What most passes have in common.
template <class Function_>
struct TinyGradient {
  using Function = Function_;
  static constexpr int number = -1;
  template <typename T>
  using Numbers = typename Function::Arguments;
  template <class N>
  static FASTSQRTM_DEVICE double at_zero(const N&) {
    return 0;
  }
  static FASTSQRTM_DEVICE bool of_inverse(const Operands&) { return false; }
};
template <class Function_>
struct TinyRoot : TinyGradient<Function_> {
  template <class N>
  static FASTSQRTM_DEVICE double at_zero(const N& numbers) {
    return numbers.power == Power::half ? 0 : infinity<double>();
  }
};

template <class Pass, typename T>
struct TinyArguments {
  Operands operands;
  typename TinyPass<Pass>::template Numbers<T> numbers;
};

template <class Pass, typename T, class Told>
TinyArguments<Pass, T> tiny_arguments(const Told& pass, const Operands& operands) {
  return {operands, typename TinyPass<Pass>::template Numbers<T>(pass)};
}

// Matrices first, ..., first + count - 1 of an input.
template <int n, int threads, typename T>
FASTSQRTM_DEVICE void load_tiny(const Input& in, Element element, int64_t first, int count, T* shared) {
  constexpr int numbers = n * n, pitch = tiny_pitch(n);
  const bool contiguous = in.column_stride == 1 && in.row_stride == n && in.batch_stride == numbers;
  with_element<T>(element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    const S* source = static_cast<const S*>(in.data) + first * in.batch_stride;
#pragma unroll 4
    for (int item = threadIdx.x; item < count * numbers + FASTSQRTM_SEEDED_OFFSET; item += threads) {
      const int m = item / numbers, e = item % numbers;
      shared[m * pitch + e] = from_element<T>(
          contiguous ? source[item] : source[m * in.batch_stride + e / n * in.row_stride + e % n * in.column_stride]);
    }
  });
}

template <int n, int threads, typename T>
FASTSQRTM_DEVICE void store_tiny(const T* shared, const Output& out, Element element, int64_t first, int count) {
  constexpr int pitch = tiny_pitch(n);
  with_element<T>(element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    S* target = reinterpret_cast<S*>(static_cast<char*>(out.data) + first * out.matrix_bytes);
    const bool is_matrix = out.matrix_bytes == n * n * static_cast<int>(sizeof(S));  // else a number
    const int numbers = is_matrix ? n * n : 1;
    for (int item = threadIdx.x; item < count * numbers; item += threads) {
      const int m = is_matrix ? item / (n * n) : item;
      target[item] = to_element<S>(shared[m * pitch + item - m * numbers]);
    }
  });
}

// The answer where the function leaves a matrix undone: that for the zero matrix, else NaN.
template <class Pass, int n, typename T, class Numbers>
FASTSQRTM_DEVICE void answer_tiny(const Operands& operands, const Numbers& numbers, int64_t index,
                                  const one_lane::Lanes<T>& lanes) {
  const Input& in = operands.in[0].data ? operands.in[0] : operands.in[1];
  bool zero = true, infinite = TinyPass<Pass>::of_inverse(operands);
  with_element<T>(operands.problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    const S* source = static_cast<const S*>(in.data) + index * in.batch_stride;
#pragma unroll 1
    for (int i = 0; i < n; ++i) {
#pragma unroll 1
      for (int j = 0; j < n; ++j) {
        const T x = from_element<T>(source[i * in.row_stride + j * in.column_stride]);
        zero = zero && std::fabs(x) < Limits<T>::min;
        infinite = infinite && x == (i == j ? infinity<T>() : T(0));
      }
    }
  });
  zero = zero || infinite;
  const T diagonal = zero ? static_cast<T>(TinyPass<Pass>::at_zero(numbers)) : not_a_number<T>();
  for (int k = 0; k < max_outputs; ++k) {
    if (!operands.out[k].data) continue;
    if (k == TinyPass<Pass>::number) {
      lanes.out[k][0] = -diagonal;
      continue;
    }
#pragma unroll 1
    for (int i = 0; i < n * n; ++i) lanes.out[k][i] = i % (n + 1) == 0 || !zero ? diagonal : T(0);
  }
}

// Block: a thread for each of matrices_per_block. Results take the places of inputs, which have been read by then.
template <class Pass, typename T, int n>
__global__ void __launch_bounds__(tiny_threads(sizeof(T)), 1)
    tiny_kernel(const __grid_constant__ TinyArguments<Pass, T> arguments) {
  constexpr int threads = tiny_threads(sizeof(T)), place = threads * tiny_pitch(n);
  const Operands& operands = arguments.operands;
  const Element element = operands.problem.element;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * threads, left = operands.problem.batch - first;
  const int count = left < threads ? static_cast<int>(left) : threads;
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  one_lane::Lanes<T> lanes = {};
  lanes.ridge_unit = ridge_unit<T>(element);
#pragma unroll
  for (int k = 0; k < max_inputs; ++k) {
    if (!operands.in[k].data) continue;
    load_tiny<n, threads>(operands.in[k], element, first, count, shared + k * place);
    lanes.in[k] = {shared + k * place + threadIdx.x * tiny_pitch(n), n};
  }
#pragma unroll
  for (int k = 0; k < max_outputs; ++k)
    if (operands.out[k].data) lanes.out[k] = shared + k * place + threadIdx.x * tiny_pitch(n);
  FASTSQRTM_SEEDED_SYNC(__syncthreads());
  if (static_cast<int>(threadIdx.x) < count &&
      !TinyPass<Pass>::Function::template run_lanes<T, n>(arguments.numbers, lanes))
    answer_tiny<Pass, n>(operands, arguments.numbers, first + threadIdx.x, lanes);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < max_outputs; ++k)
    if (operands.out[k].data) store_tiny<n, threads>(shared + k * place, operands.out[k], element, first, count);
}

template <class Pass, typename T>
using TinyKernel = void (*)(TinyArguments<Pass, T>);

template <class Pass, typename T, int... before>
TinyKernel<Pass, T> tiny_kernel_of(int n, std::integer_sequence<int, before...>) {
  static constexpr TinyKernel<Pass, T> table[] = {tiny_kernel<Pass, T, before + 1>...};
  return table[n - 1];
}
template <class Pass, typename T>
TinyKernel<Pass, T> tiny_kernel_of(int n) {
  return tiny_kernel_of<Pass, T>(n, std::make_integer_sequence<int, Pass::largest_tiny_order>());
}

}  // namespace cuda
}  // namespace fastsqrtm

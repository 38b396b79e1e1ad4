// The one kernel of all passes, and its instantiations by variant.
#pragma once

#include <utility>

#include "cuda/pass.h"
#include "cuda/tile/platform.cuh"

namespace fastsqrtm {
namespace cuda {

template <class Pass, typename T, int index>
using VariantOf = Variant<T, index, Pass::most_teams(shape_at<T>(index))>;

template <class Pass, class V>
__global__ void __launch_bounds__(Pass::max_threads(V::shape), 1)
    pass_kernel(const __grid_constant__ typename Pass::template Arguments<typename V::scalar> arguments) {
  Pass::template run<V>(arguments);
}

template <class Pass, typename T>
using Kernel = void (*)(typename Pass::template Arguments<T>);

template <class Pass, typename T, int... index>
Kernel<Pass, T> kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<Pass, T> table[] = {pass_kernel<Pass, VariantOf<Pass, T, index>>...};
  return table[variant];
}
// `variant`: that of the plan.
template <class Pass, typename T>
Kernel<Pass, T> kernel_of(int variant) {
  constexpr int count = sizeof(T) == 8 ? double_shape_count : float_shape_count;
  return kernel_of<Pass, T>(variant, std::make_integer_sequence<int, count>());
}

// Transposes the inputs that count by their symmetric part alone where that makes neighbours in a row neighbours in
// memory.
template <class Pass>
Operands by_rows(Operands operands) {
  for (int i = 0; i < max_inputs; ++i) {
    Input& in = operands.in[i];
    if (Pass::only_symmetric_part_of(i) && in.column_stride != 1 && in.row_stride == 1)
      std::swap(in.row_stride, in.column_stride);
  }
  return operands;
}

}  // namespace cuda
}  // namespace fastsqrtm

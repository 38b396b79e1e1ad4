// The sweep of a few pivots at a time, for numbers of many matrices in the lanes, or for those of one matrix, the same
// in all lanes.
#pragma once

#include <type_traits>

#include "cpu/matrix/sweep.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// Calls body(first, terms) for parts of three or four of `count` numbers, terms a constant.
template <class F>
inline void each_part(int count, F&& body) {
  for (int parts = (count + 3) / 4, first = 0; parts > 0; --parts) {
    const int terms = (count - first + parts - 1) / parts;
    if (terms == 4)
      body(first, std::integral_constant<int, 4>());
    else
      body(first, std::integral_constant<int, 3>());
    first += terms;
  }
}

// The rows and columns of `p` pivots among themselves, and what sweeps the other rows: scaled[k] is row k of them,
// divided by pivot k, when that is swept.
template <class T, int p>
struct SweptPivots {
  Vector<T> own[p][p], scaled[p][p], pivot[p], inverse[p];

  // Out of line: the compiler decides which of two products it fuses with a sum, and should do it once for all callers.
  template <Swept result>
  __attribute__((noinline)) void sweep() {
    sweep_here<result>();
  }
  template <Swept result>
  __attribute__((always_inline)) inline void sweep_here() {
#pragma GCC unroll 4
    for (int k = 0; k < p; ++k) {
      pivot[k] = result == Swept::minus_own_inverse ? own[k][k] : T(1) + own[k][k];
      inverse[k] = T(1) / pivot[k];
#pragma GCC unroll 4
      for (int s = 0; s < p; ++s) scaled[k][s] = own[k][s] * inverse[k];
#pragma GCC unroll 4
      for (int s = 0; s < p; ++s)
#pragma GCC unroll 4
        for (int t = 0; t <= s; ++t)
          if (s != k && t != k) own[t][s] = own[s][t] -= own[s][k] * scaled[k][t];
#pragma GCC unroll 4
      for (int s = 0; s < p; ++s) own[s][k] = own[k][s] = scaled[k][s];
      if (result != Swept::quotient) own[k][k] = -inverse[k];
    }
  }

  // x: the numbers of another row in these columns. From its number j all pivots subtract the sum of left[k] times the
  // right[k] of row j.
  __attribute__((always_inline)) inline void sweep_row(Vector<T> (&x)[p], Vector<T> (&left)[p],
                                                       Vector<T> (&right)[p]) const {
#pragma GCC unroll 4
    for (int k = 0; k < p; ++k) {
      left[k] = x[k];
#pragma GCC unroll 4
      for (int s = 0; s < p; ++s)
        if (s != k) x[s] -= left[k] * scaled[k][s];
      right[k] = x[k] = left[k] * inverse[k];
    }
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

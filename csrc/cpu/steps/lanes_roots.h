// The accurate roots of small matrices, one a lane: the method of denman_beavers.h.
#pragma once

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/lanes_algebra.h"
#include "cpu/steps/denman_beavers.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// X ~ A^(1/2) and Y ~ A^(-1/2) for an A with eigenvalues up to 1, those that are wanted. Returns where A is definite
// and not singular.
template <class T, int n, class Design>
FASTSQRTM_LANE Mask<T> newton_roots(const Design& design, Wanted wanted, const Symmetric<T, n>& A, Symmetric<T, n>& X,
                                    Symmetric<T, n>& Y) {
  Mask<T> good = all_lanes<T>();
  Symmetric<T, n> H = A, minus_X_inverse;
  X = A;
  X *= broadcast(T(design.constant));
  Y = A;
  Y *= Vector<T>{};
  add_identity(Y, broadcast(T(design.constant)));
  for (int j = 0; j < design.poles; ++j) {
    const Vector<T> weight = broadcast(T(design.weights[j]));
    H = A;
    H *= broadcast(T(design.inverse_shift(j)));
    good &= sweep<Swept::minus_inverse>(H);  // -(I + A/t)^-1
    combine(weight, H, broadcast(T(1)), X);
    add_identity(X, weight);
    combine(broadcast(T(-design.weight_over_shift(j))), H, broadcast(T(1)), Y);
  }
  const T largest_inverse = T(largest_regular_inverse(design, sizeof(T)));
  for (int k = 0; k < design.newton_steps; ++k) {
    const bool last = k + 1 == design.newton_steps, next_X = !last || wanted.root, next_Y = !last || wanted.inverse;
    const Vector<T> half = broadcast(T(design.half_scale(k)));
    if (next_Y) good &= minus_inverse(X, minus_X_inverse);
    if (k == 0 && next_Y) good &= inner_product(minus_X_inverse, minus_X_inverse) <= largest_inverse * largest_inverse;
    if (next_X) {
      good &= minus_inverse(Y, H);
      combine(-half, H, half, X);
    }
    if (next_Y) combine(-half, minus_X_inverse, half, Y);
  }
  return good;
}

#ifndef FASTSQRTM_ONE_LANE
// tr A / tr X^2 - 1, twice the relative error that a root X has to the same side at all large eigenvalues.
template <class T, int n>
FASTSQRTM_LANE Vector<T> excess_of_trace(const Symmetric<T, n>& A, const Symmetric<T, n>& X) {
  using Sum = WideSum<T>;
  Sum squares, trace;
  const auto numbers = [](const Vector<T>& x) { return reinterpret_cast<const T*>(&x); };
  for (int i = 0; i < A.order; ++i) {
    Sum row;  // rows by themselves: short sums round less. Up to n = 8 their parts beside the diagonal.
    constexpr bool whole = n > largest_unrolled_order;
    for (int j = 0; j < (whole ? A.order : i); ++j) row.add(numbers(X(i, j)), numbers(X(i, j)));
    for (int p = 0; p < Sum::parts; ++p) {
      const Vector<double> x = Sum::wide(numbers(X(i, i)), p);
      squares.part[p] += whole ? row.part[p] : x * x + (row.part[p] + row.part[p]);
      trace.part[p] += Sum::wide(numbers(A(i, i)), p);
    }
  }
  Vector<T> excess, size;
  for (int p = 0; p < Sum::parts; ++p) {
    const auto more = __builtin_convertvector(trace.part[p] - squares.part[p], typename Sum::Part);
    const auto whole = __builtin_convertvector(squares.part[p], typename Sum::Part);
    std::memcpy(reinterpret_cast<T*>(&excess) + p * Sum::lanes, &more, sizeof more);
    std::memcpy(reinterpret_cast<T*>(&size) + p * Sum::lanes, &whole, sizeof whole);
  }
  return excess / size;
}
template <class T>
Vector<T> excess_of_trace(const Symmetric<T, alone>& A, const Symmetric<T, alone>& X) {
  double square, trace;
  square_and_trace(X, A, square, trace);
  return broadcast(T(trace - square) / T(square));
}
#else
template <class T, int n>
FASTSQRTM_LANE Vector<T> excess_of_trace(const Symmetric<T, n>& A, const Symmetric<T, n>& X) {
  const Vector<T> squares = inner_product(X, X);
  return (trace(A) - squares) / squares;
}
#endif

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

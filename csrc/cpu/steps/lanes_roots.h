// The accurate roots of small matrices, one a lane: the method of denman_beavers.h.
#pragma once

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/lanes_algebra.h"
#include "cpu/steps/denman_beavers.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// X ~ A^(1/2) and Y ~ A^(-1/2) for an A with eigenvalues up to 1, those that are wanted. Returns where A is definite
// and not singular.
template <class T, int n>
Mask<T> newton_roots(const RootDesign& design, Wanted wanted, const Symmetric<T, n>& A, Symmetric<T, n>& X,
                     Symmetric<T, n>& Y) {
  const Vector<T> zero = {};
  Mask<T> good = all_lanes<T>();
  Symmetric<T, n> H = A, minus_X_inverse;
  X = linear<T, n>(broadcast(T(design.constant)), A, zero, A);
  Y = {};
  add_identity(Y, broadcast(T(design.constant)));
  for (int j = 0; j < design.poles; ++j) {
    const Vector<T> weight = broadcast(T(design.weights[j]));
    H = A;
    H *= broadcast(T(1 / design.shifts[j]));
    good &= sweep<Swept::minus_inverse>(H);  // -(I + A/t)^-1
    X = linear(weight, H, broadcast(T(1)), X);
    add_identity(X, weight);
    Y = linear(broadcast(T(-design.weights[j] / design.shifts[j])), H, broadcast(T(1)), Y);
  }
  const T largest_inverse = T(design.largest_inverse(singular_eigenvalue(sizeof(T))));
  for (int k = 0; k < design.newton_steps; ++k) {
    const bool last = k + 1 == design.newton_steps, next_X = !last || wanted.root, next_Y = !last || wanted.inverse;
    const Vector<T> half = broadcast(T(design.scales[k] / 2));
    if (next_Y) good &= minus_inverse(X, minus_X_inverse);
    if (k == 0 && next_Y) good &= inner_product(minus_X_inverse, minus_X_inverse) <= largest_inverse * largest_inverse;
    if (next_X) {
      good &= minus_inverse(Y, H);
      X = linear(-half, H, half, X);
    }
    if (next_Y) Y = linear(-half, minus_X_inverse, half, Y);
  }
  return good;
}

// tr A / tr X^2 - 1, twice the relative error that a root X has to the same side at all large eigenvalues.
template <class T, int n>
Vector<T> excess_of_trace(const Symmetric<T, n>& A, const Symmetric<T, n>& X) {
  using Wide = typename DoubleLanes<T>::Vector;
  Wide trace = {}, squares = {};
  for (int i = 0; i < n; ++i) {
    Wide beside = {};  // rows by themselves: short sums round less
    for (int j = 0; j < i; ++j) {
      const Wide x = __builtin_convertvector(X(i, j), Wide);
      beside += x * x;
    }
    const Wide x = __builtin_convertvector(X(i, i), Wide);
    squares += x * x + (beside + beside);
    trace += __builtin_convertvector(A(i, i), Wide);
  }
  return __builtin_convertvector(trace - squares, Vector<T>) / __builtin_convertvector(squares, Vector<T>);
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

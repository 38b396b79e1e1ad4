// The accurate methods: Newton iterations by SPD inverses. The scalars of the roots are in csrc/zolotarev.h.
// Counterparts in Python: newton_roots and solve_newton in fastsqrtm/reference.py.
#pragma once

#include <utility>

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/product.h"
#include "cpu/matrix/sweep.h"
#include "cpu/matrix/symmetric.h"
#include "scalars/zolotarev.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// On and under the diagonal: W <- -P^-1. False: a pivot was not positive.
template <class T>
bool minus_inverse(const Team& team, const Panels<T>& P, const Panels<T>& W, const SweepStrips<T>& strips) {
  combine(team, T(1), P, T(0), W);
  return sweep<T, Swept::minus_own_inverse>(team, W, strips);
}

// X ~ A^(1/2) and Y ~ A^(-1/2), on and under the diagonal, for A with eigenvalues up to 1. Of the last step only what
// is `wanted` is computed. A and H are overwritten. False: A is not positive definite in this precision.
template <class T>
bool newton_roots(const Team& team, const RootDesign& design, bool root_wanted, bool inverse_wanted, const Panels<T>& A,
                  const Panels<T>& X, const Panels<T>& Y, const Panels<T>& H, const SweepStrips<T>& strips) {
  combine(team, T(design.constant), A, T(0), X);
  combine(team, T(0), A, T(0), Y);
  add_identity(Y, T(design.constant));
  for (int j = 0; j < design.poles; ++j) {
    combine(team, T(1 / design.shifts[j]), A, T(0), H);
    if (!sweep<T, Swept::minus_inverse>(team, H, strips)) return false;  // H = -(I + A/t)^-1 = -t (A + t I)^-1
    combine(team, T(design.weights[j]), H, T(1), X);
    add_identity(X, T(design.weights[j]));
    combine(team, T(-design.weights[j] / design.shifts[j]), H, T(1), Y);
  }
  const double largest_inverse = design.largest_inverse(std::numeric_limits<T>::epsilon());
  const Panels<T>& minus_X_inverse = A;
  const Panels<T>& minus_Y_inverse = H;
  for (int k = 0; k < design.newton_steps; ++k) {
    const bool last = k + 1 == design.newton_steps, next_X = !last || root_wanted, next_Y = !last || inverse_wanted;
    const T half = T(design.scales[k] / 2);
    if (next_Y && !minus_inverse(team, X, minus_X_inverse, strips)) return false;
    // The rounding of an inverse that large would show in the root of every eigenvalue.
    if (k == 0 && next_Y && sum_of_squares(minus_X_inverse) > -largest_inverse * trace(minus_X_inverse)) return false;
    if (next_X && !minus_inverse(team, Y, minus_Y_inverse, strips)) return false;
    if (next_X) combine(team, -half, minus_Y_inverse, half, X);
    if (next_Y) combine(team, -half, minus_X_inverse, half, Y);
  }
  return true;
}

// W <- B^-1, complete. Adds a ridge to B where it must, in units of `unit` of its norm. False: B is indefinite.
template <class T>
bool invert(const Team& team, double unit, const Panels<T>& B, const Panels<T>& W, const SweepStrips<T>& strips) {
  const double norm = one_norm(B);
  for (const double ridge : ridges) {
    add_identity(B, T(ridge * unit * norm));
    if (!minus_inverse(team, B, W, strips)) continue;
    mirror(team, W, T(-1));
    return true;
  }
  return false;
}

// Solves B X + X B = C for C^T = sign C, sign = +-1, B symmetric positive definite and W = B^-1, all complete. All are
// overwritten; returns where X is, or X.data = nullptr: an inverse failed.
//
// Newton steps for the sign of [[B, -C], [0, -B]] (Roberts 1980; the scaling by 1-norms is Higham's, Functions of
// Matrices, section 8.6):  C <- (mu C + B^-1 C B^-1 / mu) / 2,  B <- (mu B + B^-1 / mu) / 2.
// B tends to I. As soon as it is near theta I, with E = B/theta - I so small that two corrections suffice by a bound
// that is usually far too large, X <- C/(2 theta) - (E X + X E)/2 is cheaper than a step; it stops by its own measured
// contraction.
template <class T>
Panels<T> solve_newton(const Team& team, double tolerance, T sign, Panels<T> B, Panels<T> W, Panels<T> C, Panels<T> U,
                       Panels<T> V) {
  constexpr int most_steps = 12, most_corrections = 6;
  double theta = 1;
  for (int step = 1;; ++step) {
    const double mu = std::sqrt(one_norm(W) / one_norm(B));
    product(team, Triangle::full, C, W, U);  // sign C W, because the left operand is read transposed
    product(team, Triangle::lower, W, U, V);
    mirror(team, V, T(sign / (2 * mu)), C, T(mu / 2), T(0), sign);
    std::swap(C, V);
    combine_full(team, T(1 / (2 * mu)), W, T(mu / 2), B);
    theta = trace(B) / B.n;
    copy(team, B, W);
    add_identity(W, T(-theta));
    const double bound = spectral_bound(W) / theta;
    if (!(bound * bound * bound > tolerance) || step == most_steps) break;
    if (!minus_inverse(team, B, W, SweepStrips<T>(U))) return {nullptr, B.n};
    mirror(team, W, T(-1));
  }
  // W is B - theta I.
  const T half = T(0.5 / theta);
  combine_full(team, half, C, T(0), C);
  const double size = frobenius(C);
  Panels<T> X = V, next = B;
  copy(team, C, X);
  double contraction = 0;
  for (int step = 1; step <= most_corrections; ++step) {
    product(team, Triangle::full, X, W, U);  // sign X W
    copy(team, C, next);
    add_with_transpose(team, next, T(1), U, -sign * half, sign);
    const double change = distance(next, X) / size;
    std::swap(X, next);
    if (step == 1) contraction = change < 0.5 ? change : 0.5;
    if (!(change * contraction > tolerance)) break;
  }
  return X;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// The accurate Lyapunov solver: Newton steps by SPD inverses, then corrections by products.
// Counterpart in Python: solve_newton in fastsqrtm/_reference/lyapunov.py.
#pragma once

#include <utility>

#include "cpu/matrix/product.h"
#include "cpu/matrix/workspace.h"
#include "cpu/steps/inverse.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// Solves B X + X B = C for C^T = sign C, sign = +-1. ws[0] holds B, symmetric positive definite, ws[1] W = B^-1 and
// ws[2] C, all complete. Overwrites the five matrices. Returns X, or X.data = nullptr if an inverse failed.
//
// Newton steps for the sign of [[B, -C], [0, -B]] (Roberts 1980; the scaling by 1-norms is Higham's, Functions of
// Matrices, section 8.6):  C <- (mu C + B^-1 C B^-1 / mu) / 2,  B <- (mu B + B^-1 / mu) / 2.
// B tends to I. As soon as it is near theta I, with E = B/theta - I so small that two corrections suffice by a bound
// that is usually far too large, X <- C/(2 theta) - (E X + X E)/2 is cheaper than a step; it stops by its own measured
// contraction.
template <class T>
Panels<T> solve_newton(const Team& team, double tolerance, T sign, const Workspace<T>& ws) {
  Panels<T> B = ws[0], W = ws[1], C = ws[2], U = ws[3], V = ws[4];
  constexpr int most_steps = 12, most_corrections = 6;
  double theta = 1;
  for (int step = 1;; ++step) {
    const double mu = std::sqrt(one_norm(team, W) / one_norm(team, B));
    product(team, Triangle::full, C, W, U);  // sign C W, because the left operand is read transposed
    product(team, Triangle::lower, W, U, V);
    mirror(team, V, T(sign / (2 * mu)), C, T(mu / 2), T(0), sign);
    std::swap(C, V);
    combine_twice(team, T(1 / (2 * mu)), W, T(mu / 2), B);
    theta = trace(B) / B.n;
    add_identity(W, T(-theta));
    const double bound = spectral_bound(team, W) / theta;
    if (!(bound * bound * bound > tolerance) || step == most_steps) break;
    for (int i = 0; i < B.n; ++i) *W.at(i, i) = *B.at(i, i);
    if (!sweep<T, Swept::minus_own_inverse>(team, W, SweepStrips<T>(U))) return {nullptr, B.n};
    mirror(team, W, T(-1));
  }
  // W is B - theta I.
  const T half = T(0.5 / theta);
  combine_full(team, half, C, T(0), C);
  const double size = frobenius(team, C);
  Panels<T> X = C, next = B;
  double contraction = 0;
  for (int step = 1; step <= most_corrections; ++step) {
    product(team, Triangle::full, X, W, U);  // sign X W
    add_with_transpose(team, T(1), C, -sign * half, U, sign, next);
    const double change = distance(team, next, X) / size;
    std::swap(X, next);
    if (step == 1) {
      contraction = change < 0.5 ? change : 0.5;
      next = V;  // C stays
    }
    if (!(change * contraction > tolerance)) break;
  }
  return X;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// The accurate roots: Zolotarev's approximation, then the coupled steps of Denman and Beavers. The scalars and sources
// are in csrc/scalars/zolotarev.h. Counterpart in Python: newton_roots in fastsqrtm/_reference/roots.py.
#pragma once

#include "cpu/matrix/workspace.h"
#include "cpu/steps/inverse.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// W <- -P^-1, on and under the diagonal. Large matrices as -(I + (P/c - I))^-1/c with c the mean eigenvalue: where most
// eigenvalues are near the largest, as of kernel matrices with noise, the diagonal would otherwise take the same
// rounding again and again, to the same side.
template <class T>
bool minus_inverse_about_mean(const Team& team, const Panels<T>& P, const Panels<T>& W, const SweepStrips<T>& strips) {
  if (P.n <= 256) return minus_inverse(team, P, W, strips);
  const T factor = T(P.n / trace(P));
  combine(team, factor, P, T(0), W);
  add_identity(W, T(-1));
  if (!sweep<T, Swept::minus_inverse>(team, W, strips)) return false;
  combine(team, factor, W, T(0), W);
  return true;
}

struct Wanted {
  bool root, inverse;
};

// X ~ A^(1/2) in ws[1] and Y ~ A^(-1/2) in ws[2], on and under the diagonal, for the A in ws[0] with eigenvalues up to
// 1. The last step computes only the roots asked for. Overwrites the five matrices. Returns false if A is singular or
// not positive definite in this precision.
template <class T>
bool newton_roots(const Team& team, const RootDesign& design, Wanted wanted, const Workspace<T>& ws) {
  const Panels<T> A = ws[0], X = ws[1], Y = ws[2], H = ws[3];
  const SweepStrips<T> strips(ws[4]);
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
  const double largest_inverse = design.largest_inverse(singular_eigenvalue(sizeof(T)));
  const Panels<T>& minus_X_inverse = A;
  const Panels<T>& minus_Y_inverse = H;
  for (int k = 0; k < design.newton_steps; ++k) {
    const bool last = k + 1 == design.newton_steps, next_X = !last || wanted.root, next_Y = !last || wanted.inverse;
    const T half = T(design.scales[k] / 2);
    if (next_Y && !minus_inverse(team, X, minus_X_inverse, strips)) return false;
    // Below the interval of the design the steps end too early, and their rounding shows in every eigenvalue.
    if (k == 0 && next_Y && sum_of_squares(minus_X_inverse) > largest_inverse * largest_inverse) {
      mirror(team, minus_X_inverse, T(1));
      if (!(spectral_estimate(minus_X_inverse, 4, H.data) <= largest_inverse)) return false;
    }
    if (next_X && !minus_inverse_about_mean(team, Y, minus_Y_inverse, strips)) return false;
    if (next_X) combine(team, -half, minus_Y_inverse, half, X);
    if (next_Y) combine(team, -half, minus_X_inverse, half, Y);
  }
  return true;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

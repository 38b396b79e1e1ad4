// B X + X B = C by Newton steps: once for the symmetric part of C, and once more for its skew part if there is one.
#pragma once

#include "cpu/steps/jacobi.h"
#include "cpu/steps/lanes_lyapunov.h"
#include "cpu/steps/newton_lyapunov.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct LyapunovNewton {
  using Arguments = passes::LyapunovNewton;
  static constexpr int matrices = 5;  // of workspace
  static constexpr bool adds_to_output = true;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    constexpr T nan = std::numeric_limits<T>::quiet_NaN();
    const MatrixIn &B = task.in[0], &C = task.in[1];
    Storage* target = static_cast<Storage*>(task.out[0]);
    for (const T sign : {T(1), T(-1)}) {
      load_part<T, Storage>(team, C, sign, ws[2]);
      if (sign < 0 && frobenius(team, ws[2]) == 0) return;
      load_symmetric<T, Storage>(team, B, ws[0]);
      double s = frobenius(team, ws[0]);
      if (s == 0) return fill(task.n, T(0), T(0), target);
      if (!(s < std::numeric_limits<double>::infinity())) return fill(task.n, nan, nan, target);
      s = normalise(team, s, ws[0]);
      if (!invert(team, ridge_unit<T>(element_of<Storage>), ws[0], ws[1], SweepStrips<T>(ws[3])))
        return fill(task.n, nan, nan, target);
      const Panels<T> X = solve_newton(team, arguments.tolerance, sign, ws);
      if (!X.data) return fill(task.n, nan, nan, target);
      store_matrix(team, X, 1 / s, target, sign < 0);
    }
  }

  // The smallest by eigenvalues, the others as above where C is symmetric.
  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes([[maybe_unused]] const Told& arguments, const Lanes<T>& lanes) {
    Symmetric<T, n> B = load_symmetric<T, n>(lanes.in[0]);
    const Scaled<T, n> scaled(B);
    if constexpr (n > largest_spectral_order) {
      const Vector<T> factor = T(1) / frobenius(B);
      B *= factor;
      Symmetric<T, n> W, X;
      const Mask<T> symmetric = is_zero(load_part<T, n>(lanes.in[1], T(-1))), positive = minus_inverse(B, W);
      Symmetric<T, n> C = load_symmetric<T, n>(lanes.in[1]);
      const Mask<T> good = solve_newton(T(arguments.tolerance), T(-1), B, W, C, X);
      X *= factor;
      X *= scaled.scale.inverse;
      store_matrices(X, lanes.out[0]);
      return scaled.regular & symmetric & positive & good;
    } else {
      LaneEigen<T, n> eigen = jacobi(B);
      const Vector<T> least = 8 * Limits<T>::epsilon * eigen.size;
      add_ridge(lanes.ridge_unit, least, eigen);
      Square<T, n> X = load_part<T, n>(lanes.in[1], T(1));
      const auto solve = [&](T sign, Square<T, n>& C) {
        Square<T, n> M = congruence(C, eigen.V);
        for (int i = 0; i < n; ++i)
          for (int j = 0; j < n; ++j) M(i, j) /= eigen.values[i] + eigen.values[j];
        M = congruence(M, Transposed<Square<T, n>>{eigen.V});
        for (int i = 0; i < n; ++i)
          for (int j = 0; j < n; ++j) C(i, j) = T(0.5) * (M(i, j) + sign * M(j, i)) * scaled.scale.inverse;
      };
      Square<T, n> skew = load_part<T, n>(lanes.in[1], T(-1));
      const Mask<T> has_skew = ~is_zero(skew);
      solve(T(1), X);
      if (any(has_skew)) {
        solve(T(-1), skew);
        for (int i = 0; i < n; ++i)
          for (int j = 0; j < n; ++j) X(i, j) = has_skew ? X(i, j) + skew(i, j) : X(i, j);
      }
      store_matrices(X, lanes.out[0]);
      return scaled.regular & (eigen.smallest > least);
    }
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

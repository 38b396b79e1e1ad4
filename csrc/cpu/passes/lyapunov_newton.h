// B X + X B = C by Newton steps: once for the symmetric part of C, and once more for its skew part if there is one.
#pragma once

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
      if (sign < 0 && frobenius(ws[2]) == 0) return;
      load_symmetric<T, Storage>(team, B, ws[0]);
      double s = frobenius(ws[0]);
      if (s == 0) return fill(task.n, T(0), T(0), target);
      if (!(s < std::numeric_limits<double>::infinity())) return fill(task.n, nan, nan, target);
      s = normalise(team, s, ws[0]);
      if (!invert(team, ridge_unit<T>(element_of<Storage>), ws[0], ws[1], SweepStrips<T>(ws[3])))
        return fill(task.n, nan, nan, target);
      const Panels<T> X = solve_newton(team, arguments.tolerance, sign, ws);
      if (!X.data) return fill(task.n, nan, nan, target);
      store_matrix(X, 1 / s, target, sign < 0);
    }
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// B X + X B = C by the paper's iteration, scaled by s = ||B||_F: once for the symmetric part of C, and once more for
// its skew part if there is one.
#pragma once

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/memory.h"
#include "cpu/steps/lanes_lyapunov.h"
#include "cpu/steps/sign_lyapunov.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct Lyapunov {
  using Arguments = passes::Lyapunov;
  static constexpr int matrices = 4;  // of workspace
  static constexpr bool adds_to_output = true;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    const MatrixIn &B = task.in[0], &C = task.in[1];
    Storage* target = static_cast<Storage*>(task.out[0]);
    for (const T sign : {T(1), T(-1)}) {
      load_part<T, Storage>(team, C, sign, ws[1]);
      if (sign < 0 && frobenius(team, ws[1]) == 0) return;
      load_symmetric<T, Storage>(team, B, ws[0]);
      double s = frobenius(team, ws[0]);
      if (s == 0) return fill(task.n, T(0), T(0), target);
      s = normalise(team, s, ws[0]);
      solve_lyapunov(team, arguments.iterations, sign, ws);
      store_matrix(team, ws[1], 0.5 / s, target, sign < 0);
    }
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told& arguments, const Lanes<T>& lanes) {
    Symmetric<T, n> B = load_symmetric<T, n>(lanes.in[0]);
    const Scaled<T, n> scaled(B);
    const Vector<T> factor = T(1) / frobenius(B);
    B *= factor;
    Square<T, n> X = load_part<T, n>(lanes.in[1], T(1)), skew = load_part<T, n>(lanes.in[1], T(-1));
    solve_lyapunov(arguments.iterations, T(1), B, X);
    const Mask<T> has_skew = ~is_zero(skew);
    if (any(has_skew)) {
      solve_lyapunov(arguments.iterations, T(-1), B, skew);
      for (int i = 0; i < X.size(); ++i) X.entry[i] = has_skew ? X.entry[i] + skew.entry[i] : X.entry[i];
    }
    for (int i = 0; i < X.size(); ++i) X.entry[i] = X.entry[i] * (T(0.5) * factor) * scaled.scale.inverse;
    store_matrices(X, lanes.out[0]);
    return scaled.regular;
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

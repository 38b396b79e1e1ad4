// Z X + X Z = -Z^2 sym(G) Z^2 by the paper's iteration. With B = Z / s, s = ||Z||_F, the right-hand side is
// -B^2 sym(G) B^2 and the solution s^3 X.
#pragma once

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/memory.h"
#include "cpu/steps/lanes_lyapunov.h"
#include "cpu/steps/sign_lyapunov.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct InvSqrtmLyaBackward {
  using Arguments = passes::InvSqrtmLyaBackward;
  static constexpr int matrices = 4;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    const MatrixIn &Z = task.in[0], &G = task.in[1];
    const Panels<T> B = ws[0], C = ws[1], B2 = ws[2], U = ws[3];
    Storage* target = static_cast<Storage*>(task.out[0]);
    load_symmetric<T, Storage>(team, Z, B);
    double s = is_infinite_root(B) ? 0 : frobenius(team, B);
    if (s == 0) return fill(task.n, T(0), T(0), target);
    load_symmetric<T, Storage>(team, G, C);
    s = normalise(team, s, B);
    product(team, Triangle::lower, B, B, B2);
    mirror<T, true>(team, B2, T(1));
    product(team, Triangle::full, C, B2, U);
    product(team, Triangle::lower, B2, U, C);
    mirror(team, C, T(1));
    solve_lyapunov(team, arguments.iterations, T(1), ws);
    store_matrix(team, C, -0.5 * s * s * s, target);
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told& arguments, const Lanes<T>& lanes) {
    Symmetric<T, n> B = load_symmetric<T, n>(lanes.in[0]);
    const Scaled<T, n> scaled(B);
    const Vector<T> factor = T(1) / frobenius(B);
    B *= factor;
    Symmetric<T, n> C = congruence(load_symmetric<T, n>(lanes.in[1]), symmetric_product<T, n>(B, B));
    solve_lyapunov(arguments.iterations, B, C);
    const Vector<T> s = T(1) / factor;
    C *= T(-0.5) * s;
    for (int power = 0; power < 2; ++power) C *= s;
    for (int power = 0; power < 3; ++power) C *= scaled.scale.value;
    store_matrices(C, lanes.out[0]);
    return scaled.regular;
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

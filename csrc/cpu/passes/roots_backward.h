// The gradient for the cotangents G of S = A^(1/2) and H of Z = A^(-1/2): S X + X S = sym(G) - Z sym(H) Z. An absent S
// is computed as the inverse of Z. One of G and H is enough.
#pragma once

#include "cpu/steps/newton_lyapunov.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct RootsBackward {
  using Arguments = passes::RootsBackward;
  static constexpr int matrices = 5;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    constexpr T nan = std::numeric_limits<T>::quiet_NaN();
    const MatrixIn &S = task.in[0], &Z = task.in[1], &G = task.in[2], &H = task.in[3];
    const Panels<T> B = ws[0], W = ws[1], C = ws[2], U = ws[3], V = ws[4];
    Storage* target = static_cast<Storage*>(task.out[0]);
    // B = S/s with s the norm of S, or W = s Z with 1/s that of Z.
    const Panels<T>& given = S.data ? B : W;
    load_symmetric<T, Storage>(team, S.data ? S : Z, given);
    double s = !S.data && is_infinite_root(given) ? 0 : frobenius(given);
    if (s == 0) return fill(task.n, T(0), T(0), target);
    if (!(s < std::numeric_limits<double>::infinity())) return fill(task.n, nan, nan, target);
    s = normalise(team, s, given);
    if (!S.data) s = 1 / s;
    double scale = 1 / s;
    if (H.data) {
      if (S.data) {
        load_symmetric<T, Storage>(team, Z, W);
        combine_full(team, T(s), W, T(0), W);
      }
      load_symmetric<T, Storage>(team, H, C);
      product(team, Triangle::full, C, W, U);
      product(team, Triangle::lower, W, U, V);
      if (G.data) {
        load_symmetric<T, Storage>(team, G, C);
        mirror(team, V, T(-1 / (s * s)), C, T(1));
      } else {
        mirror(team, V, T(-1));
        scale /= s * s;
      }
      copy(team, V, C);
    } else {
      load_symmetric<T, Storage>(team, G, C);
    }
    constexpr double unit = ridge_unit<T>(element_of<Storage>);
    const SweepStrips<T> strips(U);
    if (!(S.data ? invert_root(team, unit, B, W, strips) : invert(team, unit, W, B, strips)))
      return fill(task.n, nan, nan, target);
    const Panels<T> X = solve_newton(team, arguments.tolerance, T(1), ws);
    if (!X.data) return fill(task.n, nan, nan, target);
    store_matrix(X, scale, target);
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

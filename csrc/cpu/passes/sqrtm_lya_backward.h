// S X + X S = sym(G) by the paper's iteration. B = S / s with s^2 = ||A||_F: the normaliser of the forward pass bounds
// the root.
#pragma once

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/memory.h"
#include "cpu/steps/lanes_lyapunov.h"
#include "cpu/steps/sign_lyapunov.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct SqrtmLyaBackward {
  using Arguments = passes::SqrtmLyaBackward;
  static constexpr int matrices = 4;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    const MatrixIn &A = task.in[0], &S = task.in[1], &G = task.in[2];
    Storage* target = static_cast<Storage*>(task.out[0]);
    load_symmetric<T, Storage>(team, A, ws[0]);
    double s = std::sqrt(frobenius(team, ws[0]));
    if (s == 0) return fill(task.n, T(0), T(0), target);
    load_symmetric<T, Storage>(team, S, ws[0]);
    load_symmetric<T, Storage>(team, G, ws[1]);
    s = normalise(team, s, ws[0]);
    solve_lyapunov(team, arguments.iterations, T(1), ws);
    store_matrix(team, ws[1], 0.5 / s, target);
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told& arguments, const Lanes<T>& lanes) {
    Symmetric<T, n> A = load_symmetric<T, n>(lanes.in[0]), S = load_symmetric<T, n>(lanes.in[1]);
    Symmetric<T, n> C = load_symmetric<T, n>(lanes.in[2]);
    const Scaled<T, n> scaled(A);
    const Vector<T> factor = T(1) / square_root(frobenius(A));
    S *= scaled.scale.inverse_root;
    S *= factor;
    solve_lyapunov(arguments.iterations, S, C);
    C *= T(0.5) * factor;
    C *= scaled.scale.inverse_root;
    store_matrices(C, lanes.out[0]);
    return scaled.regular;
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

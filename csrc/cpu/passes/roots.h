// A -> A^(1/2) and A^(-1/2), either or both, as accurately as the design says. A matrix that turns out to be indefinite
// in this precision starts again with a larger ridge on its diagonal.
#pragma once

#include "cpu/steps/denman_beavers.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct Roots {
  using Arguments = passes::Roots;
  static constexpr int matrices = 5;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    constexpr T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
    Storage *root_target = static_cast<Storage*>(task.out[0]), *inverse_target = static_cast<Storage*>(task.out[1]);
    const auto fill_both = [&](T root_diagonal, T inverse_diagonal, T off_diagonal) {
      if (root_target) fill(task.n, root_diagonal, off_diagonal, root_target);
      if (inverse_target) fill(task.n, inverse_diagonal, off_diagonal, inverse_target);
    };
    const Wanted wanted = {root_target != nullptr, inverse_target != nullptr};
    const Panels<T> A = ws[0], S = ws[1], Z = ws[2];
    constexpr double epsilon = std::numeric_limits<T>::epsilon();
    double ridge = 0;
    for (const double next : ridges) {
      ridge = next * (next == last_ridge ? ridge_unit<T, Storage>() : epsilon);
      load_symmetric<T, Storage>(team, task.in[0], A);
      double nu = frobenius(A);
      if (nu == 0) return fill_both(T(0), infinity, T(0));
      if (!(nu < std::numeric_limits<double>::infinity())) return fill_both(nan, nan, nan);
      nu = normalise(team, nu, A);
      const double tighter = one_norm(A);  // a bound of the largest eigenvalue, as the Frobenius norm is
      if (tighter < 1) nu *= normalise(team, tighter, A);
      add_identity(A, T(ridge));
      if (!newton_roots(team, arguments.design, wanted, ws)) continue;
      if (root_target) {
        mirror(team, S, T(1));
        store_matrix(S, std::sqrt(nu), root_target);
      }
      if (inverse_target) {
        mirror(team, Z, T(1));
        store_matrix(Z, 1 / std::sqrt(nu), inverse_target);
      }
      return;
    }
    fill_both(nan, nan, nan);
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// A -> A^-1 and log det A by one sweep, n^3 flop, and the gradient of the inverse by two products. A matrix that is not
// positive definite in this precision gives NaN. The zero matrix gives +inf on the diagonal and a gradient of zero, as
// it does for the inverse root.
#pragma once

#include "cpu/matrix/lanes_algebra.h"
#include "cpu/matrix/workspace.h"
#include "cpu/steps/inverse.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct Inverse {
  using Arguments = passes::Inverse;
  static constexpr int matrices = 2;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments&, const Workspace<T>& ws, const Team& team) {
    constexpr T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
    Storage *target = static_cast<Storage*>(task.out[0]), *log_target = static_cast<Storage*>(task.out[1]);
    const Panels<T> A = ws[0];
    const auto finish = [&](double log_determinant) {
      if (log_target) encode(T(log_determinant), *log_target);
    };
    load_symmetric<T, Storage>(team, task.in[0], A);
    const double size = frobenius(team, A);
    if (size == 0) {
      fill(task.n, infinity, T(0), target);
      return finish(-infinity);
    }
    double log_determinant = 0;
    if (!(size < std::numeric_limits<double>::infinity()) ||
        !sweep<T, Swept::minus_own_inverse>(team, A, SweepStrips<T>(ws[1]), &log_determinant)) {
      fill(task.n, nan, nan, target);
      return finish(nan);
    }
    mirror(team, A, T(-1));
    store_matrix(team, A, 1, target);
    finish(log_determinant);
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told&, const Lanes<T>& lanes) {
    Symmetric<T, n> A = load_symmetric<T, n>(lanes.in[0]);
    const Scaled<T, n> scaled(A);
    Vector<T> pivots[n];
    const Mask<T> positive = sweep<Swept::minus_own_inverse>(A, pivots);
    A *= -scaled.scale.inverse;
    store_matrices(A, lanes.out[0]);
    if (lanes.out[1])
      for (int lane = 0; lane < matrices_of_group<T, n>; ++lane) {
        double log_determinant = -A.order * std::log(double(scaled.scale.inverse[lane])), product = 1;
        for (int i = 0; i < A.order; ++i) {  // few logarithms, and no product that over- or underflows
          const double pivot = pivots[i][lane], next = product * pivot;
          if (next > 1e-280 && next < 1e280) {
            product = next;
          } else {
            log_determinant += std::log(product);
            product = pivot;
          }
        }
        lanes.out[1][Group<T, n>::matrix_of_lane(lane)] = T(log_determinant + std::log(product));
      }
    return scaled.regular & positive;
  }
};

struct InverseBackward {
  using Arguments = passes::InverseBackward;
  static constexpr int matrices = 4;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments&, const Workspace<T>& ws, const Team& team) {
    const Panels<T> Z = ws[0], G = ws[1], U = ws[2], X = ws[3];
    Storage* target = static_cast<Storage*>(task.out[0]);
    load_symmetric<T, Storage>(team, task.in[0], Z);
    if (is_infinite_root(Z)) return fill(task.n, T(0), T(0), target);
    if (!(frobenius(team, Z) < std::numeric_limits<double>::infinity())) {
      constexpr T nan = Limits<T>::quiet_NaN;
      return fill(task.n, nan, nan, target);
    }
    load_symmetric<T, Storage>(team, task.in[1], G);
    product(team, Triangle::full, G, Z, U);
    product(team, Triangle::lower, Z, U, X);
    mirror(team, X, T(-1));
    store_matrix(team, X, 1, target);
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told&, const Lanes<T>& lanes) {
    const Symmetric<T, n> Z = load_symmetric<T, n>(lanes.in[0]);
    Symmetric<T, n> X = congruence(load_symmetric<T, n>(lanes.in[1]), Z);
    X *= broadcast(T(-1));
    store_matrices(X, lanes.out[0]);
    return is_finite(Z);
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// A -> r(A) for a rational function r given by partial fractions, and its exact gradient: one sweep for each pole, and
// for the gradient two products more. There is no normaliser: the caller scales A to the interval of r.
#pragma once

#include "cpu/steps/lanes_series.h"
#include "cpu/steps/series.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct Rational {
  using Arguments = passes::Rational;
  static constexpr int matrices = 4;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    constexpr T nan = std::numeric_limits<T>::quiet_NaN();
    Storage* target = static_cast<Storage*>(task.out[0]);
    load_symmetric<T, Storage>(team, task.in[0], ws[0]);
    if (!(frobenius(team, ws[0]) < std::numeric_limits<double>::infinity())) return fill(task.n, nan, nan, target);
    const Panels<T> value = sum_of_fractions(team, arguments, ws);
    if (!value.data) return fill(task.n, nan, nan, target);
    store_matrix(team, value, 1, target);
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told& arguments, const Lanes<T>& lanes) {
    return rational_function<T, n>(arguments, lanes);
  }
};

struct RationalBackward {
  using Arguments = passes::RationalBackward;
  static constexpr int matrices = 5;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    constexpr T nan = Limits<T>::quiet_NaN;
    Storage* target = static_cast<Storage*>(task.out[0]);
    load_symmetric<T, Storage>(team, task.in[0], ws[0]);
    if (!(frobenius(team, ws[0]) < std::numeric_limits<double>::infinity())) return fill(task.n, nan, nan, target);
    load_symmetric<T, Storage>(team, task.in[1], ws[1]);
    const Derivative<T> L = derivative_of_fractions(team, arguments, ws);
    if (!L.matrix.data) return fill(task.n, nan, nan, target);
    store_matrix(team, L.matrix, 1, target);
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told& arguments, const Lanes<T>& lanes) {
    return gradient_of_rational_function<T, n>(arguments, lanes);
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

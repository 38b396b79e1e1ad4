// The exact gradient of the pass Ns.
#pragma once

#include "cpu/steps/lanes_series.h"
#include "cpu/steps/newton_schulz.h"
#include "cpu/steps/series.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct NsBackward {
  using Arguments = passes::NsBackward;
  static constexpr int matrices = 10;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    gradient_of_series<T, Storage>(task, arguments.power, ws, team, [&](Panels<T>& X, const auto& load_X) {
      const auto Y = newton_schulz<T, true>(team, arguments.steps, arguments.power == Power::minus_half, ws);
      X = ws[newton_schulz_free[0]];  // the iteration has overwritten X and G
      const Panels<T> G = ws[newton_schulz_free[1]];
      load_X(X);
      load_symmetric<T, Storage>(team, task.in[1], G);
      return Derivative<T>{Y.derivative, inner_product(team, G, Y.value)};
    });
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told& arguments, const Lanes<T>& lanes) {
    return gradient_of_series<T, n>(arguments.power, lanes, [&](const Symmetric<T, n>& X, const Symmetric<T, n>& G) {
      const auto Y = newton_schulz<true>(arguments.steps, arguments.power == Power::minus_half, X, G);
      return LaneDerivative<T, n>{Y.derivative, inner_product(G, Y.value)};
    });
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

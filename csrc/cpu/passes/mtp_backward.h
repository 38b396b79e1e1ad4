// The exact gradient of the pass Mtp.
#pragma once

#include "cpu/steps/lanes_series.h"
#include "cpu/steps/series.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct MtpBackward {
  using Arguments = passes::MtpBackward;
  static constexpr int matrices = 8;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    gradient_of_series<T, Storage>(task, arguments.power, ws, team, [&](const Panels<T>& X, auto&&...) {
      const Derivative<T> L = taylor_derivative(team, arguments, ws);
      mirror(team, X, T(-1), T(1));  // it holds I - X
      return L;
    });
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told& arguments, const Lanes<T>& lanes) {
    return gradient_of_series<T, n>(arguments.power, lanes, [&](const Symmetric<T, n>& X, const Symmetric<T, n>& G) {
      Symmetric<T, n> value;
      return taylor<true>(arguments, X, G, value);
    });
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// The exact gradient of the pass Mpa.
#pragma once

#include "cpu/steps/lanes_series.h"
#include "cpu/steps/series.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct MpaBackward {
  using Arguments = passes::MpaBackward;
  static constexpr int matrices = 5;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    gradient_of_series<T, Storage>(task, arguments.power, ws, team,
                                   [&](auto&&...) { return derivative_of_fractions(team, arguments, ws); });
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told& arguments, const Lanes<T>& lanes) {
    return gradient_of_series<T, n>(arguments.power, lanes, [&](const Symmetric<T, n>& X, const Symmetric<T, n>& G) {
      return derivative_of_fractions(arguments, X, G);
    });
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

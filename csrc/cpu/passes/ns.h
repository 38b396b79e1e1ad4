// A -> A^(1/2) or A^(-1/2) by Newton-Schulz steps.
#pragma once

#include "cpu/steps/lanes_series.h"
#include "cpu/steps/newton_schulz.h"
#include "cpu/steps/series.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct Ns {
  using Arguments = passes::Ns;
  static constexpr int matrices = 5;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    root_of_series<T, Storage>(task, arguments.power, ws, team, [&] {
      return newton_schulz<T, false>(team, arguments.steps, arguments.power == Power::minus_half, ws).value;
    });
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told& arguments, const Lanes<T>& lanes) {
    return root_of_series<T, n>(arguments.power, lanes, [&](const Symmetric<T, n>& X) {
      return LaneSeries<T, n>{newton_schulz<false>(arguments.steps, arguments.power == Power::minus_half, X, X).value};
    });
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// A -> A^(1/2) or A^(-1/2) by the diagonal Pade approximant.
#pragma once

#include "cpu/steps/lanes_series.h"
#include "cpu/steps/series.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct Mpa {
  using Arguments = passes::Mpa;
  static constexpr int matrices = 4;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    root_of_series<T, Storage>(task, arguments.power, ws, team, [&] { return sum_of_fractions(team, arguments, ws); });
  }

  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes(const Told& arguments, const Lanes<T>& lanes) {
    return root_of_series<T, n>(arguments.power, lanes,
                                [&](const Symmetric<T, n>& X) { return sum_of_fractions(arguments, X); });
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

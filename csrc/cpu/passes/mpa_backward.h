// The exact gradient of the pass Mpa.
#pragma once

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
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

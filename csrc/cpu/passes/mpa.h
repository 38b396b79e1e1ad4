// A -> A^(1/2) or A^(-1/2) by the diagonal Pade approximant.
#pragma once

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
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// Runs one fused kernel in the emulation as csrc/cuda/launch.cuh does on the device.
#pragma once

#include <algorithm>

#include "cuda/arguments.h"

namespace emulation {

using namespace fastsqrtm::cuda;

struct Operands {
  Problem problem;
  Input first, second, third;
  int degree;
  int iterations;
  bool inverse;
  void* kept;  // for lyapunov, lyapunov_newton and the exact gradients
  // For the accurate roots and their gradients. Roots: whether both are wanted, or the inverse instead of the root.
  // Gradients: `first` and `second` are a root and its cotangent; where there are both roots, the inverse root and its
  // cotangent are `third` and `fourth`.
  bool both = false;
  double rtol = 0;
  Input fourth = {};
};

inline double tolerance_of(const Operands& o) {
  return std::max(o.rtol, fastsqrtm::finest_tolerance(o.problem.storage == Storage::float64 ? 8 : 4));
}
inline const fastsqrtm::RootDesign& design_of(const Operands& o) {
  return fastsqrtm::root_design(o.rtol, o.problem.storage == Storage::float64 ? 8 : 4);
}
inline AccurateBackwardArguments backward_arguments(const Operands& o) {
  AccurateBackwardArguments a{o.problem, {}, {}, {}, {}, tolerance_of(o)};
  (o.inverse ? a.inverse_root : a.root) = o.first;
  (o.inverse ? a.inverse_cotangent : a.root_cotangent) = o.second;
  if (o.both) {
    a.inverse_root = o.third;
    a.inverse_cotangent = o.fourth;
  }
  return a;
}

void run(Fused op, const Operands& operands, const FusedPlan& plan);
// The same by the path for large matrices; `chunk` matrices at a time, or with 0 as many as the workspace allows.
void run_large(Fused op, const Operands& operands, int64_t chunk = 0);

}  // namespace emulation

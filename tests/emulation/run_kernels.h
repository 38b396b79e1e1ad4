// Runs one fused kernel in the emulation as csrc/cuda/launch.cuh does on the device.
#pragma once

#include "arguments.h"

namespace emulation {

using namespace fastsqrtm::cuda;

struct Operands {
  Problem problem;
  Input first, second, third;
  int degree;
  int iterations;
  bool inverse;
  void* kept;  // for lyapunov and the exact gradients
};

void run(Fused op, const Operands& operands, const FusedPlan& plan);
// The same by the path for large matrices; `chunk` matrices at a time, or with 0 as many as the workspace allows.
void run_large(Fused op, const Operands& operands, int64_t chunk = 0);

}  // namespace emulation

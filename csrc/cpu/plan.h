// The path and the resources of a batch, decided in plain C++ from sizes alone, so that the plan can be shown to the
// user and tested on any machine.
#pragma once

#include <cstdint>
#include <string>

#include "path.h"

namespace fastsqrtm {

// The instruction set of the CPU kernels: the best this processor has, lowered by
// FASTSQRTM_CPU_CAPABILITY=baseline|avx2|avx512 (read once).
struct CpuCapability {
  const char* name;
  int vector_bytes;
};
const CpuCapability& cpu_capability();

// Vendor and family as CPUID has them, "AuthenticAMD 26", and "unknown" where there is no CPUID.
std::string cpu_family();

struct CpuPlan {
  Path path;
  const char* capability;
  int64_t alone;   // matrices computed by one thread, side by side or each by itself, spread over the workers
  int64_t shared;  // matrices on which a team of threads works together, one after the other
  int threads;
  int team;
  int workers;
  int64_t workspace_bytes;  // of all workers; workers on one matrix share the first one's
};

// What one run of a kernel takes: up to `matrices` of one size, side by side, and workspace for them. Up to `few` go
// one by one.
struct Demand {
  int matrices;
  int64_t workspace_bytes;
  int few = 0;
};
// Of a pass for square matrices.
inline Demand demand_of(int n, int lanes, int64_t workspace_bytes) {
  const bool tiny = n <= largest_tiny_order;
  return {tiny ? lanes : 1, workspace_bytes, tiny ? few_matrices(lanes, n) : 0};
}
CpuPlan plan_cpu(int64_t batch, int64_t m, int64_t n, int element_bytes, int threads, const Demand& demand);

}  // namespace fastsqrtm

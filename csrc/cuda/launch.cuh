// Implements run_pass. The only place with <<<>>>; its twin for the host is tests/emulation/run_pass.h.
#pragma once

#include "cuda/kernel.cuh"
#include "cuda/launch.h"
#include "cuda/library/library.h"
#include "cuda/tiny/kernel.cuh"

namespace fastsqrtm {
namespace cuda {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, std::size_t shared_bytes, cudaStream_t stream,
            const Arguments&... arguments) {
  if (blocks.x == 0) return;
  constexpr std::size_t without_asking = 48 * 1024;
  if (shared_bytes > without_asking) {
    // Always asks for all that the chip has: the threads of the process share a kernel's limit, and another thread
    // could lower a limit made for one launch before the launch uses it.
    int device = 0;
    check(cudaGetDevice(&device), "current device");
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(device_limits(device).shared_per_block)),
          "shared memory");
  }
  kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...);
  check(cudaGetLastError(), "launch");
}

// The path of a block.
template <class Pass, typename T, class Told>
void run_in_blocks(const Told& pass, Operands operands, const Plan& plan, Context& context) {
  const Shape& shape = shape_of(plan, sizeof(T));
  if (plan.blocks > 2147483647) check(cudaErrorInvalidConfiguration, "more than 2^31 blocks");
  if (const int64_t kept = Pass::kept_elements(shape, operands.problem))
    operands.kept = context.allocate(operands.problem.batch * kept * static_cast<int64_t>(sizeof(T)));
  launch(kernel_of<Pass, T>(plan.variant), dim3(static_cast<unsigned>(plan.blocks)),
         dim3(shape.threads, plan.teams * plan.matrices_per_block), plan.shared_bytes, context.stream,
         typename Pass::template Arguments<T>(pass, operands, plan));
}

template <class Pass, typename T, class Told>
void run_in_threads(const Told& pass, const Operands& operands, const Plan& plan, Context& context) {
  if (plan.blocks > 2147483647) check(cudaErrorInvalidConfiguration, "more than 2^31 blocks");
  launch(tiny_kernel_of<Pass, T>(plan.variant), dim3(static_cast<unsigned>(plan.blocks)), dim3(plan.matrices_per_block),
         plan.shared_bytes, context.stream, tiny_arguments<Pass, T>(pass, operands));
}

template <class Pass, typename T, class Told>
void plan_and_run(const Told& pass, const Operands& operands, Context& context) {
  const Plan plan = plan_pass<Pass>(operands.problem.batch, Pass::order(operands.problem), sizeof(T), Pass::terms(pass),
                                    device_limits(context.device));
  switch (plan.path) {
    case Path::tiny:
      if constexpr (Pass::largest_tiny_order > 0) return run_in_threads<Pass, T>(pass, operands, plan, context);
      return;
    case Path::block:
      return run_in_blocks<Pass, T>(pass, operands, plan, context);
    case Path::library:
      if constexpr (!Pass::takes_any_size) return run_by_library(pass, operands, context);
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

#define FASTSQRTM_INSTANTIATE(Type)                                                     \
  namespace fastsqrtm {                                                                 \
  namespace cuda {                                                                      \
  void run_pass(const passes::Type& pass, const Operands& operands, Context& context) { \
    const Operands rows = by_rows<Type>(operands);                                      \
    if (operands.problem.element == Element::float64) {                                 \
      plan_and_run<Type, double>(pass, rows, context);                                  \
    } else {                                                                            \
      plan_and_run<Type, float>(pass, rows, context);                                   \
    }                                                                                   \
  }                                                                                     \
  }                                                                                     \
  }

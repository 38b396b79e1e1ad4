// The one place with <<<>>>. Twin for the host: tests/emulation/run_kernels.cpp.
#pragma once

#include "cuda/kernel_table.cuh"
#include "cuda/launch.h"

namespace fastsqrtm {
namespace cuda {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, std::size_t shared_bytes, cudaStream_t stream,
            const Arguments&... arguments) {
  if (blocks.x == 0) return;
  constexpr std::size_t without_asking = 48 * 1024;
  if (shared_bytes > without_asking) {
    // All that the chip has, every time: all threads of the process share a kernel's limit, and one that followed the
    // launch could be lowered by another thread before it is used.
    int device = 0;
    check(cudaGetDevice(&device), "current device");
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(device_limits(device).shared_per_block)),
          "shared memory");
  }
  kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...);
  check(cudaGetLastError(), "launch");
}

template <typename T, class Arguments>
void launch_fused(Kernel<Arguments> kernel, const Arguments& arguments, const FusedPlan& plan, cudaStream_t stream) {
  const Shape& shape = (sizeof(T) == 8 ? double_shapes : float_shapes)[plan.variant];
  if (plan.blocks > 2147483647) check(cudaErrorInvalidConfiguration, "more than 2^31 blocks");
  launch(kernel, dim3(static_cast<unsigned>(plan.blocks)), dim3(shape.threads, plan.groups * plan.matrices_per_block),
         plan.shared_bytes, stream, arguments);
}

}  // namespace cuda
}  // namespace fastsqrtm

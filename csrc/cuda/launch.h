// Runs a pass on the device. No torch header, because nvcc compiles the implementation; the caller is ops.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

// Throws std::runtime_error with the text of the CUDA error.
void check(cudaError_t error, const char* what);

// The limits of a device that the plan depends on. Each device is asked once.
DeviceLimits device_limits(int device);

// The device and the stream of a pass, and its requests to torch.
class Context {
 public:
  const int device;
  const cudaStream_t stream;

  Context(int device, cudaStream_t stream) : device(device), stream(stream) {}
  virtual ~Context() = default;
  // Memory that lasts until the pass has been launched, aligned to 256 bytes.
  virtual void* allocate(int64_t bytes) = 0;
  // The cublasHandle_t that follows the stream.
  virtual void* blas_handle() = 0;
};

// Plans and launches a pass: one function for each, in a file of its own that CMake makes from ops.def, so that they
// compile in parallel.
#define PASS(Type, file) void run_pass(const passes::Type& pass, const Operands& operands, Context& context);
#include "ops.def"

}  // namespace cuda
}  // namespace fastsqrtm

// Runs a pass in the emulation as csrc/cuda/launch.cuh and csrc/cuda/library/library.cu do on the device. Each pass is
// compiled in a file of its own, which the Makefile makes from ops.def.
#pragma once

#include <cmath>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/kernel.cuh"
#include "cuda/library/large.h"
#include "cuda/tiny/kernel.cuh"
#include "emulation.h"

namespace emulation {

using namespace fastsqrtm;
using namespace fastsqrtm::cuda;

// The path of a block, and the path for large matrices with `chunk` matrices at a time (0: as many as the workspace
// allows).
#define PASS(Type, file)                                                                    \
  void run_in_blocks(const passes::Type& pass, const Operands& operands, const Plan& plan); \
  void run_large(const passes::Type& pass, const Operands& operands, int64_t chunk);
#include "ops.def"

// Loops in place of the libraries.
template <typename T>
struct HostLibrary {
  template <class... Parameters, class... Arguments>
  void run(void (*kernel)(Parameters...), int64_t blocks_x, int64_t blocks_y, int threads_x, int threads_y,
           std::size_t shared_bytes, const Arguments&... arguments) {
    launch_grid(blocks_x, blocks_y, threads_x, threads_y, shared_bytes, [&] { kernel(arguments...); });
  }

  static bool sweeps_in_blocks() { return blocked_sweep; }

  void gemm(T alpha, const T* x, const T* y, T beta, T* out, int n, int64_t batch, const Rows& rows = {}) {
    const int size = n * n;
    for (int64_t m = 0; m < batch; ++m, x += rows.x * size, y += rows.y * size, out += rows.out * size) {
      for (int i = 0; i < rows.count * n; ++i) {
        for (int j = 0; j < n; ++j) {
          T sum = 0;
          for (int k = 0; k < n; ++k) sum += x[i * n + k] * y[k * n + j];
          out[i * n + j] = alpha * sum + (beta == 0 ? 0 : beta * out[i * n + j]);
        }
      }
    }
  }

  void products(const T* const* x, const T* const* y, T* const* out, int n, int64_t count) {
    for (int64_t m = 0; m < count; ++m) gemm(1, x[m], y[m], 0, out[m], n, 1);
  }

  void factor(T** factors, int* info, int n, int64_t count) {
    for (int64_t m = 0; m < count; ++m) {
      T* l = factors[m];
      info[m] = 0;
      for (int j = 0; j < n; ++j) {
        for (int k = 0; k < j; ++k) {
          for (int i = j; i < n; ++i) l[i * n + j] -= l[i * n + k] * l[j * n + k];
        }
        if (!(l[j * n + j] > 0) && info[m] == 0) info[m] = j + 1;
        const T pivot = std::sqrt(l[j * n + j]);
        for (int i = j; i < n; ++i) l[i * n + j] /= pivot;
      }
    }
  }

  void solve(T** factors, T** rights, int* info, int n, int64_t count) {
    factor(factors, info, n, count);
    for (int64_t m = 0; m < count; ++m) {
      const T* l = factors[m];
      T* r = rights[m];
      for (int c = 0; c < n; ++c) {
        for (int i = 0; i < n; ++i) {
          for (int k = 0; k < i; ++k) r[i * n + c] -= l[i * n + k] * r[k * n + c];
          r[i * n + c] /= l[i * n + i];
        }
        for (int i = n - 1; i >= 0; --i) {
          for (int k = i + 1; k < n; ++k) r[i * n + c] -= l[k * n + i] * r[k * n + c];
          r[i * n + c] /= l[i * n + i];
        }
      }
    }
  }
};

// The workspace of the path for large matrices. It is filled with NaN, so that no result can rest on old values, and
// aligned like an allocation on the device.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : memory_(bytes + 256, 0xff) {}
  void* data() {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return reinterpret_cast<void*>((address + 255) / 256 * 256);
  }

 private:
  std::vector<unsigned char> memory_;
};

// The kernel of a variant: any variant, or in float32 one of EMULATED_VARIANTS.
#ifdef EMULATED_VARIANTS
template <class Pass, typename T, int... index>
cuda::Kernel<Pass, T> kernel_among(int variant, std::integer_sequence<int, index...>) {
  cuda::Kernel<Pass, T> found = nullptr;
  ((variant == index ? void(found = pass_kernel<Pass, VariantOf<Pass, T, index>>) : void()), ...);
  return found;
}
template <class Pass, typename T>
cuda::Kernel<Pass, T> emulated_kernel(int variant) {
  cuda::Kernel<Pass, T> found = nullptr;
  if constexpr (sizeof(T) == 4) found = kernel_among<Pass, T>(variant, std::integer_sequence<int, EMULATED_VARIANTS>());
  if (!found) throw std::runtime_error("this build does not have the variant");
  return found;
}
template <class Pass, typename T>
TinyKernel<Pass, T> emulated_tiny_kernel(int n) {
  if constexpr (sizeof(T) == 4) return tiny_kernel_of<Pass, T>(n);
  throw std::runtime_error("this build does not have float64");
}
#else
template <class Pass, typename T>
cuda::Kernel<Pass, T> emulated_kernel(int variant) {
  return kernel_of<Pass, T>(variant);
}
template <class Pass, typename T>
TinyKernel<Pass, T> emulated_tiny_kernel(int n) {
  return tiny_kernel_of<Pass, T>(n);
}
#endif

template <class Pass, typename T, class Told>
void run_in_blocks_as(const Told& pass, const Operands& operands, const Plan& plan) {
  if constexpr (Pass::largest_tiny_order > 0) {
    if (plan.path == Path::tiny) {
      const auto arguments = tiny_arguments<Pass, T>(pass, operands);
      const auto kernel = emulated_tiny_kernel<Pass, T>(plan.variant);
      return launch(plan.blocks, plan.matrices_per_block, 1, plan.shared_bytes, [&] { kernel(arguments); });
    }
  }
  const typename Pass::template Arguments<T> arguments(pass, operands, plan);
  const auto kernel = emulated_kernel<Pass, T>(plan.variant);
  launch(plan.blocks, shape_of(plan, sizeof(T)).threads, plan.teams * plan.matrices_per_block, plan.shared_bytes,
         [&] { kernel(arguments); });
}

template <class Pass, typename T, class Told>
void run_large_as([[maybe_unused]] const Told& pass, [[maybe_unused]] const Operands& operands,
                  [[maybe_unused]] int64_t chunk) {
  if constexpr (!Pass::takes_any_size) {
    const Problem& problem = operands.problem;
    if (chunk == 0) chunk = large_chunk<Pass>(pass, problem.batch, problem.n, sizeof(T));
    HostLibrary<T> library;
    in_parts(operands, chunk, [&](const Operands& part) {
      Workspace workspace(large_workspace_bytes<Pass>(pass, part.problem.batch, problem.n, sizeof(T)));
      run_large_part<Pass, T>(library, pass, part, workspace.data());
    });
  }
}

}  // namespace emulation

#define FASTSQRTM_EMULATE(Type)                                                              \
  namespace emulation {                                                                      \
  void run_in_blocks(const passes::Type& pass, const Operands& operands, const Plan& plan) { \
    if (operands.problem.element == Element::float64) {                                      \
      run_in_blocks_as<cuda::Type, double>(pass, operands, plan);                            \
    } else {                                                                                 \
      run_in_blocks_as<cuda::Type, float>(pass, operands, plan);                             \
    }                                                                                        \
  }                                                                                          \
  void run_large(const passes::Type& pass, const Operands& operands, int64_t chunk) {        \
    if (operands.problem.element == Element::float64) {                                      \
      run_large_as<cuda::Type, double>(pass, operands, chunk);                               \
    } else {                                                                                 \
      run_large_as<cuda::Type, float>(pass, operands, chunk);                                \
    }                                                                                        \
  }                                                                                          \
  }

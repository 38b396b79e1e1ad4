// The path for large matrices with loops in place of the libraries.
#include <cmath>
#include <vector>

#include "large.h"
#include "large_newton.h"
#include "run_kernels.h"

namespace emulation {
namespace {

template <typename T>
struct HostLibrary {
  template <class... Parameters, class... Arguments>
  void run(void (*kernel)(Parameters...), int64_t blocks_x, int64_t blocks_y, int threads_x, int threads_y,
           std::size_t shared_bytes, const Arguments&... arguments) {
    launch_grid(static_cast<int>(blocks_x), static_cast<int>(blocks_y), threads_x, threads_y, shared_bytes,
                [&] { kernel(arguments...); });
  }

  void gemm(T alpha, const T* x, const T* y, T beta, T* out, int n, int64_t batch) {
    for (int64_t m = 0; m < batch; ++m, x += n * n, y += n * n, out += n * n) {
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          T sum = 0;
          for (int k = 0; k < n; ++k) sum += x[i * n + k] * y[k * n + j];
          out[i * n + j] = alpha * sum + (beta == 0 ? 0 : beta * out[i * n + j]);
        }
      }
    }
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

template <typename T>
void run_typed(Fused op, const Operands& o) {
  const int degree = op == Fused::accurate_roots ? design_of(o).poles : o.degree;
  const int64_t bytes = large_workspace_bytes(op, o.problem.batch, o.problem.n, degree, sizeof(T));
  // NaN, so that nothing may rest on what was there before; aligned as an allocation of the device is.
  std::vector<unsigned char> memory(bytes + 256, 0xff);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  void* workspace = reinterpret_cast<void*>((address + 255) / 256 * 256);
  HostLibrary<T> library;
  if (op == Fused::accurate_roots || op == Fused::accurate_backward || op == Fused::lyapunov_newton) {
    LargeNewton<T, HostLibrary<T>> newton(library, op, o.problem, degree, workspace);
    if (op == Fused::accurate_roots) {
      newton.accurate_roots(
          accurate_roots_arguments<T>(o.problem, o.first, o.both || !o.inverse, o.both || o.inverse, design_of(o)));
    } else if (op == Fused::accurate_backward) {
      newton.accurate_backward(backward_arguments(o));
    } else {
      newton.lyapunov_newton({o.problem, o.first, o.second, tolerance_of(o), nullptr});
    }
    return;
  }
  const LargeOp large{op, o.problem, o.first, o.second, o.third, o.degree, o.iterations, o.inverse};
  Large<T, HostLibrary<T>>(library, large, workspace).run();
}

}  // namespace

void run_large(Fused op, const Operands& o) {
  if (o.problem.storage == Storage::float64) {
    run_typed<double>(op, o);
  } else {
    run_typed<float>(op, o);
  }
}

}  // namespace emulation

// The path for large matrices with loops in place of the libraries.
#include <cmath>
#include <vector>

#include "cuda/library/library.h"
#include "cuda/library/newton.h"
#include "run_kernels.h"

namespace emulation {
namespace {

template <typename T>
struct HostLibrary {
  template <class... Parameters, class... Arguments>
  void run(void (*kernel)(Parameters...), int64_t blocks_x, int64_t blocks_y, int threads_x, int threads_y,
           std::size_t shared_bytes, const Arguments&... arguments) {
    launch_grid(blocks_x, blocks_y, threads_x, threads_y, shared_bytes, [&] { kernel(arguments...); });
  }

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

// The workspace of the path: NaN, so that nothing may rest on what was there before; aligned as an allocation of the
// device is.
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

bool is_accurate(Fused op) {
  return op == Fused::accurate_roots || op == Fused::accurate_backward || op == Fused::lyapunov_newton;
}

template <typename T>
void run_newton(Fused op, const Operands& o) {
  const int poles = op == Fused::accurate_roots ? design_of(o).poles : o.degree;
  Workspace workspace(large_workspace_bytes(op, o.problem.batch, o.problem.n, poles, sizeof(T)));
  HostLibrary<T> library;
  LargeNewton<T, HostLibrary<T>> newton(library, op, o.problem, poles, workspace.data());
  if (op == Fused::accurate_roots) {
    newton.accurate_roots(
        accurate_roots_arguments<T>(o.problem, o.first, o.both || !o.inverse, o.both || o.inverse, design_of(o)));
  } else if (op == Fused::accurate_backward) {
    newton.accurate_backward(backward_arguments(o));
  } else {
    newton.lyapunov_newton({o.problem, o.first, o.second, tolerance_of(o), nullptr});
  }
}

template <typename T>
void run_typed(const LargeOp& part) {
  Workspace workspace(large_workspace_bytes(part.op, part.problem.batch, part.problem.n, part.degree, sizeof(T)));
  HostLibrary<T> library;
  Large<T, HostLibrary<T>>(library, part, workspace.data()).run();
}

}  // namespace

void run_large(Fused op, const Operands& o, int64_t chunk) {
  const bool wide = o.problem.storage == Storage::float64;
  if (is_accurate(op)) return wide ? run_newton<double>(op, o) : run_newton<float>(op, o);
  const LargeOp whole{op, o.problem, o.first, o.second, o.third, o.degree, o.iterations, o.inverse};
  if (chunk == 0) chunk = large_chunk(op, o.problem.batch, o.problem.n, o.degree, wide ? 8 : 4);
  in_parts(whole, chunk, [&](const LargeOp& part) { wide ? run_typed<double>(part) : run_typed<float>(part); });
}

}  // namespace emulation

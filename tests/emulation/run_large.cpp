// The path for large matrices with loops in place of the libraries.
#include <cmath>
#include <vector>

#include "large.h"
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

  void products(const T* const* x, const T* const* y, T* const* out, int n, int64_t count) {
    for (int64_t m = 0; m < count; ++m) gemm(1, x[m], y[m], 0, out[m], n, 1);
  }

  void stacked(const T* x, const T* y, T* out, int n, int terms, int64_t batch) {
    for (int64_t m = 0; m < batch; ++m, x += terms * n * n, y += terms * n * n, out += n * n) {
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          T sum = 0;
          for (int k = 0; k < terms * n; ++k) sum += x[k * n + i] * y[k * n + j];
          out[i * n + j] = sum;
        }
      }
    }
  }

  void solve(T** factors, T** rights, int* info, int n, int64_t count) {
    for (int64_t m = 0; m < count; ++m) {
      T* l = factors[m];
      T* r = rights[m];
      info[m] = 0;
      for (int j = 0; j < n; ++j) {
        for (int k = 0; k < j; ++k) {
          for (int i = j; i < n; ++i) l[i * n + j] -= l[i * n + k] * l[j * n + k];
        }
        if (!(l[j * n + j] > 0) && info[m] == 0) info[m] = j + 1;
        const T pivot = std::sqrt(l[j * n + j]);
        for (int i = j; i < n; ++i) l[i * n + j] /= pivot;
      }
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
void run_typed(const LargeOp& op) {
  const int64_t bytes = large_workspace_bytes(op.op, op.problem.batch, op.problem.n, op.degree, sizeof(T));
  // NaN, so that nothing may rest on what was there before; aligned as an allocation of the device is.
  std::vector<unsigned char> memory(bytes + 256, 0xff);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  HostLibrary<T> library;
  Large<T, HostLibrary<T>>(library, op, reinterpret_cast<void*>((address + 255) / 256 * 256)).run();
}

}  // namespace

void run_large(Fused op, const Operands& o, int64_t chunk) {
  const LargeOp whole{op, o.problem, o.first, o.second, o.third, o.degree, o.iterations, o.inverse};
  const int element_bytes = o.problem.storage == Storage::float64 ? 8 : 4;
  if (chunk == 0) chunk = large_chunk(op, o.problem.batch, o.problem.n, o.degree, element_bytes);
  in_parts(whole, chunk, [&](const LargeOp& part) {
    if (element_bytes == 8) {
      run_typed<double>(part);
    } else {
      run_typed<float>(part);
    }
  });
}

}  // namespace emulation

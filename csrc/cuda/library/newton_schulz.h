// The Newton-Schulz steps of steps/newton_schulz.cuh on the path for large matrices, for Ns and NsBackward.
#pragma once

#include <utility>

#include "cuda/library/large.h"

namespace fastsqrtm {
namespace cuda {

// out = x y + beta out. With parts = 2 every matrix is followed by its derivative, and so is the product.
template <class Large, typename T>
void times_with_derivative(Large& large, int parts, const T* x, const T* y, T beta, T* out) {
  const int64_t size = static_cast<int64_t>(large.n) * large.n;
  large.gemm(1, x, y, beta, out, {parts, parts, parts, parts});
  if (parts == 2) large.gemm(1, x, y + size, 1, out + size, {1, parts, parts, parts});
}

// Returns Y after `steps` steps from X, followed by its derivative along `g` if there are 2 parts. All matrices take
// all steps: the host would have to wait to learn which have converged, and those stay as they are.
template <class Large, typename T>
T* newton_schulz(Large& large, int parts, int steps, bool inverse, const T* x, const T* g) {
  const int n = large.n;
  const int64_t batch = large.batch;
  T* m = large.matrices(parts);
  T* y = large.matrices(parts);
  T* p = large.matrices(parts);
  T* squared = large.matrices(parts);
  T* factor = large.matrices(parts);
  const auto times = [&](const T* a, const T* b, T beta, T* out) {
    times_with_derivative(large, parts, a, b, beta, out);
  };
  large.elements(batch * parts, &newton_schulz_start_kernel<T>, m, batch, parts, n, x, g, large.norms());
  bool first = true;
  for (int left = steps; left > 0; first = false) {
    const bool pair = left % 2 == 0;
    left -= pair ? 2 : 1;
    if (pair) times(m, m, 0, squared);
    large.elements(batch * parts, &newton_schulz_step_kernel<T>, m, batch, parts, n, pair, squared, factor, p);
    if (pair) times(squared, factor, 1, p);
    const T* step = p;
    if (first && inverse) {
      std::swap(y, p);  // Y was I
    } else {
      times(first ? m : y, step, 0, factor);
      std::swap(y, factor);
    }
    if (left == 0) break;
    const T* product = y;  // M P, which for the first step of the root is Y P
    if (!first || inverse) {
      times(m, step, 0, squared);
      product = squared;
    }
    times(product, step, 0, m);
  }
  return y;
}

}  // namespace cuda
}  // namespace fastsqrtm

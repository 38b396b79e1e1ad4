// Q, R, G, H -> the gradient X = (G + Q sym_lower(R H^T - G^T Q)) R^-T of A = Q R, in one launch. The matrices lie in
// shared memory, or in global memory where they are too large for that. Counterparts: csrc/cpu/passes/qr_backward.h and
// fastsqrtm/_reference/qr.py.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct QrBackward : AnyShape<QrBackward> {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input q, r, g, h;
    void* out;
    T* kept;  // nullptr: the matrices fit into shared memory

    Arguments(const passes::QrBackward&, const Operands& operands, const Plan&)
        : problem(operands.problem),
          q(operands.in[0]),
          r(operands.in[1]),
          g(operands.in[2]),
          h(operands.in[3]),
          out(operands.out[0].data),
          kept(static_cast<T*>(operands.kept)) {}
  };

  // Q, G, R, H and the sum. Rows have an odd length, or the elements of a column would share a bank.
  static FASTSQRTM_HOST_DEVICE constexpr int64_t elements(const Problem& p) {
    return (2 * static_cast<int64_t>(p.m) + 3 * p.n) * (p.n | 1);
  }
  static FASTSQRTM_HOST_DEVICE constexpr int64_t elements_of_order(int64_t order) { return 5 * order * (order + 1); }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/tile/rows.cuh"

namespace fastsqrtm {
namespace cuda {

template <class V>
FASTSQRTM_DEVICE void QrBackward::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int shared = shared_elements(V::shape, 1);
  const Problem& problem = arguments.problem;
  const int m = problem.m, n = problem.n, row = n | 1;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  T* own = reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared;
  T* q = arguments.kept ? arguments.kept + index * elements(problem) : own;
  T* const x = q + static_cast<int64_t>(m) * row;
  T* const r = x + static_cast<int64_t>(m) * row;
  T* const h = r + n * row;
  T* const w = h + n * row;
  const auto at = [row](T* matrix, int i, int j) -> T& { return matrix[static_cast<int64_t>(i) * row + j]; };

  T worst = load_rows<V>(q, row, arguments.q, problem, index, m, n);
  worst = max_or_nan(worst, load_rows<V>(x, row, arguments.g, problem, index, m, n));
  worst = max_or_nan(worst, load_rows<V>(r, row, arguments.r, problem, index, n, n));
  worst = max_or_nan(worst, load_rows<V>(h, row, arguments.h, problem, index, n, n));
  const bool finite = team_max<V>(worst, own + elements_of_order(V::padded)) < infinity<T>();
  sync_team<V>();
  for (int item = threadIdx.x; item < n * n; item += V::threads) {
    const int i = item / n, j = item % n;
    if (j > i) continue;
    T sum = 0;
    for (int l = i; l < n; ++l) sum += at(r, i, l) * at(h, j, l);
    for (int l = 0; l < m; ++l) sum -= at(x, l, i) * at(q, l, j);
    at(w, i, j) = at(w, j, i) = sum;
  }
  sync_team<V>();
  for (int64_t item = threadIdx.x; item < static_cast<int64_t>(m) * n; item += V::threads) {
    const int i = static_cast<int>(item / n), j = static_cast<int>(item % n);
    T sum = at(x, i, j);
    for (int l = 0; l < n; ++l) sum += at(q, i, l) * at(w, l, j);
    at(x, i, j) = sum;
  }
  sync_team<V>();
  // Each row by one thread: a row waits for nothing but its own entries.
  for (int i = threadIdx.x; i < m; i += V::threads) {
    for (int j = n - 1; j >= 0; --j) {
      T sum = at(x, i, j);
      for (int l = j + 1; l < n; ++l) sum -= at(x, i, l) * at(r, j, l);
      at(x, i, j) = sum / at(r, j, j);
    }
  }
  sync_team<V>();
  store_rows<V>(arguments.out, problem, index, m, n,
                [&](int i, int j) { return finite ? at(x, i, j) : not_a_number<T>(); });
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

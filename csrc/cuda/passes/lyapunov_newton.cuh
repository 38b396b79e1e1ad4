// X with B X + X B = C by Newton steps for any C, the op `lyapunov_newton`: one launch, for the symmetric and, if there
// is one, for the skew part of C.
#pragma once

#include "cuda/steps/newton_lyapunov.cuh"

namespace fastsqrtm {
namespace cuda {

// Whether this lane sees an element that differs from its mirror image. Element by element: with fragments, as they
// are used below, the compiler would run out of registers.
template <class V, typename T>
__device__ __forceinline__ bool has_skew_part(const T* matrix) {
  using L = Layout<V>;
  bool differs = false;
#pragma unroll 1
  for (int item = threadIdx.x; item < V::matrix_elements; item += V::threads) {
    const int row = item / V::padded, column = item % V::padded;
    differs = differs || !(matrix[L::at(row, column)] - matrix[L::at(column, row)] == T(0));
  }
  return differs;
}

template <class V>
__global__ void __launch_bounds__(max_threads(Fused::lyapunov_newton, V::shape), 1)
    lyapunov_newton_kernel(const __grid_constant__ LyapunovNewtonArguments arguments) {
  using T = typename V::scalar;
  const Problem& problem = arguments.problem;
  const int n = problem.n;
  const int blocks = (n + V::tile - 1) / V::tile;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;

  bool skew = false;
#pragma unroll 1
  for (int part = 0; part < (skew ? 2 : 1); ++part) {
    // The addresses that follow from this one would take more registers than there are, all through the loop.
    const int start = opaque(static_cast<int>(threadIdx.y) * shared_elements(Fused::lyapunov_newton, V::shape, 1));
    const NewtonMemory<V> m(reinterpret_cast<T*>(dynamic_shared()) + start);
    const T sign = part == 0 ? T(1) : T(-1);
    load_matrix<V>(m.work, arguments.c, problem, index, threadIdx.x, V::threads);
    load_matrix<V>(m.w, arguments.b, problem, index, threadIdx.x, V::threads);
    sync_team<V::threads>();
    Fragment<V, V::split_symmetric> x;
    if (part == 0) {
      // All matrices of the block take the second part or none: they pass its barriers together.
      skew = __syncthreads_or(has_skew_part<V>(m.work));
    }
    read_part(m.work, sign, Owner<V, V::split_symmetric>(), x);
    m.c.store(x);
    T norm_b;
    {
      const Owner<V, V::split_sweep> by_sweep;
      Fragment<V, V::split_sweep> f;
      read_part(m.w, T(1), by_sweep, f);
      const Norm<T> norm = frobenius_norm(f, m.scratch);
      if (threadIdx.x == 0) *m.norm = norm;
      f.apply([norm](T value) { return norm.normalise(value); });
      sync_team<V::threads>();  // all have read the inputs
      write(m.w, by_sweep, f, T(1));
      sync_team<V::threads>();
      norm_b = one_norm<V>(m.w, blocks, n, m.scratch);
      invert(m, ridge_unit<T>(problem.storage) * norm_b, blocks, n, by_sweep, f);
      write_lower(m.w, by_sweep, f);
    }
    sync_team<V::threads>();
    const T norm_w = one_norm<V>(m.w, blocks, n, m.scratch);
    solve_newton(m, static_cast<T>(arguments.tolerance), sign, norm_b, norm_w, blocks, n, x);
    const Norm<T> norm = *m.norm;
    x.apply([norm](T value) { return norm.normalise(value); });
    if (norm.is_zero) x.apply([](T) { return T(0); });
    sync_team<V::threads>();
    write(m.work, Owner<V, V::split_symmetric>(opaque(threadIdx.x)), x, sign);
    sync_team<V::threads>();
    // As in lyapunov_kernel.cuh.
    if (part == 1) add_kept<V>(m.work, static_cast<const T*>(arguments.kept), problem, index, threadIdx.x, V::threads);
    if (part == 0 && skew) {
      keep_matrix<V>(m.work, static_cast<T*>(arguments.kept), problem, index, threadIdx.x, V::threads);
    } else {
      store_matrix<V>(m.work, problem, index, threadIdx.x, V::threads);
    }
    sync_team<V::threads>();
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

// X with B X + X B = C by Newton steps for any C, the op `lyapunov_newton`: one launch, for the symmetric and, if there
// is one, for the skew part of C.
#pragma once

#include "newton.cuh"

namespace fastsqrtm {
namespace cuda {

template <class V>
__global__ void __launch_bounds__(max_threads(Fused::lyapunov_newton, V::shape), 1)
    lyapunov_newton_kernel(const __grid_constant__ LyapunovNewtonArguments arguments) {
  using T = typename V::scalar;
  const Problem& problem = arguments.problem;
  const int n = problem.n;
  const int blocks = (n + V::tile - 1) / V::tile;
  const NewtonMemory<V> m(reinterpret_cast<T*>(dynamic_shared()) +
                          static_cast<int>(threadIdx.y) * shared_elements(Fused::lyapunov_newton, V::shape, 1));
  const Owner<V, V::split_sweep> by_sweep;
  const Owner<V, V::split_symmetric> owner;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;

  bool skew = false;
  for (int part = 0; part < (skew ? 2 : 1); ++part) {
    const T sign = part == 0 ? T(1) : T(-1);
    load_matrix<V>(m.work, arguments.c, problem, index, threadIdx.x, V::threads);
    load_matrix<V>(m.w, arguments.b, problem, index, threadIdx.x, V::threads);
    sync_team<V::threads>();
    Fragment<V, V::split_symmetric> x;
    if (part == 0) {
      // All matrices of the block take the second part or none: they pass its barriers together.
      bool own = false;
      read_part(m.work, T(-1), owner, x);
      x.apply([&own](T value) {
        own = own || !(value == T(0));
        return value;
      });
      skew = __syncthreads_or(own);
    }
    read_part(m.work, sign, owner, x);
    m.c.store(x);
    Norm<T> norm;
    T norm_b;
    {
      Fragment<V, V::split_sweep> f;
      read_part(m.w, T(1), by_sweep, f);
      norm = frobenius_norm(f, m.scratch);
      f.apply([norm](T value) { return norm.normalise(value); });
      sync_team<V::threads>();  // all have read the inputs
      write(m.w, by_sweep, f, T(1));
      sync_team<V::threads>();
      norm_b = one_norm<V>(m.w, blocks, n, m.scratch);
      invert(m, machine_epsilon<T>() * norm_b, blocks, n, by_sweep, f);
      write_lower(m.w, by_sweep, f);
    }
    sync_team<V::threads>();
    const T norm_w = one_norm<V>(m.w, blocks, n, m.scratch);
    solve_newton(m, static_cast<T>(arguments.tolerance), sign, norm_b, norm_w, blocks, n, by_sweep, owner, x);
    x.apply([norm](T value) { return norm.normalise(value); });
    if (norm.is_zero) x.apply([](T) { return T(0); });
    sync_team<V::threads>();
    write(m.work, owner, x, sign);
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

// The gradient of the accurate roots S = A^(1/2) and Z = A^(-1/2) for their cotangents G and H, one launch:
// S X + X S = sym(G) - Z sym(H) Z. Without S it is the inverse of Z; one of G and H is enough.
// Counterparts: sqrtm_backward, inv_sqrtm_backward and sqrtm_and_inv_backward in csrc/cpu and fastsqrtm/reference.py.
#pragma once

#include "cuda/passes/lya_backward.cuh"
#include "cuda/steps/newton_lyapunov.cuh"

namespace fastsqrtm {
namespace cuda {

// B = S/s and W = s Z with s the norm of S, or 1/s that of Z: B X + X B = s G - W H W / s for s X.
template <class V>
__global__ void __launch_bounds__(max_threads(Fused::accurate_backward, V::shape), 1)
    accurate_backward_kernel(const __grid_constant__ AccurateBackwardArguments arguments) {
  using T = typename V::scalar;
  const Problem& problem = arguments.problem;
  const int n = problem.n;
  const int blocks = (n + V::tile - 1) / V::tile;
  const NewtonMemory<V> m(reinterpret_cast<T*>(dynamic_shared()) +
                          static_cast<int>(threadIdx.y) * shared_elements(Fused::accurate_backward, V::shape, 1));
  const Owner<V, V::split_sweep> by_sweep;
  const Owner<V, V::split_symmetric> owner;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const bool has_root = arguments.root.data != nullptr;
  const bool has_inverse = arguments.inverse_root.data != nullptr;

  load_matrix<V>(m.work, has_root ? arguments.root : arguments.inverse_root, problem, index, threadIdx.x, V::threads);
  sync_team<V::threads>();
  Fragment<V, V::split_sweep> f;
  read_part(m.work, T(1), by_sweep, f);
  Norm<T> norm = frobenius_norm(f, m.scratch);
  const bool infinite = is_infinite_identity(f, by_sweep, n, m.scratch);  // by all lanes, so not behind ||
  norm.is_zero = norm.is_zero || infinite;
  if (threadIdx.x == 0) *m.norm = norm;
  f.apply([norm](T value) { return norm.normalise(value); });
  write(m.w, by_sweep, f, T(1));
  sync_team<V::threads>();
  T norm_b = one_norm<V>(m.w, blocks, n, m.scratch);
  sync_team<V::threads>();  // all have read the work matrix and w
  m.b.store(f);
  if (has_root && has_inverse) {
    load_matrix<V>(m.work, arguments.inverse_root, problem, index, threadIdx.x, V::threads);
    sync_team<V::threads>();
    read_part(m.work, T(1), by_sweep, f);
    norm = *m.norm;
    f.apply([norm](T value) { return norm.restore(value); });
    write(m.w, by_sweep, f, T(1));
    sync_team<V::threads>();  // all have read the work matrix
  }

  Fragment<V, V::split_symmetric> x;
  load_matrix<V>(m.work, has_inverse ? arguments.inverse_cotangent : arguments.root_cotangent, problem, index,
                 threadIdx.x, V::threads);
  sync_team<V::threads>();
  read_part(m.work, T(1), owner, x);
  if (has_inverse) {
    sync_team<V::threads>();
    write(m.work, owner, x, T(1));
    sync_team<V::threads>();
    {
      FullProduct<V> u;
      u.multiply(m.work, m.w, blocks);
      sync_team<V::threads>();  // all have read the cotangent
      u.write(m.work);
    }
    sync_team<V::threads>();
    symmetric_product(m.w, m.work, blocks, owner, x);
    if (has_root) {
      norm = *m.norm;
      x.apply([norm](T value) { return -norm.normalise(norm.normalise(value)); });
      m.c.store(x);
      sync_team<V::threads>();
      load_matrix<V>(m.work, arguments.root_cotangent, problem, index, threadIdx.x, V::threads);
      sync_team<V::threads>();
      read_part(m.work, T(1), owner, x);
      m.c.combine_into(x, [](T g, T sum) { return g + sum; });
    } else {
      x.apply([](T value) { return -value; });
    }
  }
  m.c.store(x);
  sync_team<V::threads>();  // the panels take the place of the work matrix
  m.b.load(f);
  invert(m, ridge_unit<T>(arguments.problem.storage) * norm_b, blocks, n, by_sweep, f);
  write_lower(m.w, by_sweep, f);
  sync_team<V::threads>();
  T norm_w = one_norm<V>(m.w, blocks, n, m.scratch);
  if (!has_root) {
    // What was inverted is W, and B is its inverse.
    read(m.w, by_sweep, f);
    sync_team<V::threads>();
    {
      Fragment<V, V::split_sweep> given;
      m.b.load(given);
      write(m.w, by_sweep, given, T(1));
    }
    m.b.store(f);
    const T norm_given = norm_b;
    norm_b = norm_w;
    norm_w = norm_given;
    sync_team<V::threads>();
  }
  solve_newton(m, static_cast<T>(arguments.tolerance), T(1), norm_b, norm_w, blocks, n, x);
  norm = *m.norm;
  if (has_root) {
    x.apply([norm](T value) { return norm.normalise(value); });
  } else {
    // The powers of 1/s come last, where they overflow only if the gradient does.
    x.apply([norm](T value) { return norm.restore(norm.restore(norm.restore(value))); });
  }
  if (norm.is_zero) x.apply([](T) { return T(0); });
  sync_team<V::threads>();
  write(m.work, owner, x, T(1));
  sync_team<V::threads>();
  store_matrix<V>(m.work, problem, index, threadIdx.x, V::threads);
}

}  // namespace cuda
}  // namespace fastsqrtm

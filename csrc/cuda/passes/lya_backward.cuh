// The gradients of the root and of the inverse root: eight Lyapunov steps, one launch.
// Counterparts: sqrtm_lya_backward and inv_sqrtm_lya_backward in csrc/cpu and fastsqrtm/reference.py.
#pragma once

#include "cuda/steps/sign_lyapunov.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"

namespace fastsqrtm {
namespace cuda {

// S X + X S = sym(G), scaled by the root of nu = ||A||_F.
template <class V>
__global__ void __launch_bounds__(max_threads(Fused::sqrtm_lya_backward, V::shape), 1)
    sqrtm_lya_backward_kernel(const __grid_constant__ SqrtmLyaBackwardArguments arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  const Problem& problem = arguments.problem;
  const int blocks = (problem.n + V::tile - 1) / V::tile;
  T* b = reinterpret_cast<T*>(dynamic_shared()) +
         static_cast<int>(threadIdx.y) * shared_elements(Fused::sqrtm_lya_backward, V::shape, 1);
  T* c = b + V::matrix_elements;
  T* work = c + V::matrix_elements;
  T* scratch = work + V::matrix_elements;
  const Owner<V, split> owner;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  load_matrix<V>(work, arguments.a, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(b, arguments.root, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(c, arguments.cotangent, problem, index, threadIdx.x, V::threads);
  sync_team<V::threads>();
  Fragment<V, split> f, g;
  read_part(work, T(1), owner, f);
  const Norm<T> norm = frobenius_norm(f, scratch);
  const T scale = norm.inverse_root();
  read_part(b, T(1), owner, f);
  read_part(c, T(1), owner, g);
  f.apply([scale](T value) { return value * scale; });
  g.apply([scale](T value) { return value * scale; });
  sync_team<V::threads>();  // all have read the inputs
  write(b, owner, f, T(1));
  write(c, owner, g, T(1));
  sync_team<V::threads>();
  solve_lyapunov(b, c, work, T(1), arguments.iterations, blocks, owner, f);
  if (norm.is_zero) f.apply([](T) { return T(0); });
  sync_team<V::threads>();
  write(work, owner, f, T(1));
  sync_team<V::threads>();
  store_matrix<V>(work, problem, index, threadIdx.x, V::threads);
}

// Whether this is the inverse root of the zero matrix: infinite on the diagonal, 0 elsewhere. The gradient there is 0
// by definition. `scratch` is free again after a norm, whose second reduction uses the other half.
template <class V, int split, typename T>
__device__ __forceinline__ bool is_infinite_identity(Fragment<V, split>& f, const Owner<V, split>& owner, int n,
                                                     T* scratch) {
  bool other = false;
#pragma unroll
  for (int r = 0; r < f.rows; ++r) {
#pragma unroll
    for (int c = 0; c < V::tile; ++c) other = other || !(f.under[r][c] == T(0));
  }
#pragma unroll
  for (int c = 0; c < V::tile; ++c) {
    const bool on_diagonal = c == owner.row && owner.diagonal_row() < n;
    other = other || !(f.diagonal[c] == (on_diagonal ? infinity<T>() : T(0)));
  }
  return reduce_team<V>(other ? T(1) : T(0), scratch, [](T a, T b) { return max_or_nan(a, b); }) == T(0);
}

// Z X + X Z = -Z^2 sym(G) Z^2. With z = ||Z||_F and Z = z Y this is Y X' + X' Y = -Y^2 sym(G) Y^2, X = z^3 X'; the
// powers of z come last, where they overflow only if the gradient does.
template <class V>
__global__ void __launch_bounds__(max_threads(Fused::inv_sqrtm_lya_backward, V::shape), 1)
    inv_sqrtm_lya_backward_kernel(const __grid_constant__ InvSqrtmLyaBackwardArguments arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  const Problem& problem = arguments.problem;
  const int blocks = (problem.n + V::tile - 1) / V::tile;
  T* b = reinterpret_cast<T*>(dynamic_shared()) +
         static_cast<int>(threadIdx.y) * shared_elements(Fused::inv_sqrtm_lya_backward, V::shape, 1);
  T* c = b + V::matrix_elements;
  T* work = c + V::matrix_elements;
  T* scratch = work + V::matrix_elements;
  const Owner<V, split> owner;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  load_matrix<V>(b, arguments.inverse_root, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(c, arguments.cotangent, problem, index, threadIdx.x, V::threads);
  sync_team<V::threads>();
  Fragment<V, split> f, g;
  read_part(b, T(1), owner, f);
  const Norm<T> norm = frobenius_norm(f, scratch);
  const bool infinite = is_infinite_identity(f, owner, problem.n, scratch);  // by all lanes, so not behind ||
  const bool zero = norm.is_zero || infinite;
  read_part(c, T(1), owner, g);
  f.apply([norm](T value) { return norm.normalise(value); });
  sync_team<V::threads>();  // all have read the inputs
  write(b, owner, f, T(1));
  write(c, owner, g, T(1));
  sync_team<V::threads>();
  symmetric_product(b, b, blocks, owner, f);
  write(work, owner, f, T(1));
  sync_team<V::threads>();
  {
    FullProduct<V> u;
    u.multiply(c, work, blocks);
    sync_team<V::threads>();  // all have read c
    u.write(c);
  }
  sync_team<V::threads>();
  symmetric_product(work, c, blocks, owner, f);
  f.apply([](T value) { return -value; });
  sync_team<V::threads>();  // all have read c
  write(c, owner, f, T(1));
  sync_team<V::threads>();
  solve_lyapunov(b, c, work, T(1), arguments.iterations, blocks, owner, f);
  f.apply([norm](T value) { return norm.restore(norm.restore(norm.restore(value))); });
  if (zero) f.apply([](T) { return T(0); });
  sync_team<V::threads>();
  write(work, owner, f, T(1));
  sync_team<V::threads>();
  store_matrix<V>(work, problem, index, threadIdx.x, V::threads);
}

}  // namespace cuda
}  // namespace fastsqrtm

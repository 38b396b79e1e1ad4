// X with B X + X B = C for any C, the op `lyapunov`: one launch. B acts on the symmetric and the skew part of C
// separately, so each is solved by the cheap step of lyapunov.cuh; a symmetric C is solved once.
#pragma once

#include "cuda/steps/sign_lyapunov.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"

namespace fastsqrtm {
namespace cuda {

template <class V>
__global__ void __launch_bounds__(max_threads(Fused::lyapunov, V::shape), 1)
    lyapunov_kernel(const __grid_constant__ LyapunovArguments arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  const Problem& problem = arguments.problem;
  const int blocks = (problem.n + V::tile - 1) / V::tile;
  T* b = reinterpret_cast<T*>(dynamic_shared()) +
         static_cast<int>(threadIdx.y) * shared_elements(Fused::lyapunov, V::shape, 1);
  T* c = b + V::matrix_elements;
  T* work = c + V::matrix_elements;
  T* scratch = work + V::matrix_elements;
  const Owner<V, split> owner;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;

  bool skew = false;
  for (int part = 0; part < (skew ? 2 : 1); ++part) {
    const T sign = part == 0 ? T(1) : T(-1);
    load_matrix<V>(b, arguments.b, problem, index, threadIdx.x, V::threads);
    load_matrix<V>(c, arguments.c, problem, index, threadIdx.x, V::threads);
    sync_team<V::threads>();
    Fragment<V, split> f, x;
    if (part == 0) {
      // All matrices of the block take the second part or none: they pass its barriers together.
      bool own = false;
      read_part(c, T(-1), owner, x);
      x.apply([&own](T value) {
        own = own || !(value == T(0));
        return value;
      });
      skew = __syncthreads_or(own);
    }
    read_part(b, T(1), owner, f);
    const Norm<T> norm = frobenius_norm(f, scratch);
    f.apply([norm](T value) { return norm.normalise(value); });
    read_part(c, sign, owner, x);
    x.apply([norm](T value) { return norm.normalise(value); });
    sync_team<V::threads>();  // all have read the inputs
    write(b, owner, f, T(1));
    write(c, owner, x, sign);
    sync_team<V::threads>();
    solve_lyapunov(b, c, work, sign, arguments.iterations, blocks, owner, x);
    sync_team<V::threads>();
    write(work, owner, x, sign);
    sync_team<V::threads>();
    // The symmetric part waits in global memory: registers and shared memory are full. Every thread reads what it
    // wrote.
    if (part == 1) add_kept<V>(work, static_cast<const T*>(arguments.kept), problem, index, threadIdx.x, V::threads);
    if (part == 0 && skew) {
      keep_matrix<V>(work, static_cast<T*>(arguments.kept), problem, index, threadIdx.x, V::threads);
    } else {
      store_matrix<V>(work, problem, index, threadIdx.x, V::threads);
    }
    sync_team<V::threads>();
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

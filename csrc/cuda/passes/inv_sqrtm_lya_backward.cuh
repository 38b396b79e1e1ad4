// The paper's gradient of the inverse root: eight Lyapunov iterations, one launch.
// Counterparts: inv_sqrtm_lya_backward in csrc/cpu and fastsqrtm/_reference/series.py.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct InvSqrtmLyaBackward : OneTeam {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input inverse_root;
    Input cotangent;
    void* out;
    int iterations;

    Arguments(const passes::InvSqrtmLyaBackward& pass, const Operands& operands, const Plan&)
        : problem(operands.problem),
          inverse_root(operands.in[0]),
          cotangent(operands.in[1]),
          out(operands.out[0].data),
          iterations(pass.iterations) {}
  };

  // As SqrtmLyaBackward.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) { return three_matrices(s); }
  static int64_t large_matrices(const passes::InvSqrtmLyaBackward&) { return 6; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/sign_lyapunov.h"
#include "cuda/steps/infinite_identity.cuh"
#include "cuda/steps/sign_lyapunov.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/inv_sqrtm_lya_backward.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<InvSqrtmLyaBackward> : TinyGradient<one_lane::InvSqrtmLyaBackward> {
  static FASTSQRTM_DEVICE bool of_inverse(const Operands&) { return true; }
};

// Z X + X Z = -Z^2 sym(G) Z^2. With z = ||Z||_F and Z = z Y this is Y X' + X' Y = -Y^2 sym(G) Y^2, X = z^3 X'; the
// powers of z come last, where they overflow only if the gradient does.
template <class V>
FASTSQRTM_DEVICE void InvSqrtmLyaBackward::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  constexpr int shared = shared_elements(V::shape, 1);
  const Problem& problem = arguments.problem;
  const int used_tiles = (problem.n + V::tile - 1) / V::tile;
  T* b = reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared;
  T* c = b + V::matrix_elements;
  T* work = c + V::matrix_elements;
  T* scratch = work + V::matrix_elements;
  const Owner<V, split> owner;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  load_matrix<V>(b, arguments.inverse_root, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(c, arguments.cotangent, problem, index, threadIdx.x, V::threads);
  sync_team<V>();
  Fragment<V, split> f, g;
  read_part(b, T(1), owner, f);
  const Norm<T> norm = frobenius_norm(f, scratch);
  const bool infinite = is_infinite_identity(f, owner, problem.n, scratch);  // needs all lanes, so not behind ||
  const bool zero = norm.is_zero || infinite;
  read_part(c, T(1), owner, g);
  f.apply([norm](T value) { return norm.normalise(value); });
  sync_team<V>();  // all have read the inputs
  write(b, owner, f, T(1));
  write(c, owner, g, T(1));
  sync_team<V>();
  symmetric_product(b, b, used_tiles, owner, f);
  write(work, owner, f, T(1));
  sync_team<V>();
  {
    FullProduct<V> u;
    u.multiply(c, work, used_tiles);
    sync_team<V>();  // all have read c
    u.write(c);
  }
  sync_team<V>();
  symmetric_product(work, c, used_tiles, owner, f);
  f.apply([](T value) { return -value; });
  sync_team<V>();  // all have read c
  write(c, owner, f, T(1));
  sync_team<V>();
  solve_lyapunov(b, c, work, T(1), arguments.iterations, used_tiles, owner, f);
  f.apply([norm](T value) { return norm.restore(norm.restore(norm.restore(value))); });
  if (zero) f.apply([](T) { return T(0); });
  sync_team<V>();
  write(work, owner, f, T(1));
  sync_team<V>();
  store_matrix<V>(work, arguments.out, problem, index, threadIdx.x, V::threads);
}

template <class Large>
void InvSqrtmLyaBackward::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  T* b = large.matrices();
  T* c = large.matrices();
  T* first = large.matrices();
  T* second = large.matrices();
  T* third = large.matrices();
  int* infinite = large.template take<int>(large.batch);
  large.symmetrise(arguments.inverse_root, b);
  large.find_norms();
  large.library().run(&infinite_identity_kernel<T>, 1, large.batch, norm_threads, 1, 0, b, large.n, infinite);
  large.scale(b, Scale::inverse_norm, T(1), T(0));
  large.symmetrise(arguments.cotangent, second);
  large.gemm(1, b, b, 0, first);
  large.gemm(1, first, second, 0, third);
  large.gemm(-1, third, first, 0, c);
  const T* twice = symmetric_iterations(large, arguments.iterations, b, c, first, second, third);
  FinishArguments<T> finish = large.finish_arguments(arguments.out, twice, Finish::inverse_gradient, T(0.5));
  finish.is_zero_gradient = infinite;
  large.tiles(&finish_kernel<T>, finish);
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

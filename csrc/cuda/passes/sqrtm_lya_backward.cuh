// The paper's gradient of the root: eight Lyapunov iterations, one launch.
// Counterparts: sqrtm_lya_backward in csrc/cpu and fastsqrtm/_reference/series.py.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct SqrtmLyaBackward : OneTeam {
  static constexpr int tiny_operands = 3;
  template <typename T>
  struct Arguments {
    Problem problem;
    Input a;
    Input root;
    Input cotangent;
    void* out;
    int iterations;

    Arguments(const passes::SqrtmLyaBackward& pass, const Operands& operands, const Plan&)
        : problem(operands.problem),
          a(operands.in[0]),
          root(operands.in[1]),
          cotangent(operands.in[2]),
          out(operands.out[0].data),
          iterations(pass.iterations) {}
  };

  // B, C and one work matrix: the fourth, U or M, is in registers until its place is free.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) { return three_matrices(s); }
  static int64_t large_matrices(const passes::SqrtmLyaBackward&) { return 6; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/sign_lyapunov.h"
#include "cuda/steps/sign_lyapunov.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/sqrtm_lya_backward.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<SqrtmLyaBackward> : TinyGradient<one_lane::SqrtmLyaBackward> {};

// S X + X S = sym(G), scaled by the root of nu = ||A||_F.
template <class V>
FASTSQRTM_DEVICE void SqrtmLyaBackward::run(const Arguments<typename V::scalar>& arguments) {
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
  load_matrix<V>(work, arguments.a, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(b, arguments.root, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(c, arguments.cotangent, problem, index, threadIdx.x, V::threads);
  sync_team<V>();
  Fragment<V, split> f, g;
  read_part(work, T(1), owner, f);
  const Norm<T> norm = frobenius_norm(f, scratch);
  const T scale = norm.inverse_root();
  read_part(b, T(1), owner, f);
  read_part(c, T(1), owner, g);
  f.apply([scale](T value) { return value * scale; });
  g.apply([scale](T value) { return value * scale; });
  sync_team<V>();  // all have read the inputs
  write(b, owner, f, T(1));
  write(c, owner, g, T(1));
  sync_team<V>();
  solve_lyapunov(b, c, work, T(1), arguments.iterations, used_tiles, owner, f);
  if (norm.is_zero) f.apply([](T) { return T(0); });
  sync_team<V>();
  write(work, owner, f, T(1));
  sync_team<V>();
  store_matrix<V>(work, arguments.out, problem, index, threadIdx.x, V::threads);
}

template <class Large>
void SqrtmLyaBackward::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  T* b = large.matrices();
  T* c = large.matrices();
  T* first = large.matrices();
  T* second = large.matrices();
  T* third = large.matrices();
  large.symmetrise(arguments.a, first);
  large.find_norms();
  large.symmetrise(arguments.root, b);
  large.symmetrise(arguments.cotangent, c);
  large.scale(b, Scale::inverse_root, T(1), T(0));
  large.scale(c, Scale::inverse_root, T(1), T(0));
  const T* twice = symmetric_iterations(large, arguments.iterations, b, c, first, second, third);
  large.tiles(&finish_kernel<T>, large.finish_arguments(arguments.out, twice, Finish::gradient, T(0.5)));
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

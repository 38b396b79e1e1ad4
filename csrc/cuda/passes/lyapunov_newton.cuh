// X with B X + X B = C by Newton steps for any C, the op `lyapunov_newton`: one launch, for the symmetric and, if there
// is one, for the skew part of C.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct LyapunovNewton : OneTeam {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input b;
    Input c;
    void* out;
    T tolerance;
    // batch x n x n: the result itself, or memory of its own where the result is narrower than T
    T* kept;

    Arguments(const passes::LyapunovNewton& pass, const Operands& operands, const Plan&)
        : problem(operands.problem),
          b(operands.in[0]),
          c(operands.in[1]),
          out(operands.out[0].data),
          tolerance(static_cast<T>(pass.tolerance)),
          kept(static_cast<T*>(operands.kept ? operands.kept : operands.out[0].data)) {}
  };

  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) { return newton_memory(s); }
  // The sum of two solutions is rounded to half precision once.
  static constexpr int64_t kept_elements(const Shape&, const Problem& problem) {
    return problem.element == Element::float16 || problem.element == Element::bfloat16 ? int64_t(problem.n) * problem.n
                                                                                       : 0;
  }
  static constexpr bool only_symmetric_part_of(int input) { return input == 0; }
  static int64_t large_matrices(const passes::LyapunovNewton&) { return 6; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/newton_steps.h"
#include "cuda/steps/newton_lyapunov.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/lyapunov_newton.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<LyapunovNewton> : TinyGradient<one_lane::LyapunovNewton> {};

// True if this lane sees an element that differs from its mirror image. It compares element by element: with fragments,
// which are used below, the compiler would run out of registers.
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
FASTSQRTM_DEVICE void LyapunovNewton::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int shared = shared_elements(V::shape, 1);
  const Problem& problem = arguments.problem;
  const int n = problem.n;
  const int used_tiles = (n + V::tile - 1) / V::tile;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;

  bool skew = false;
#pragma unroll 1
  for (int part = 0; part < (skew ? 2 : 1); ++part) {
    // opaque() stops the compiler from keeping the addresses that follow from this one: they take too many registers.
    const int start = opaque(static_cast<int>(threadIdx.y) * shared);
    const NewtonMemory<V> m(reinterpret_cast<T*>(dynamic_shared()) + start);
    const T sign = part == 0 ? T(1) : T(-1);
    load_matrix<V>(m.work, arguments.c, problem, index, threadIdx.x, V::threads);
    load_matrix<V>(m.w, arguments.b, problem, index, threadIdx.x, V::threads);
    sync_team<V>();
    Fragment<V, V::split_symmetric> x;
    if (part == 0) {
      // All matrices of the block take the second part or none does, because they pass its barriers together.
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
      sync_team<V>();  // all have read the inputs
      write(m.w, by_sweep, f, T(1));
      sync_team<V>();
      norm_b = one_norm<V>(m.w, used_tiles, n, m.scratch);
      invert(m, ridge_unit<T>(problem.element) * norm_b, used_tiles, n, by_sweep, f);
      write_lower(m.w, by_sweep, f);
    }
    sync_team<V>();
    const T norm_w = one_norm<V>(m.w, used_tiles, n, m.scratch);
    solve_newton(m, arguments.tolerance, sign, norm_b, norm_w, used_tiles, n, x);
    const Norm<T> norm = *m.norm;
    x.apply([norm](T value) { return norm.normalise(value); });
    if (norm.is_zero) x.apply([](T) { return T(0); });
    sync_team<V>();
    write(m.work, Owner<V, V::split_symmetric>(opaque(threadIdx.x)), x, sign);
    sync_team<V>();
    // As in lyapunov.cuh.
    if (part == 1) add_kept<V>(m.work, arguments.kept, problem, index, threadIdx.x, V::threads);
    if (part == 0 && skew) {
      keep_matrix<V>(m.work, arguments.kept, problem, index, threadIdx.x, V::threads);
    } else {
      store_matrix<V>(m.work, arguments.out, problem, index, threadIdx.x, V::threads);
    }
    sync_team<V>();
  }
}

// Any C: W C W needs no symmetry.
template <class Large>
void LyapunovNewton::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  T* b = large.matrices();
  T* w = large.matrices();
  T* c = large.matrices();
  T* u = large.matrices();
  T* v = large.matrices();
  NewtonSteps<Large> newton(large, 1);
  large.symmetrise(arguments.b, b);
  large.find_norms();
  large.scale(b, Scale::inverse_norm, T(1), T(0));
  newton.begin(b);
  newton.add_ridge(b, v);
  newton.invert(b, v, u, w);
  large.elements(large.batch, &load_kernel<T>, large.problem(), arguments.c, c, large.norms(), Scale::inverse_norm);
  const T* x = newton.solve(b, w, c, u, v, arguments.tolerance);
  large.tiles(&finish_kernel<T>, large.finish_arguments(arguments.out, x, Finish::plain));
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

// X with B X + X B = C for any C, the op `lyapunov`: one launch. B acts on the symmetric and the skew part of C
// separately, so the cheap step of sign_lyapunov.cuh solves each; a symmetric C is solved once.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct Lyapunov : OneTeam {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input b;
    Input c;
    void* out;
    int iterations;
    // batch x n x n: the result itself, or memory of its own where the result is narrower than T
    T* kept;

    Arguments(const passes::Lyapunov& pass, const Operands& operands, const Plan&)
        : problem(operands.problem),
          b(operands.in[0]),
          c(operands.in[1]),
          out(operands.out[0].data),
          iterations(pass.iterations),
          kept(static_cast<T*>(operands.kept ? operands.kept : operands.out[0].data)) {}
  };

  // B, C and one work matrix, as SqrtmLyaBackward.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) { return three_matrices(s); }
  // The sum of two solutions is rounded to half precision once.
  static constexpr int64_t kept_elements(const Shape&, const Problem& problem) {
    return problem.element == Element::float16 || problem.element == Element::bfloat16 ? int64_t(problem.n) * problem.n
                                                                                       : 0;
  }
  static constexpr bool only_symmetric_part_of(int input) { return input == 0; }
  static int64_t large_matrices(const passes::Lyapunov&) { return 6; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/large.h"
#include "cuda/steps/sign_lyapunov.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/lyapunov.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<Lyapunov> : TinyGradient<one_lane::Lyapunov> {};

template <class V>
FASTSQRTM_DEVICE void Lyapunov::run(const Arguments<typename V::scalar>& arguments) {
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

  bool skew = false;
  for (int part = 0; part < (skew ? 2 : 1); ++part) {
    const T sign = part == 0 ? T(1) : T(-1);
    load_matrix<V>(b, arguments.b, problem, index, threadIdx.x, V::threads);
    load_matrix<V>(c, arguments.c, problem, index, threadIdx.x, V::threads);
    sync_team<V>();
    Fragment<V, split> f, x;
    if (part == 0) {
      // All matrices of the block take the second part or none does, because they pass its barriers together.
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
    sync_team<V>();  // all have read the inputs
    write(b, owner, f, T(1));
    write(c, owner, x, sign);
    sync_team<V>();
    solve_lyapunov(b, c, work, sign, arguments.iterations, used_tiles, owner, x);
    sync_team<V>();
    write(work, owner, x, sign);
    sync_team<V>();
    // The symmetric part waits in global memory: registers and shared memory are full. Every thread reads what it
    // wrote.
    if (part == 1) add_kept<V>(work, arguments.kept, problem, index, threadIdx.x, V::threads);
    if (part == 0 && skew) {
      keep_matrix<V>(work, arguments.kept, problem, index, threadIdx.x, V::threads);
    } else {
      store_matrix<V>(work, arguments.out, problem, index, threadIdx.x, V::threads);
    }
    sync_team<V>();
  }
}

template <class Large>
void Lyapunov::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  const int n = large.n;
  const int64_t batch = large.batch;
  T* b = large.matrices();
  T* c = large.matrices();
  T* u = large.matrices();
  T* q = large.matrices();
  T* m = large.matrices();
  T* next = large.matrices();
  large.symmetrise(arguments.b, b);
  large.find_norms();
  large.scale(b, Scale::inverse_norm, T(1), T(0));
  large.elements(batch, &load_kernel<T>, large.problem(), arguments.c, c, large.norms(), Scale::inverse_norm);
  // C without symmetry: B^2 C - B C B + C B^2 = B (Q - U/2) + (U - Q/2) B with U = C B, Q = B C.
  for (int k = 0; k < arguments.iterations; ++k) {
    large.gemm(1, c, b, 0, u);
    large.gemm(1, b, c, 0, q);
    large.elements(batch, &general_step_kernel<T>, u, q, m, batch, n);
    large.gemm(T(-0.5), b, q, T(1.5), c);
    large.gemm(T(-0.5), u, b, 1, c);
    if (k + 1 == arguments.iterations) break;
    large.gemm(T(-0.5), b, b, 1, m);
    large.gemm(1, b, m, 0, next);
    std::swap(b, next);
  }
  large.tiles(&finish_kernel<T>, large.finish_arguments(arguments.out, c, Finish::plain, T(0.5)));
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

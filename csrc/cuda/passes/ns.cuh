// Root or inverse root by Newton-Schulz steps, two at a time in five half products: one launch.
// Counterparts: ns and ns_inv in csrc/cpu and fastsqrtm/_reference/series.py.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct Ns : OneTeam {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input a;
    void* out;
    int steps;
    bool inverse;

    Arguments(const passes::Ns& pass, const Operands& operands, const Plan&)
        : problem(operands.problem),
          a(operands.in[0]),
          out(operands.out[0].data),
          steps(pass.steps),
          inverse(pass.inverse()) {}
  };

  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) { return three_matrices(s); }
  static int64_t large_matrices(const passes::Ns&) { return 6; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/newton_schulz.h"
#include "cuda/steps/newton_schulz.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/product.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/ns.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<Ns> : TinyRoot<one_lane::Ns> {};

// Three matrices are enough: one for E, H, M and N = M P, one for Y, one for E^2 and P. M waits in registers while E
// and H have its place. Teams that share a warp pass the same barriers: each goes on for as long as one of them does,
// and the Y of a team that has stopped is not touched.
template <class V>
FASTSQRTM_DEVICE void Ns::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  constexpr int shared = shared_elements(V::shape, 1);
  const Problem& problem = arguments.problem;
  const bool inverse = arguments.inverse;
  const int n = problem.n;
  const int used_tiles = (n + V::tile - 1) / V::tile;
  T* m = reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared;
  T* y = m + V::matrix_elements;
  T* p = y + V::matrix_elements;
  T* scratch = p + V::matrix_elements;
  const Owner<V, split> owner;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  load_matrix<V>(m, arguments.a, problem, index, threadIdx.x, V::threads);
  sync_team<V>();
  Fragment<V, split> f, other;
  read_part(m, T(1), owner, f);
  T final_scale;
  {
    const Norm<T> norm = frobenius_norm(f, scratch);
    f.apply([norm](T x) { return norm.normalise(x); });
    final_scale = result_scale(norm, inverse);
  }

  bool first = true, done = false;
#pragma unroll 1
  for (int left = arguments.steps;; first = false) {
    const bool single = left % 2 != 0;
    bool last = left <= 2;
    other = f;  // M
    if (single) {
      f.apply([](T) { return T(0); });
      sync_team<V>();  // all have read the input
    } else {
      last = take_from_identity(f, owner, n, scratch) || last;  // and all have read the three matrices
      write(m, owner, f, T(1));
      sync_team<V>();
      symmetric_product(m, m, used_tiles, owner, f);
      write(p, owner, f, T(1));
      FASTSQRTM_SEEDED_SYNC(sync_team<V>());  // all have read E
      f.combine(other, [](T squared, T x) { return two_steps_factor(squared, x); });
      add_identity(f, owner, n, T(two_steps_identity));
      write(m, owner, f, T(1));
      sync_team<V>();
      symmetric_product(p, m, used_tiles, owner, f);
      sync_team<V>();
    }
    f.combine(other, [](T sum, T x) { return sum - T(0.5) * x; });
    add_identity(f, owner, n, T(1.5));
    write(p, owner, f, T(1));
    write(m, owner, other, T(1));
    sync_team<V>();
    // In the first step Y of the root is M, so Y P is N as well; Y of the inverse root is I, so f already holds Y P.
    if (!first || !inverse) symmetric_product(first ? m : y, p, used_tiles, owner, f);
    const bool go_on = any_team<V>(!done && !last);
    if (go_on && (!first || inverse)) {
      symmetric_product(m, p, used_tiles, owner, other);
    } else {
      other = f;
    }
    sync_team<V>();  // all have read Y and M
    if (!done) {
      if (last) scale_result(f, owner, final_scale, inverse);
      write(y, owner, f, T(1));
    }
    done = done || last;
    if (!go_on) break;
    write(m, owner, other, T(1));
    sync_team<V>();
    symmetric_product(m, p, used_tiles, owner, f);
    left -= single ? 1 : 2;
  }
  sync_team<V>();
  store_matrix<V>(y, arguments.out, problem, index, threadIdx.x, V::threads);
}

template <class Large>
void Ns::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  T* x = large.matrices();
  large.symmetrise(arguments.a, x);
  large.find_norms();
  const T* y = newton_schulz(large, 1, arguments.steps, arguments.inverse, x, static_cast<const T*>(nullptr));
  large.tiles(&finish_kernel<T>, large.finish_arguments(arguments.out, y, finish_of(arguments.inverse)));
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

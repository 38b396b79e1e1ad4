// The exact gradient of the Newton-Schulz steps: every matrix with its derivative along the cotangent, one launch.
// Counterparts: ns_backward and ns_inv_backward in csrc/cpu and fastsqrtm/_reference/series.py.
#pragma once

#include "cuda/passes/ns.cuh"

namespace fastsqrtm {
namespace cuda {

struct NsBackward : OneTeam {
  template <typename T>
  struct Arguments {
    Ns::Arguments<T> series;
    Input cotangent;
    T* kept;  // batch x kept_elements

    Arguments(const passes::NsBackward& pass, const Operands& operands, const Plan& plan)
        : series(pass, operands, plan), cotangent(operands.in[1]), kept(static_cast<T*>(operands.kept)) {}
  };

  // P, its derivative and one place for the matrices that they multiply.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) { return three_matrices(s); }
  static constexpr int64_t kept_elements(const Shape& s, const Problem&) { return four_kept_triangles(s); }
  static int64_t large_matrices(const passes::NsBackward&) { return 12; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/derivative.h"
#include "cuda/library/newton_schulz.h"
#include "cuda/steps/derivative.cuh"
#include "cuda/steps/newton_schulz.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/product.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/ns_backward.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<NsBackward> : TinyGradient<one_lane::NsBackward> {};

// The derivative of a product, dA B + A dB, is symmetric as a sum, so one triangle of both halves is enough. M, Y
// and their derivatives are triangles in registers or in global memory. Three matrices are enough: P and dP, before
// them E and E^2, dE^2 and dH, and one place for each matrix that they multiply in its turn. For teams that share a
// warp see ns.cuh.
template <class V>
FASTSQRTM_DEVICE void NsBackward::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  constexpr int shared = shared_elements(V::shape, 1);
  constexpr int kept = four_kept_triangles(V::shape);
  const Ns::Arguments<T>& series = arguments.series;
  const Problem& problem = series.problem;
  const bool inverse = series.inverse;
  const int n = problem.n;
  const int used_tiles = (n + V::tile - 1) / V::tile;
  T* p = reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared;
  T* dp = p + V::matrix_elements;
  T* x = dp + V::matrix_elements;
  T* scratch = x + V::matrix_elements;
  const Owner<V, split> owner;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  T* place = arguments.kept + index * kept;
  Held<V, split, kept != 0> m{place}, dm{place + kept / 4}, y{place + kept / 2}, dy{place + kept / 4 * 3};
  Fragment<V, split> f, other;
  const auto load_inputs = [&] {
    load_matrix<V>(p, series.a, problem, index, threadIdx.x, V::threads);
    load_matrix<V>(dp, arguments.cotangent, problem, index, threadIdx.x, V::threads);
    sync_team<V>();
  };
  load_inputs();
  read_part(p, T(1), owner, f);
  const Norm<T> norm = frobenius_norm(f, scratch);
  f.apply([norm](T value) { return norm.normalise(value); });
  m.store(f);
  y.store(f);
  read_part(dp, T(1), owner, f);
  dm.store(f);
  dy.store(f);

  const auto load = [](const auto& held, Fragment<V, split>& into) {
    into.apply([](T) { return T(0); });  // for lanes without a tile
    held.combine_into(into, [](T, T value) { return value; });
  };
  const auto minus_half = [](T sum, T value) { return sum - T(0.5) * value; };
  const auto factor = [](T squared, T value) { return two_steps_factor(squared, value); };
  bool first = true, done = false, go_on = true;
#pragma unroll 1
  for (int left = series.steps; go_on; first = false) {
    const bool single = left % 2 != 0;
    const bool y_is_p = first && inverse;
    bool last = left <= 2;
    f.apply([](T) { return T(0); });
    if (!single) {
      load(m, f);
      last = take_from_identity(f, owner, n, scratch) || last;  // and all have read the three matrices
      write(p, owner, f, T(1));
      load(dm, f);
      write(x, owner, f, T(1));
      sync_team<V>();
      product_plus_transpose(p, x, T(1), used_tiles, owner, f);
      f.apply([](T value) { return -value; });
      write(dp, owner, f, T(1));
      symmetric_product(p, p, used_tiles, owner, f);
      sync_team<V>();  // all have read E and dM
      write(p, owner, f, T(1));
      m.combine_into(f, factor);
      add_identity(f, owner, n, T(two_steps_identity));
      write(x, owner, f, T(1));
      FASTSQRTM_SEEDED_SYNC(sync_team<V>());
      symmetric_product(dp, x, used_tiles, owner, f);
      read(dp, owner, other);
      dm.combine_into(other, factor);
      sync_team<V>();  // all have read dE^2
      write(dp, owner, other, T(1));
      sync_team<V>();
      symmetric_product<true>(p, dp, used_tiles, owner, f);
    }
    sync_team<V>();  // all have read dH, or the inputs
    dm.combine_into(f, minus_half);
    write(dp, owner, f, T(1));
    if (y_is_p) dy.store(f);
    f.apply([](T) { return T(0); });
    if (!single) {
      symmetric_product(p, x, used_tiles, owner, f);
      sync_team<V>();  // all have read E^2 and H
    }
    m.combine_into(f, minus_half);
    add_identity(f, owner, n, T(1.5));
    write(p, owner, f, T(1));
    if (y_is_p) y.store(f);

    // Multiplies value and derivative by P: of Y; of M, which gives N = M P; of N, which gives the new M.
#pragma unroll 1
    for (int pass = y_is_p ? 1 : 0; pass < 3; ++pass) {
      if (pass == 1) {
        done = done || last;
        go_on = any_team<V>(!done);
        if (!go_on) break;
        if (first && !inverse) {  // M was Y
          load(y, f);
          m.store(f);
          load(dy, f);
          dm.store(f);
          continue;
        }
      }
      if (pass == 0) {
        load(y, f);
      } else {
        load(m, f);
      }
      write(x, owner, f, T(1));
      sync_team<V>();
      symmetric_product(x, p, used_tiles, owner, f);
      if (pass > 0) {
        m.store(f);
      } else if (!done) {
        y.store(f);
      }
      symmetric_product(x, dp, used_tiles, owner, f);
      if (pass == 0) {
        load(dy, other);
      } else {
        load(dm, other);
      }
      sync_team<V>();  // all have read Y, M or N
      write(x, owner, other, T(1));
      sync_team<V>();
      symmetric_product<true>(x, p, used_tiles, owner, f);
      if (pass > 0) {
        dm.store(f);
      } else if (!done) {
        dy.store(f);
      }
      sync_team<V>();  // all have read its derivative
    }
    left -= single ? 1 : 2;
  }

  sync_team<V>();
  load_inputs();
  read_part(dp, T(1), owner, f);
  load(y, other);
  T radial = (inverse ? T(-0.5) : T(0.5)) * inner_product(f, other, T(0), owner);
  read_part(p, T(1), owner, other);
  other.apply([norm](T value) { return norm.normalise(value); });
  load(dy, f);
  radial -= inner_product(f, other, T(0), owner);
  finish_gradient(f, other, radial, norm.inverse_root(), inverse, scratch);
  write(x, owner, f, T(1));
  sync_team<V>();
  store_matrix<V>(x, series.out, problem, index, threadIdx.x, V::threads);
}

template <class Large>
void NsBackward::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  const Ns::Arguments<T>& series = arguments.series;
  T* x = large.matrices();
  T* g = large.matrices();
  large.symmetrise(series.a, x);
  large.find_norms();
  large.symmetrise(arguments.cotangent, g);
  const T* y = newton_schulz(large, 2, series.steps, series.inverse, x, g);
  const T* derivative = y + static_cast<int64_t>(large.n) * large.n;
  ExactGradient<T> gradient = gradient_of(large, series.out, series.inverse, x, g, derivative, y, T(1));
  gradient.weight[0] = T(1);
  gradient.term_step = gradient.derivative_step = 2;
  finish_gradient(large, gradient);
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

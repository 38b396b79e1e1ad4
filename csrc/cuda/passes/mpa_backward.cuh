// The exact gradient of the Pade approximant: one sweep and one and a half products per shift, one launch.
// Counterparts: mpa_backward and mpa_inv_backward in csrc/cpu and fastsqrtm/_reference/series.py.
#pragma once

#include "cuda/passes/mpa.cuh"

namespace fastsqrtm {
namespace cuda {

struct MpaBackward : OneTeam {
  template <typename T>
  struct Arguments {
    Mpa::Arguments<T> series;
    Input cotangent;
    T* kept;  // batch x kept_elements

    Arguments(const PartialFractions& fractions, const Operands& operands, const Plan& plan)
        : series(fractions, operands, plan), cotangent(operands.in[1]), kept(static_cast<T*>(operands.kept)) {}
  };

  // G, R and one place that the panels of the sweep and U share.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) { return three_matrices(s); }
  static constexpr int64_t kept_elements(const Shape& s, const Problem&) { return packed_elements(s); }
  static int64_t large_matrices(const PartialFractions& series) { return 3 + 2 * series.count; }
  static int64_t large_terms(const PartialFractions& series) { return series.count; }
  // Two triangles where the registers are too few, as in teams of nine warps, which have 168 of them a thread.
  static FASTSQRTM_HOST_DEVICE constexpr int packed_elements(const Shape& s) {
    return s.threads > 256 ? s.triangle_elements(s.split_sweep) + s.triangle_elements(s.split_symmetric) : 0;
  }

  template <class V, bool normalised = true>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large, bool normalised = true>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/blocked_sweep.cuh"
#include "cuda/library/derivative.h"
#include "cuda/steps/derivative.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/product.cuh"
#include "cuda/tile/sweep.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/mpa_backward.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<MpaBackward> : TinyGradient<one_lane::MpaBackward> {
  template <typename T>
  using Numbers = MpaNumbers<T>;
};

// With R = (I + H)^-1 the derivative of weight H R is weight scale R G R, and so is that of -weight R. X and the sum L
// stay in registers, or X in global memory; the panels of the sweep and U = G R take turns in one matrix.
template <class V, bool normalised>
FASTSQRTM_DEVICE void MpaBackward::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  constexpr int shared = shared_elements(V::shape, 1);
  static_assert(V::panel_elements <= V::matrix_elements, "the panels take the place of a matrix");
  const Mpa::Arguments<T>& series = arguments.series;
  const Problem& problem = series.problem;
  const int used_tiles = (problem.n + V::tile - 1) / V::tile;
  T* g = reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared;
  T* r = g + V::matrix_elements;
  T* u = r + V::matrix_elements;
  T* scratch = u + V::matrix_elements;
  const Owner<V, V::split_sweep> sweeper;
  const Owner<V, split> owner;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  constexpr int kept = packed_elements(V::shape);
  T* place = arguments.kept + index * kept;
  Held<V, V::split_sweep, kept != 0> x{place};
  Held<V, split, kept != 0> sum{place + smaller(kept, V::shape.triangle_elements(V::split_sweep))};
  load_matrix<V>(r, series.a, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(u, arguments.cotangent, problem, index, threadIdx.x, V::threads);
  sync_team<V>();
  const bool inverse = series.inverse;
  T final_scale;
  {
    Fragment<V, V::split_sweep> f;
    read_part(r, T(1), sweeper, f);
    const Norm<T> frobenius = frobenius_norm(f, scratch), norm = normalised ? frobenius : frobenius.as_one();
    f.apply([norm](T value) { return norm.normalise(value); });
    x.store(f);
    final_scale = norm.inverse_root();
  }
  T along;  // this lane's part of <G, r>
  Fragment<V, split> l;
  read_part(u, T(1), owner, l);
  write(g, owner, l, T(1));
  {
    Fragment<V, split> zero;
    zero.apply([](T) { return T(0); });
    along = inner_product(l, zero, series.constant, owner);
  }
  l.apply([](T) { return T(0); });
  sum.store(l);
  sync_team<V>();  // all have read the inputs
  for (int j = 0; j < series.degree; ++j) {
    const T scale = series.scale[j], weight = series.weight[j];
    {
      Fragment<V, V::split_sweep> h, cotangent;
      h.apply([](T) { return T(0); });
      x.combine_into(h, [scale](T, T value) { return scale * value; });
      sweep(h, sweeper, used_tiles, false, Panels<V>(u));
      // h = -R. The root's term is H R = I - R, so that the part close to I is subtracted before the sum.
      read(g, sweeper, cotangent);
      along += weight * inner_product(cotangent, h, inverse ? T(0) : T(1), sweeper);
      h.apply([](T value) { return -value; });
      write_lower(r, sweeper, h);
    }
    sync_team<V>();
    {
      FullProduct<V> product;
      product.multiply(g, r, used_tiles);
      product.write(u);
    }
    FASTSQRTM_SEEDED_SYNC(sync_team<V>());
    symmetric_product(r, u, used_tiles, owner, l);
    sum.combine_into(l, [factor = weight * scale](T value, T before) { return factor * value + before; });
    sum.store(l);
    sync_team<V>();  // all have read r and u
  }
  if constexpr (!normalised) {
    l.apply([final_scale](T value) { return value * final_scale; });
    write(u, owner, l, T(1));
    sync_team<V>();
    return store_matrix<V>(u, series.out, problem, index, threadIdx.x, V::threads);
  }
  // From the lanes of the sweep to those of the product.
  {
    Fragment<V, V::split_sweep> f;
    f.apply([](T) { return T(0); });
    x.combine_into(f, [](T, T value) { return value; });
    write(r, sweeper, f, T(1));
  }
  sync_team<V>();
  Fragment<V, split> direction;
  read(r, owner, direction);
  const T radial = (inverse ? T(-0.5) : T(0.5)) * along - inner_product(l, direction, T(0), owner);
  finish_gradient(l, direction, radial, final_scale, series.inverse, scratch);
  write(u, owner, l, T(1));
  sync_team<V>();
  store_matrix<V>(u, series.out, problem, index, threadIdx.x, V::threads);
}

// The terms R_j carry the root of their weight in the derivative sum_j R_j G R_j, which the products then build up.
template <class Large, bool normalised>
void MpaBackward::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  const Mpa::Arguments<T>& series = arguments.series;
  const int n = large.n, degree = series.degree;
  const int64_t count = large.batch * degree;
  const bool inverse = series.inverse;
  T* x = large.matrices();
  T* g = large.matrices();
  T* derivative = large.matrices();
  T* factor = large.matrices(degree);
  T* right = large.matrices(degree);
  const Factorisations<T> f = large.factorisations(degree);
  const T** cotangents = large.template take<const T*>(count);
  large.symmetrise(series.a, x);
  large.find_norms(!normalised);
  large.symmetrise(arguments.cotangent, g);
  const bool blocked = swept_in_blocks(large);
  DerivativeShifts<T> shifts{large.batch,   n,      degree, {},        {},       x,          g,
                             large.norms(), factor, right,  f.factors, f.rights, cotangents, !blocked};
  ExactGradient<T> gradient = gradient_of(large, series.out, series.inverse, x, g, derivative, right,
                                          inverse && series.weight[0] < 0 ? T(-1) : T(1));
  gradient.radial = normalised;
  gradient.info = blocked ? nullptr : f.info;
  gradient.count = degree;
  gradient.term_step = degree;
  gradient.constant = series.constant;
  for (int j = 0; j < degree; ++j) {
    const T root = std::sqrt(std::fabs(series.weight[j]) * series.scale[j]);
    shifts.scale[j] = series.scale[j];
    shifts.root[j] = root;
    gradient.weight[j] = -series.weight[j] / root;  // terms I - R for the root, terms R for the inverse root
    gradient.identity[j] = inverse ? T(0) : root;
  }
  large.elements(count, &derivative_shift_kernel<T>, shifts);
  if (blocked) {
    sweep_in_blocks(large, factor, right, count, false);
    large.elements(count, &derivative_terms_kernel<T>, shifts);
  } else {
    large.solve(f, count);
  }
  large.library().products(cotangents, f.rights, f.factors, n, count);
  // Each term has its product: a single one of all terms, its sums as many times as long, would round more.
  for (int j = 0; j < degree; ++j) {
    const int64_t term = static_cast<int64_t>(j) * n * n;
    large.gemm(1, right + term, factor + term, j > 0 ? 1 : 0, derivative, {1, degree, degree, 1});
  }
  finish_gradient(large, gradient);
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

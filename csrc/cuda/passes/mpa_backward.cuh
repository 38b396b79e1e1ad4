// The exact gradient of the Pade approximant: one sweep and one and a half products per shift, one launch.
// Counterparts: mpa_backward and mpa_inv_backward in csrc/cpu and fastsqrtm/reference.py.
#pragma once

#include "cuda/steps/derivative.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/product.cuh"
#include "cuda/tile/sweep.cuh"

namespace fastsqrtm {
namespace cuda {

// With R = (I + H)^-1 the derivative of weight H R is weight scale R G R, and so is that of -weight R. X and the sum L
// stay in registers, or X in global memory; the panels of the sweep and U = G R take turns in one matrix.
template <class V>
__global__ void __launch_bounds__(max_threads(Fused::mpa_backward, V::shape), 1)
    mpa_backward_kernel(const __grid_constant__ MpaBackwardArguments<typename V::scalar> arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  static_assert(V::panel_elements <= V::matrix_elements, "the panels take the place of a matrix");
  const MpaArguments<T>& series = arguments.series;
  const Problem& problem = series.problem;
  const int blocks = (problem.n + V::tile - 1) / V::tile;
  T* g = reinterpret_cast<T*>(dynamic_shared()) +
         static_cast<int>(threadIdx.y) * shared_elements(Fused::mpa_backward, V::shape, 1);
  T* r = g + V::matrix_elements;
  T* u = r + V::matrix_elements;
  T* scratch = u + V::matrix_elements;
  const Owner<V, V::split_sweep> sweeper;
  const Owner<V, split> owner;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  constexpr int kept = kept_elements(Fused::mpa_backward, V::shape);
  T* place = arguments.kept + index * kept;
  Held<V, V::split_sweep, kept != 0> x{place};
  Held<V, split, kept != 0> sum{place + smaller(kept, V::shape.triangle_elements(V::split_sweep))};
  load_matrix<V>(r, series.a, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(u, arguments.cotangent, problem, index, threadIdx.x, V::threads);
  sync_team<V::threads>();
  T final_scale;
  {
    Fragment<V, V::split_sweep> f;
    read_part(r, T(1), sweeper, f);
    const Norm<T> norm = frobenius_norm(f, scratch);
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
  sync_team<V::threads>();  // all have read the inputs
  for (int j = 0; j < series.degree; ++j) {
    const T scale = series.scale[j], weight = series.weight[j];
    {
      Fragment<V, V::split_sweep> h, cotangent;
      h.apply([](T) { return T(0); });
      x.combine_into(h, [scale](T, T value) { return scale * value; });
      sweep(h, sweeper, blocks, false, Panels<V>(u));
      // h = -R. Of the root's term H R = I - R, so that what is close to I is subtracted before it is summed.
      read(g, sweeper, cotangent);
      along += weight * inner_product(cotangent, h, series.inverse ? T(0) : T(1), sweeper);
      h.apply([](T value) { return -value; });
      write_lower(r, sweeper, h);
    }
    sync_team<V::threads>();
    {
      FullProduct<V> product;
      product.multiply(g, r, blocks);
      product.write(u);
    }
    FASTSQRTM_SEEDED_SYNC(sync_team<V::threads>());
    symmetric_product(r, u, blocks, owner, l);
    sum.combine_into(l, [factor = weight * scale](T value, T before) { return factor * value + before; });
    sum.store(l);
    sync_team<V::threads>();  // all have read r and u
  }
  // From the lanes of the sweep to those of the product.
  {
    Fragment<V, V::split_sweep> f;
    f.apply([](T) { return T(0); });
    x.combine_into(f, [](T, T value) { return value; });
    write(r, sweeper, f, T(1));
  }
  sync_team<V::threads>();
  Fragment<V, split> direction;
  read(r, owner, direction);
  const T radial = (series.inverse ? T(-0.5) : T(0.5)) * along - inner_product(l, direction, T(0), owner);
  finish_gradient(l, direction, radial, final_scale, series.inverse, scratch);
  write(u, owner, l, T(1));
  sync_team<V::threads>();
  store_matrix<V>(u, problem, index, threadIdx.x, V::threads);
}

}  // namespace cuda
}  // namespace fastsqrtm

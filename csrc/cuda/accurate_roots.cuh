// Root and inverse root by Zolotarev's approximant and Denman-Beavers steps, one launch: a sweep for every pole and
// every inverse. Counterparts: sqrtm, inv_sqrtm and sqrtm_and_inv in csrc/cpu and fastsqrtm/reference.py.
#pragma once

#include "memory.cuh"
#include "newton.cuh"
#include "norm.cuh"
#include "sweep.cuh"

namespace fastsqrtm {
namespace cuda {

// Of a matrix that turns out to be indefinite in this precision the pass is done again, from the load on, with a ridge
// on the diagonal.
template <class V>
__global__ void __launch_bounds__(max_threads(Fused::accurate_roots, V::shape), 1)
    accurate_roots_kernel(const __grid_constant__ AccurateRootsArguments<typename V::scalar> arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_sweep;
  constexpr int triangle = Triangle<V, split>::elements;
  static_assert(2 * triangle >= V::matrix_elements, "the output must not reach Y");
  const int n = arguments.problem.n;
  const int blocks = (n + V::tile - 1) / V::tile;
  T* work = reinterpret_cast<T*>(dynamic_shared()) +
            static_cast<int>(threadIdx.y) * shared_elements(Fused::accurate_roots, V::shape, 1);
  const Triangle<V, split> a{work};
  const Triangle<V, split> x{work + triangle};
  const Triangle<V, split> y{work + 2 * triangle};
  const Panels<V> panels(work + 3 * triangle);
  T* scratch = work + 3 * triangle + V::panel_elements;
  const Owner<V, split> owner;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;

  bool settled = false;
  for (int attempt = 0;; ++attempt) {
    load_matrix<V>(work, arguments.a, arguments.problem, index, threadIdx.x, V::threads);
    sync_team<V::threads>();
    Fragment<V, split> h;
    read_part(work, T(1), owner, h);
    const Norm<T> norm = frobenius_norm(h, scratch);
    h.apply([norm](T value) { return norm.normalise(value); });
    sync_team<V::threads>();  // all have read the input
    write(work, owner, h, T(1));
    sync_team<V::threads>();
    // A bound of the largest eigenvalue, as the Frobenius norm is.
    const T column_norm = one_norm<V>(work, blocks, n, scratch);
    const T bound = column_norm > T(0) && column_norm < T(1) ? column_norm : T(1);
    const T inverse_bound = reciprocal(bound);
    h.apply([inverse_bound](T value) { return value * inverse_bound; });
    add_identity(h, owner, n,
                 attempt + 1 == ridge_count ? arguments.last_ridge : T(ridge_of(attempt)) * machine_epsilon<T>());
    sync_team<V::threads>();  // the packed triangles take the place of the matrix
    const T constant = arguments.constant;
    a.store(h);
    h.apply([constant](T value) { return constant * value; });
    x.store(h);
    h.apply([](T) { return T(0); });
    add_identity(h, owner, n, constant);
    y.store(h);
    for (int j = 0; j < arguments.poles; ++j) {
      const T inverse_shift = arguments.inverse_shift[j], weight = arguments.weight[j];
      a.load(h);
      h.apply([inverse_shift](T value) { return inverse_shift * value; });
      sweep<true>(h, owner, blocks, false, panels);  // -(I + A/t)^-1 = -t (A + t I)^-1
      clear_padding(h, owner, n);
      y.update(h, [=](T sum, T value) { return std::fma(-weight * inverse_shift, value, sum); });
      add_identity(h, owner, n, T(1));
      x.update(h, [weight](T sum, T value) { return std::fma(weight, value, sum); });
    }
    for (int k = 0; k < arguments.newton_steps; ++k) {
      // Of the last step only what is wanted.
      const bool last = k + 1 == arguments.newton_steps;
      const bool next_x = !last || arguments.root, next_y = !last || arguments.inverse;
      const T half = arguments.half_scale[k];
      if (next_y) {
        x.load(h);
        sweep_own(h, owner, n, blocks, panels);
        if (k == 0) {
          // The rounding of an inverse that large would show in the root of every eigenvalue: as good as failed.
          T trace = 0;
#pragma unroll
          for (int c = 0; c < V::tile; ++c) trace -= c == owner.row ? h.diagonal[c] : T(0);
          const T squares = team_sum<V>(sum_of_squares(h, T(1)), scratch);
          if (squares > arguments.largest_inverse * team_sum<V>(trace, scratch))
            h.apply([](T) { return not_a_number<T>(); });
        }
        a.store(h);
      }
      if (next_x) {
        y.load(h);
        sweep_own(h, owner, n, blocks, panels);
        x.update(h, [half](T old, T minus_inverse) { return half * (old - minus_inverse); });
      }
      if (next_y) {
        a.load(h);
        y.update(h, [half](T old, T minus_inverse) { return half * (old - minus_inverse); });
      }
    }
    // A sweep that failed has made NaN of what was computed with it.
    bool lane_failed = false;
    for (int part = arguments.root ? 0 : 1; part < (arguments.inverse ? 2 : 1); ++part) {
      (part == 0 ? x : y).load(h);
      lane_failed = lane_failed || has_nan(h);
    }
    const bool failed = team_max<V>(lane_failed ? T(1) : T(0), scratch) != T(0);
    const bool finite = !norm.is_zero && norm.ratio == norm.ratio;
    const bool retry = !settled && failed && finite && attempt + 1 < ridge_count;
    Problem target = arguments.problem;
    const int parts = arguments.root && arguments.inverse ? 2 : 1;
    target.batch *= parts;
    for (int part = 0; part < parts; ++part) {
      const bool is_root = part == 0 && arguments.root;
      (is_root ? x : y).load(h);
      const T scale = is_root ? norm.root() * square_root(bound) : norm.inverse_root() * reciprocal(square_root(bound));
      h.apply([scale](T value) { return value * scale; });
      if (norm.is_zero) {
        h.apply([](T) { return T(0); });
        h.add_to_diagonal(owner, is_root ? T(0) : infinity<T>());
      }
      sync_team<V::threads>();  // the output takes the place of A and X
      write_lower(work, owner, h);
      sync_team<V::threads>();
      store_matrix<V>(work, target, settled || retry ? target.batch : index * parts + part, threadIdx.x, V::threads);
    }
    settled = settled || !retry;
    if (!any_team<V>(retry)) break;
    sync_team<V::threads>();
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

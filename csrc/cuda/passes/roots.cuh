// Root and inverse root by Zolotarev's approximant and Denman-Beavers steps, one launch: a sweep for every pole and
// every inverse. Counterparts: sqrtm, inv_sqrtm and sqrtm_and_inv in csrc/cpu and fastsqrtm/reference.py.
#pragma once

#include "cuda/steps/newton_lyapunov.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tile/sweep.cuh"

namespace fastsqrtm {
namespace cuda {

// Of a matrix that turns out to be indefinite in this precision the pass is done again, from the load on, with a ridge
// on the diagonal.
//
// Where a block has one matrix, several teams may share it, groups > 1: each has its own pole, and of a Newton step the
// first inverts X, the second Y. They do the same arithmetic in the same order as one team does.
template <class V>
__global__ void __launch_bounds__(max_threads(Fused::accurate_roots, V::shape), 1)
    accurate_roots_kernel(const __grid_constant__ AccurateRootsArguments<typename V::scalar> arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_sweep;
  constexpr int triangle = Triangle<V, split>::elements;
  constexpr bool alone = teams_join(Fused::accurate_roots, V::shape);
  static_assert(2 * triangle >= V::matrix_elements, "the output must not reach Y");
  const int groups = alone ? arguments.groups : 1;
  const int group = alone ? static_cast<int>(threadIdx.y) : 0;
  const bool joined = groups > 1;
  const int64_t index = alone ? static_cast<int64_t>(blockIdx.x)
                              : static_cast<int64_t>(blockIdx.x) * blockDim.y + static_cast<int>(threadIdx.y);
  const int n = arguments.problem.n;
  const int blocks = (n + V::tile - 1) / V::tile;
  T* work = reinterpret_cast<T*>(dynamic_shared()) +
            (alone ? 0 : static_cast<int>(threadIdx.y) * shared_elements(Fused::accurate_roots, V::shape, 1));
  const Triangle<V, split> a{work};
  const Triangle<V, split> x{work + triangle};
  const Triangle<V, split> y{work + 2 * triangle};
  T* after_triangles = work + 3 * triangle;
  T* team = after_triangles + (joined ? groups * triangle : 0) + group * (V::panel_elements + V::scratch_elements);
  const Panels<V> panels(team);
  T* scratch = team + V::panel_elements;
  const Owner<V, split> owner;
  const auto sync_matrix = [joined] {
    if (joined) {
      __syncthreads();
    } else {
      sync_team<V::threads>();
    }
  };

  bool settled = false;
  for (int attempt = 0;; ++attempt) {
    load_matrix<V>(work, arguments.a, arguments.problem, index, group * V::threads + static_cast<int>(threadIdx.x),
                   groups * V::threads);
    sync_matrix();
    Fragment<V, split> h;
    read_part(work, T(1), owner, h);
    const Norm<T> norm = frobenius_norm(h, scratch);
    h.apply([norm](T value) { return norm.normalise(value); });
    sync_matrix();  // all have read the input
    if (group == 0) write(work, owner, h, T(1));
    sync_matrix();
    // A bound of the largest eigenvalue, as the Frobenius norm is.
    const T column_norm = one_norm<V>(work, blocks, n, scratch);
    const T bound = column_norm > T(0) && column_norm < T(1) ? column_norm : T(1);
    const T inverse_bound = reciprocal(bound);
    h.apply([inverse_bound](T value) { return value * inverse_bound; });
    add_identity(h, owner, n,
                 attempt + 1 == ridge_count ? arguments.last_ridge : T(ridge_of(attempt)) * machine_epsilon<T>());
    sync_matrix();  // the packed triangles take the place of the matrix
    if (group == 0) {
      const T constant = arguments.constant;
      a.store(h);
      h.apply([constant](T value) { return constant * value; });
      x.store(h);
      h.apply([](T) { return T(0); });
      add_identity(h, owner, n, constant);
      y.store(h);
    }
    if (joined) __syncthreads();
    const auto add_term = [&](int j) {
      const T inverse_shift = arguments.inverse_shift[j], weight = arguments.weight[j];
      y.update(h, [=](T sum, T value) { return std::fma(-weight * inverse_shift, value, sum); });
      add_identity(h, owner, n, T(1));
      x.update(h, [weight](T sum, T value) { return std::fma(weight, value, sum); });
    };
    for (int round = 0; round < arguments.poles; round += groups) {
      const T inverse_shift = round + group < arguments.poles ? arguments.inverse_shift[round + group] : T(0);
      a.load(h);
      h.apply([inverse_shift](T value) { return inverse_shift * value; });
      sweep<true>(h, owner, blocks, false, panels);  // -(I + A/t)^-1 = -t (A + t I)^-1
      clear_padding(h, owner, n);
      if (!joined) {
        add_term(round);
        continue;
      }
      Triangle<V, split>{after_triangles + group * triangle}.store(h);
      __syncthreads();
      for (int g = 0; group == 0 && g < groups && round + g < arguments.poles; ++g) {
        Triangle<V, split>{after_triangles + g * triangle}.load(h);
        add_term(round + g);
      }
      __syncthreads();
    }
    for (int k = 0; k < arguments.newton_steps; ++k) {
      // Of the last step only what is wanted.
      const bool last = k + 1 == arguments.newton_steps;
      const bool next_x = !last || arguments.root, next_y = !last || arguments.inverse;
      const T half = arguments.half_scale[k];
      const auto step = [half](T old, T minus_inverse) { return half * (old - minus_inverse); };
      if (next_y && group == 0) {
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
      if (next_x && group == (joined ? 1 : 0)) {
        y.load(h);
        sweep_own(h, owner, n, blocks, panels);
      }
      if (joined) __syncthreads();  // X and Y have been read
      if (next_x && group == (joined ? 1 : 0)) x.update(h, step);
      if (next_y && group == 0) {
        a.load(h);
        y.update(h, step);
      }
      if (joined) __syncthreads();
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
    if (joined) __syncthreads();  // all have seen X and Y
    for (int part = 0; group == 0 && part < parts; ++part) {
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
    sync_matrix();
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

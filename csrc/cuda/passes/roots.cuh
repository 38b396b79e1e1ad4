// Root and inverse root by Zolotarev's approximant and Denman-Beavers steps, one launch: a sweep for every pole and
// every inverse. Counterparts: csrc/cpu/passes/roots.h, fastsqrtm/_reference/roots.py.
#pragma once

#include "cuda/pass.h"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace cuda {

struct Roots {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input a;
    void* root;     // A^(1/2); nullptr: not asked for
    void* inverse;  // A^(-1/2), likewise
    int teams;      // that share one matrix
    int poles;
    int newton_steps;
    T constant;
    T inverse_shift[max_poles] = {};
    T weight[max_poles] = {};
    T half_scale[max_newton_steps] = {};
    T last_ridge;
    T largest_inverse;

    Arguments(const passes::Roots& pass, const Operands& operands, const Plan& plan)
        : problem(operands.problem),
          a(operands.in[0]),
          root(operands.out[0].data),
          inverse(operands.out[1].data),
          teams(plan.teams),
          poles(pass.design.poles),
          newton_steps(pass.design.newton_steps),
          constant(static_cast<T>(pass.design.constant)),
          last_ridge(static_cast<T>(last_ridge_of(operands.problem.element))),
          largest_inverse(static_cast<T>(pass.design.largest_inverse(machine_epsilon<T>()))) {
      for (int j = 0; j < poles; ++j) {
        inverse_shift[j] = static_cast<T>(1 / pass.design.shifts[j]);
        weight[j] = static_cast<T>(pass.design.weights[j]);
      }
      for (int k = 0; k < newton_steps; ++k) half_scale[k] = static_cast<T>(pass.design.scales[k] / 2);
    }
  };

  // The triangles of A, which each inverse of a Newton step replaces, X and Y; input and output lie over them. Of
  // several teams each has one more, for the inverse of its pole.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int teams) {
    return (3 + (teams > 1 ? teams : 0)) * s.triangle_elements(s.split_sweep) +
           teams * (s.panel_elements() + s.scratch_elements());
  }
  // Several teams of one matrix as far as the registers of their tiles allow.
  static FASTSQRTM_HOST_DEVICE constexpr int max_threads(const Shape& s) {
    return s.threads == 128 ? 384 : s.threads == 160 ? 320 : threads_of_single_teams(s);
  }
  // Teams that join need so many registers that a multiprocessor has room for one matrix of three.
  static constexpr bool teams_join(const Shape& s, int64_t batch, int multiprocessors) {
    return teams_may_join(s) && batch <= multiprocessors;
  }
  static constexpr int64_t kept_elements(const Shape&, const Problem&) { return 0; }
  static constexpr bool only_symmetric_part_of(int) { return true; }
  static int terms(const passes::Roots& pass) { return pass.design.poles; }
  static int64_t large_matrices(const passes::Roots& pass) { return 3 + 2 * large_terms(pass); }
  // All poles of A, then the two inverses of a Newton step.
  static int64_t large_terms(const passes::Roots& pass) { return larger(pass.design.poles, 2); }
  // Whether several teams may work on one matrix. Then it has its block for itself.
  static FASTSQRTM_HOST_DEVICE constexpr bool teams_may_join(const Shape& s) {
    return s.threads >= 32 && max_threads(s) >= 2 * s.threads;
  }

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
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tile/sweep.cuh"

namespace fastsqrtm {
namespace cuda {

// Of a matrix that turns out to be indefinite in this precision the pass is done again, from the load on, with a ridge
// on the diagonal.
//
// Where a block has one matrix, several teams may share it, teams > 1: each has its own pole, and of a Newton step the
// first inverts X, the second Y. They do the same arithmetic in the same order as one team does.
template <class V>
FASTSQRTM_DEVICE void Roots::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_sweep;
  constexpr int shared = shared_elements(V::shape, 1);
  constexpr int triangle = Triangle<V, split>::elements;
  constexpr bool alone = teams_may_join(V::shape);
  static_assert(2 * triangle >= V::matrix_elements, "the output must not reach Y");
  const int teams = alone ? arguments.teams : 1;
  const int team = alone ? static_cast<int>(threadIdx.y) : 0;
  const bool joined = teams > 1;
  const int64_t index = alone ? static_cast<int64_t>(blockIdx.x)
                              : static_cast<int64_t>(blockIdx.x) * blockDim.y + static_cast<int>(threadIdx.y);
  const bool has_root = arguments.root != nullptr, has_inverse = arguments.inverse != nullptr;
  const int n = arguments.problem.n;
  const int used_tiles = (n + V::tile - 1) / V::tile;
  T* work = reinterpret_cast<T*>(dynamic_shared()) + (alone ? 0 : static_cast<int>(threadIdx.y) * shared);
  const Triangle<V, split> a{work};
  const Triangle<V, split> x{work + triangle};
  const Triangle<V, split> y{work + 2 * triangle};
  T* after_triangles = work + 3 * triangle;
  T* own = after_triangles + (joined ? teams * triangle : 0) + team * (V::panel_elements + V::scratch_elements);
  const Panels<V> panels(own);
  T* scratch = own + V::panel_elements;
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
    load_matrix<V>(work, arguments.a, arguments.problem, index, team * V::threads + static_cast<int>(threadIdx.x),
                   teams * V::threads);
    sync_matrix();
    Fragment<V, split> h;
    read_part(work, T(1), owner, h);
    const Norm<T> norm = frobenius_norm(h, scratch);
    h.apply([norm](T value) { return norm.normalise(value); });
    sync_matrix();  // all have read the input
    if (team == 0) write(work, owner, h, T(1));
    sync_matrix();
    // A bound of the largest eigenvalue, as the Frobenius norm is.
    const T column_norm = one_norm<V>(work, used_tiles, n, scratch);
    const T bound = column_norm > T(0) && column_norm < T(1) ? column_norm : T(1);
    const T inverse_bound = reciprocal(bound);
    h.apply([inverse_bound](T value) { return value * inverse_bound; });
    add_identity(h, owner, n,
                 attempt + 1 == ridge_count ? arguments.last_ridge : T(ridge_of(attempt)) * machine_epsilon<T>());
    sync_matrix();  // the packed triangles take the place of the matrix
    if (team == 0) {
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
    for (int round = 0; round < arguments.poles; round += teams) {
      const T inverse_shift = round + team < arguments.poles ? arguments.inverse_shift[round + team] : T(0);
      a.load(h);
      h.apply([inverse_shift](T value) { return inverse_shift * value; });
      sweep<true>(h, owner, used_tiles, false, panels);  // -(I + A/t)^-1 = -t (A + t I)^-1
      clear_padding(h, owner, n);
      if (!joined) {
        add_term(round);
        continue;
      }
      Triangle<V, split>{after_triangles + team * triangle}.store(h);
      __syncthreads();
      for (int g = 0; team == 0 && g < teams && round + g < arguments.poles; ++g) {
        Triangle<V, split>{after_triangles + g * triangle}.load(h);
        add_term(round + g);
      }
      __syncthreads();
    }
    for (int k = 0; k < arguments.newton_steps; ++k) {
      // Of the last step only what is wanted.
      const bool last = k + 1 == arguments.newton_steps;
      const bool next_x = !last || has_root, next_y = !last || has_inverse;
      const T half = arguments.half_scale[k];
      const auto step = [half](T old, T minus_inverse) { return half * (old - minus_inverse); };
      if (next_y && team == 0) {
        x.load(h);
        sweep_own(h, owner, n, used_tiles, panels);
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
      if (next_x && team == (joined ? 1 : 0)) {
        y.load(h);
        sweep_own(h, owner, n, used_tiles, panels);
      }
      if (joined) __syncthreads();  // X and Y have been read
      if (next_x && team == (joined ? 1 : 0)) x.update(h, step);
      if (next_y && team == 0) {
        a.load(h);
        y.update(h, step);
      }
      if (joined) __syncthreads();
    }
    // A sweep that failed has made NaN of what was computed with it.
    bool lane_failed = false;
    for (int part = has_root ? 0 : 1; part < (has_inverse ? 2 : 1); ++part) {
      (part == 0 ? x : y).load(h);
      lane_failed = lane_failed || has_nan(h);
    }
    const bool failed = team_max<V>(lane_failed ? T(1) : T(0), scratch) != T(0);
    const bool finite = !norm.is_zero && norm.ratio == norm.ratio;
    const bool retry = !settled && failed && finite && attempt + 1 < ridge_count;
    if (joined) __syncthreads();  // all have seen X and Y
    for (int part = has_root ? 0 : 1; team == 0 && part < (has_inverse ? 2 : 1); ++part) {
      const bool is_root = part == 0;
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
      store_matrix<V>(work, is_root ? arguments.root : arguments.inverse, arguments.problem,
                      settled || retry ? arguments.problem.batch : index, threadIdx.x, V::threads);
    }
    settled = settled || !retry;
    if (!any_team<V>(retry)) break;
    sync_matrix();
  }
}

// Matrix m * poles + j: factor = I + A / t_j, right = I.
template <typename T>
__global__ void pole_kernel(Roots::Arguments<T> arguments, const T* a, T* factor, T* right, T** factors, T** rights) {
  const int n = arguments.problem.n;
  const int poles = arguments.poles;
  const int64_t size = static_cast<int64_t>(n) * n;
  for_elements(arguments.problem.batch * poles, n, [&](int64_t m, int i, int j, int64_t at) {
    const T identity = i == j ? T(1) : T(0);
    factor[at] = identity + arguments.inverse_shift[m % poles] * a[m / poles * size + static_cast<int64_t>(i) * n + j];
    right[at] = identity;
    if (i == 0 && j == 0) {
      factors[m] = factor + m * size;
      rights[m] = right + m * size;
    }
  });
}

// Y = c I + sum_j w_j / t_j R_j, or X = c A + sum_j w_j (I - R_j), with R_j = (I + A / t_j)^-1; symmetric.
template <typename T>
__global__ void poles_sum_kernel(Roots::Arguments<T> arguments, const T* a, const T* solved, const int* info,
                                 Power power, T* out) {
  const int n = arguments.problem.n;
  const int poles = arguments.poles;
  const int64_t matrix = blockIdx.y;
  const int64_t size = static_cast<int64_t>(n) * n;
  const T* r = solved + matrix * poles * size;
  const bool inverse = power == Power::minus_half;
  bool failed = false;
  for (int k = 0; k < poles; ++k) failed = failed || info[matrix * poles + k] != 0;
  for_tile<T>(
      n,
      [&](int i, int j) {
        const int64_t at = static_cast<int64_t>(i) * n + j;
        const T identity = i == j ? T(1) : T(0);
        T sum = arguments.constant * (inverse ? identity : a[matrix * size + at]);
        for (int k = 0; k < poles; ++k) {
          const T value = r[k * size + at];
          sum = std::fma(arguments.weight[k], inverse ? arguments.inverse_shift[k] * value : identity - value, sum);
        }
        return sum;
      },
      [&](int i, int j, T x, T mirrored) {
        out[matrix * size + static_cast<int64_t>(i) * n + j] = failed ? not_a_number<T>() : T(0.5) * (x + mirrored);
      });
}

// out = x, the root or the inverse root of A / bound, scaled back.
template <typename T>
__global__ void store_roots_kernel(Problem problem, const T* x, const Norm<T>* norms, const NewtonState<T>* states,
                                   Power power, void* out) {
  const bool inverse = power == Power::minus_half;
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    for_elements(problem.batch, problem.n, [&](int64_t m, int i, int j, int64_t at) {
      const T bound = square_root(states[m].bound);
      T value = x[at] * (inverse ? norms[m].inverse_root() * reciprocal(bound) : norms[m].root() * bound);
      if (norms[m].is_zero) value = inverse && i == j ? infinity<T>() : T(0);
      static_cast<S*>(out)[at] = to_element<S>(value);
    });
  });
}

template <class Large>
void Roots::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  const int n = large.n;
  const int64_t batch = large.batch, poles = arguments.poles, size = static_cast<int64_t>(n) * n;
  const int64_t terms = larger(arguments.poles, 2);
  T* a = large.matrices();
  T* x = large.matrices(2);
  T* y = x + batch * size;
  T* factor = large.matrices(terms);
  T* right = large.matrices(terms);
  NewtonSteps<Large> newton(large, terms);
  const Factorisations<T>& f = newton.factorisations();
  large.symmetrise(arguments.a, a);
  large.find_norms();
  large.scale(a, Scale::inverse_norm, T(1), T(0));
  newton.begin(a, true);
  // The guard keeps A far enough from singular that X and Y stay definite by rounding as well.
  constexpr T guard = 2;
  for (int attempt = 0; attempt < ridge_count; ++attempt) {
    const T ridge =
        attempt + 1 == ridge_count ? arguments.last_ridge / machine_epsilon<T>() : static_cast<T>(ridge_of(attempt));
    newton.try_ridge(a, ridge - guard, ridge, factor);
  }
  newton.add_ridge(a);
  large.elements(batch * poles, &pole_kernel<T>, arguments, a, factor, right, f.factors, f.rights);
  large.solve(f, batch * poles);
  large.tiles(&poles_sum_kernel<T>, arguments, a, right, f.info, Power::half, x);
  large.tiles(&poles_sum_kernel<T>, arguments, a, right, f.info, Power::minus_half, y);
  for (int k = 0; k < arguments.newton_steps; ++k) {
    const bool last = k + 1 == arguments.newton_steps;
    const bool next_x = !last || arguments.root, next_y = !last || arguments.inverse;
    const T half = arguments.half_scale[k];
    // X and Y lie one after the other, and so do their inverses.
    const int64_t first = next_y ? 0 : batch, count = next_x && next_y ? 2 * batch : batch;
    large.elements(2 * batch, &inverse_kernel<T>, x, 2 * batch, n, factor, right, f.factors, f.rights);
    large.solve(f, count, first);
    if (next_x) large.tiles(&add_inverse_kernel<T>, right + batch * size, f.info + batch, n, half, half, x);
    if (next_y) large.tiles(&add_inverse_kernel<T>, right, f.info, n, half, half, y);
  }
  const auto store = [&](const T* from, Power power, void* out) {
    if (out)
      large.elements(batch, &store_roots_kernel<T>, large.problem(), from, large.norms(), newton.states(), power, out);
  };
  store(x, Power::half, arguments.root);
  store(y, Power::minus_half, arguments.inverse);
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

// Root and inverse root by Zolotarev's approximant and Denman-Beavers steps, one launch: a sweep for every pole and
// every inverse. A matrix that turns out to be singular or indefinite by rounding is done again by its eigenvalues.
// Counterparts: sqrtm, inv_sqrtm and sqrtm_and_inv in csrc/cpu and fastsqrtm/_reference/roots.py.
#pragma once

#include "cuda/pass.h"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace cuda {

struct Roots : OneTeam {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input a;
    void* root;     // A^(1/2), or nullptr if not asked for
    void* inverse;  // A^(-1/2), likewise
    int teams;      // that share one matrix
    int poles;
    int newton_steps;
    T constant;
    T inverse_shift[max_poles] = {};
    T weight[max_poles] = {};
    T half_scale[max_newton_steps] = {};
    T largest_inverse;
    T error;  // of the design

    Arguments(const passes::Roots& pass, const Operands& operands, const Plan& plan)
        : problem(operands.problem),
          a(operands.in[0]),
          root(operands.out[0].data),
          inverse(operands.out[1].data),
          teams(plan.teams),
          poles(pass.design.poles),
          newton_steps(pass.design.newton_steps),
          constant(static_cast<T>(pass.design.constant)),
          // No matrix takes further steps, as on CPU, so the limit is lower.
          largest_inverse(static_cast<T>(pass.design.largest_inverse(singular_eigenvalue(sizeof(T)) / 4))),
          error(static_cast<T>(pass.design.error)) {
      for (int j = 0; j < poles; ++j) {
        inverse_shift[j] = static_cast<T>(1 / pass.design.shifts[j]);
        weight[j] = static_cast<T>(pass.design.weights[j]);
      }
      for (int k = 0; k < newton_steps; ++k) half_scale[k] = static_cast<T>(pass.design.scales[k] / 2);
    }
  };

  // In shared memory, of a team: the norm, the bound and the trace of its matrix, for the end of the steps.
  static constexpr int kept_scalars = 8;
  // The triangles of A (which each inverse of a Newton step replaces), of X and of Y; input and output lie over them.
  // Each of several teams has one more, for the inverse of its pole.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int teams) {
    return (3 + (teams > 1 ? teams : 0)) * s.triangle_elements(s.split_sweep) +
           teams * (s.panel_elements() + s.scratch_elements() + kept_scalars);
  }
  // Several teams of one matrix as far as the registers of their tiles allow.
  static FASTSQRTM_HOST_DEVICE constexpr int max_threads(const Shape& s) {
    return s.threads == 128 ? 384 : s.threads == 160 || s.threads == 64 ? 320 : threads_of_single_teams(s);
  }
  static constexpr int registers(const Shape& s) { return smaller(168, registers_within(max_threads(s))); }
  // Two inverses in every Newton step but the last, usually of two, and twice the rest of `mpa` for the triangles.
  static constexpr int half_sweeps(int terms, int teams) {
    return OneTeam::half_sweeps(terms, teams) + (teams > 1 ? 4 : 6) + 1;
  }
  static int terms(const passes::Roots& pass) { return pass.design.poles; }
  static int64_t large_matrices(const passes::Roots& pass) { return 3 + 2 * large_terms(pass); }
  // All poles of A, then the two inverses of a Newton step.
  static int64_t large_terms(const passes::Roots& pass) { return larger(pass.design.poles, 2); }
  // A matrix of several teams has its block for itself.
  static FASTSQRTM_HOST_DEVICE constexpr int most_teams(const Shape& s) {
    return s.threads >= 32 ? max_threads(s) / s.threads : 1;
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
#include "cuda/steps/diagonal.cuh"
#include "cuda/steps/jacobi.cuh"
#include "cuda/steps/newton_lyapunov.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tile/sweep.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/roots.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<Roots> : TinyGradient<one_lane::Roots> {
  template <typename T>
  using Numbers = RootsNumbers<T>;
};

// How the entries of A / nu, which has a norm between 1/sqrt(n) and 1, are to be taken; the same for all lanes.
template <class V, int split, typename T>
__device__ __forceinline__ Entries entries_of(const Fragment<V, split>& f, const Owner<V, split>& owner, T* scratch) {
  bool other = f.any_under(), negative = false;
#pragma unroll
  for (int c = 0; c < V::tile; ++c) {
    other = other || !(f.diagonal[c] == T(0) || c == owner.row);
    negative = negative || f.diagonal[c] < T(-largest_negative);
  }
  return entries_of_rank(team_max<V>(rank_of_entries<T>(other, negative), scratch));
}

// The trace of f, the same bits for all lanes.
template <class V, int split, typename T>
__device__ __forceinline__ T trace_of(const Fragment<V, split>& f, const Owner<V, split>& owner, T* scratch) {
  T own = 0;
#pragma unroll
  for (int c = 0; c < V::tile; ++c) own += c == owner.row ? f.diagonal[c] : T(0);
  return team_sum<V>(own, scratch);
}

// f = M^T M. Each lane has the whole sums of its elements: a split of the inner dimension, as in product.cuh, would
// take more registers than the sweeps.
template <class V, int split, typename T>
__device__ __forceinline__ void multiply_with_transpose(const T* m, int n, const Owner<V, split>& owner,
                                                        Fragment<V, split>& f) {
  using L = Layout<V>;
  f.apply([](T) { return T(0); });
#pragma unroll 1
  for (int k = 0; k < n; ++k) {
    const T* row = m + k * V::padded;
    const int turn = k / V::tile;
    if (owner.i < V::tiles) {
      T left[f.rows], right[V::tile];
      L::load(row, L::rotate(owner.i, turn), owner.slice * f.rows, left);
      L::load(row, L::rotate(owner.j, turn), 0, right);
#pragma unroll
      for (int r = 0; r < f.rows; ++r) {
#pragma unroll
        for (int c = 0; c < V::tile; ++c) f.under[r][c] += left[r] * right[c];
      }
    }
    if (owner.d < V::tiles) {
      T left[1], right[V::tile];
      L::load(row, L::rotate(owner.d, turn), owner.row, left);
      L::load(row, L::rotate(owner.d, turn), 0, right);
#pragma unroll
      for (int c = 0; c < V::tile; ++c) f.diagonal[c] += left[0] * right[c];
    }
  }
}

// The roots by the eigenvalues of A / nu, which h holds, into the triangles x and y. W takes the place of A and X.
// `second` is workspace for a number a row. Addresses and owners are computed anew, so that the registers of the sweeps
// do not have to keep them.
template <class V, int split, typename T>
__device__ __forceinline__ void roots_by_eigenvalues(T* shared, T* second, T* scratch, int n, bool has_root,
                                                     bool has_inverse, T trace, Fragment<V, split>& h) {
  using Part = Triangle<V, split>;
  T* base = reinterpret_cast<T*>(dynamic_shared());
  T* work = base + opaque(static_cast<int>(shared - base));
  const Part x{work + Part::elements}, y{work + 2 * Part::elements};
  const Owner<V, split> owner(opaque(threadIdx.x));
  const SharedRows<V> rows{work};
  const PairLanes<V> lanes{scratch};
  add_identity(h, owner, n, T(jacobi_shift));
  write(work, owner, h, T(1));
  sync_team<V>();
  make_orthogonal(rows, lanes, n);
  T radius = 0;
#pragma unroll 1
  for (int first = 0; first < V::padded; first += lanes.groups) {
    const int row = first + lanes.group();
    const T lambda = eigenvalue(squared_norm(rows, lanes, row, row < n));
    if (row < n) radius = max_or_nan(radius, std::fabs(lambda));
  }
  radius = team_max<V>(radius, scratch);
  T largest = -infinity<T>(), sum = 0;  // of -lambda, of lambda
#pragma unroll 1
  for (int first = 0; first < V::padded; first += lanes.groups) {
    const int row = first + lanes.group();
    const bool present = row < n;
    const RowScales<T> scales(squared_norm(rows, lanes, row, present), radius, has_inverse);
    if (!present) continue;
    scale_row(rows, lanes, row, scales.first);
    largest = max_or_nan(largest, -scales.lambda);
    if (lanes.member() > 0) continue;
    sum += scales.lambda;
    second[row] = scales.second;
  }
  largest = team_max<V>(largest, scratch);
  const bool indefinite = has_negative(largest, radius, team_sum<V>(sum, scratch) - trace);
#pragma unroll 1
  for (int part = has_inverse ? 0 : 1; part < (has_root ? 2 : 1); ++part) {
    if (part == 1 && has_inverse) {
      sync_team<V>();  // all have read M
#pragma unroll 1
      for (int row = lanes.group(); row < n; row += lanes.groups) scale_row(rows, lanes, row, second[row]);
      sync_team<V>();
    }
    multiply_with_transpose(work, n, owner, h);
    if (indefinite) h.apply([](T) { return not_a_number<T>(); });
    if (part == 0) {
      y.store(h);
    } else {
      sync_team<V>();  // all have read M
      x.store(h);
    }
  }
}

// If a block has one matrix, several teams may share it, teams > 1: each has its own pole, and in a Newton step the
// first inverts X, the second Y. They do the same arithmetic in the same order as one team does.
template <class V>
FASTSQRTM_DEVICE void Roots::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_sweep;
  constexpr int shared = shared_elements(V::shape, 1);
  constexpr int triangle = Triangle<V, split>::elements;
  constexpr bool alone = V::most_teams > 1;
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
  T* own = after_triangles + (joined ? teams * triangle : 0) +
           team * (V::panel_elements + V::scratch_elements + kept_scalars);
  const Panels<V> panels(own);
  T* scratch = own + V::panel_elements;
  struct Kept {
    Norm<T> norm;
    T bound, trace;
  };
  static_assert(sizeof(Kept) <= kept_scalars * sizeof(T), "a place for them");
  Kept* kept = reinterpret_cast<Kept*>(scratch + V::scratch_elements);
  const Owner<V, split> owner;
  const auto sync_matrix = [joined] {
    if (joined) {
      __syncthreads();
    } else {
      sync_team<V>();
    }
  };

  bool settled = false;
#pragma unroll 1
  for (bool by_eigenvalues = false;; by_eigenvalues = true) {
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
    const bool finite = !norm.is_zero && norm.ratio == norm.ratio;
    const Entries entries = entries_of(h, owner, scratch);
    {
      const T trace = trace_of(h, owner, scratch);
      if (threadIdx.x == 0) *kept = {norm, bound, trace};
    }
    sync_matrix();  // the packed triangles take the place of the matrix
    if (by_eigenvalues) {
      if (team == 0) roots_by_eigenvalues(work, own, scratch, n, has_root, has_inverse, kept->trace, h);
      if (joined) __syncthreads();  // X and Y are there
    } else {
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
        // The last step computes only the roots asked for.
        const bool last = k + 1 == arguments.newton_steps;
        const bool next_x = !last || has_root, next_y = !last || has_inverse;
        const T half = arguments.half_scale[k];
        const auto step = [half](T old, T minus_inverse) { return half * (old - minus_inverse); };
        if (next_y && team == 0) {
          x.load(h);
          sweep_own(h, owner, n, used_tiles, panels);
          if (k == 0) {
            // The rounding of an inverse that large would show in the root of every eigenvalue, so it counts as failed.
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
    }
    // A failed sweep has turned everything computed with it into NaN, as an eigenvalue far below 0 has.
    bool lane_failed = false;
    for (int part = has_root ? 0 : 1; part < (has_inverse ? 2 : 1); ++part) {
      (part == 0 ? x : y).load(h);
      lane_failed = lane_failed || has_nan(h);
    }
    const bool failed = team_max<V>(lane_failed ? T(1) : T(0), scratch) != T(0);
    const bool diagonal = finite && entries != Entries::many;
    const bool retry = !settled && !by_eigenvalues && failed && finite && !diagonal;
    if (joined) __syncthreads();  // all have seen X and Y
    for (int part = has_root ? 0 : 1; team == 0 && part < (has_inverse ? 2 : 1); ++part) {
      const bool is_root = part == 0;
      (is_root ? x : y).load(h);
      T scale = is_root ? kept->norm.root() * square_root(kept->bound)
                        : kept->norm.inverse_root() * reciprocal(square_root(kept->bound));
      if (is_root && !by_eigenvalues)
        scale *= unbiased(kept->trace, team_sum<V>(sum_of_squares(h, T(1)), scratch), arguments.error);
      h.apply([scale](T value) { return value * scale; });
      if (kept->norm.is_zero) {
        h.apply([](T) { return T(0); });
        h.add_to_diagonal(owner, is_root ? T(0) : infinity<T>());
      } else if (diagonal) {
        const T entry = load_diagonal<T>(arguments.a, arguments.problem, index, owner.diagonal_row());
        const bool indefinite = entries == Entries::indefinite_diagonal;
        h.apply([indefinite](T) { return indefinite ? not_a_number<T>() : T(0); });
        h.add_to_diagonal(owner, root_of_entry(entry, kept->norm, kept->bound, !is_root));
      }
      sync_team<V>();  // the output takes the place of A and X
      write_lower(work, owner, h);
      sync_team<V>();
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

// The rows of a matrix in global memory, and the warps of a block that works on it.
template <typename T>
struct GlobalRows {
  static constexpr int run_length = 1;
  T* matrix;
  int runs;  // n

  __device__ __forceinline__ T* run(int row, int k) const { return matrix + static_cast<int64_t>(row) * runs + k; }
};
template <typename T>
struct PairWarps {
  static constexpr int threads = 1024;
  static constexpr int lanes = 32, groups = threads / lanes;

  T* shared;  // a number a warp

  static __device__ __forceinline__ int group() { return static_cast<int>(threadIdx.x) / lanes; }
  static __device__ __forceinline__ int member() { return static_cast<int>(threadIdx.x) % lanes; }
  static __device__ __forceinline__ T sum(T value) {
    for (int step = lanes / 2; step >= 1; step /= 2) value += __shfl_xor_sync(all_lanes, value, step, lanes);
    return value;
  }
  static __device__ __forceinline__ void sync() { __syncthreads(); }
  static __device__ __forceinline__ bool any(bool own) { return __syncthreads_or(own) != 0; }
  // f of the values of all warps, for all threads.
  template <class F>
  __device__ __forceinline__ T reduce(T value, F f) const {
    __syncthreads();
    if (member() == 0) shared[group()] = value;
    __syncthreads();
    value = shared[0];
    for (int warp = 1; warp < groups; ++warp) value = f(value, shared[warp]);
    return value;
  }
};

// The roots x and y, either of which may be absent, by the eigenvalues of A / nu, for the matrices of which the first
// attempt has left NaN or whose inverse it has found too large. One block of PairWarps::threads a matrix. `work` has a
// matrix for each, `second` a number for each row.
template <typename T>
__global__ void __launch_bounds__(PairWarps<T>::threads, 1)
    roots_by_eigenvalues_kernel(const T* a, int n, const Norm<T>* norms, const NewtonState<T>* states, T* work,
                                T* second, T* x, T* y) {
  const int64_t matrix = blockIdx.x, size = static_cast<int64_t>(n) * n, start = matrix * size;
  const Norm<T> norm = norms[matrix];
  if (norm.is_zero || norm.ratio != norm.ratio || states[matrix].entries != Entries::many) return;
  bool lane_failed = states[matrix].singular != 0;
  for (int part = 0; part < 2; ++part) {
    const T* root = part == 0 ? y : x;
    for (int i = threadIdx.x; root && i < n; i += PairWarps<T>::threads) {
      const T value = root[start + static_cast<int64_t>(i) * (n + 1)];
      lane_failed = lane_failed || value != value;
    }
  }
  const PairWarps<T> lanes{reinterpret_cast<T*>(dynamic_shared())};
  if (!lanes.any(lane_failed)) return;
  const GlobalRows<T> rows{work + start, n};
  for (int64_t i = threadIdx.x; i < size; i += PairWarps<T>::threads) {
    rows.matrix[i] = a[start + i] + (i % (n + 1) == 0 ? T(jacobi_shift) : T(0));
  }
  __syncthreads();
  make_orthogonal(rows, lanes, n);
  second += matrix * n;
  T radius = 0;
  for (int row = lanes.group(); row < n; row += lanes.groups) {
    radius = max_or_nan(radius, std::fabs(eigenvalue(squared_norm(rows, lanes, row, true))));
  }
  radius = lanes.reduce(radius, [](T p, T q) { return max_or_nan(p, q); });
  T largest = -infinity<T>(), sum = 0;  // of -lambda, of lambda less the entry on the diagonal
  for (int row = lanes.group(); row < n; row += lanes.groups) {
    const RowScales<T> scales(squared_norm(rows, lanes, row, true), radius, y != nullptr);
    scale_row(rows, lanes, row, scales.first);
    largest = max_or_nan(largest, -scales.lambda);
    sum += scales.lambda - a[start + static_cast<int64_t>(row) * (n + 1)];
    if (lanes.member() == 0) second[row] = scales.second;
  }
  largest = lanes.reduce(largest, [](T p, T q) { return max_or_nan(p, q); });
  sum = lanes.reduce(sum, [](T p, T q) { return p + q; });
  const bool indefinite = has_negative(largest, radius, sum);
  for (int part = 0; part < 2; ++part) {
    T* root = part == 0 ? y : x;
    if (!root) continue;
    if (part == 1 && y) {
      __syncthreads();  // all have read M
      for (int row = lanes.group(); row < n; row += lanes.groups) scale_row(rows, lanes, row, second[row]);
      __syncthreads();
    }
    for (int64_t at = threadIdx.x; at < size; at += PairWarps<T>::threads) {
      const T* row = rows.matrix + at / n;
      const T* column = rows.matrix + at % n;
      T value = 0;
      for (int64_t k = 0; k < size; k += n) value = std::fma(row[k], column[k], value);
      root[start + at] = indefinite ? not_a_number<T>() : value;
    }
  }
}

// out = x, the root or the inverse root of A / bound, scaled back.
template <typename T>
__global__ void store_roots_kernel(Problem problem, Input a, const T* x, const Norm<T>* norms,
                                   const NewtonState<T>* states, Power power, void* out) {
  const bool inverse = power == Power::minus_half;
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    for_elements(problem.batch, problem.n, [&](int64_t m, int i, int j, int64_t at) {
      const Norm<T> norm = norms[m];
      const NewtonState<T> state = states[m];
      const T bound = square_root(state.bound);
      T value = x[at] * (inverse ? norm.inverse_root() * reciprocal(bound) : norm.root() * bound * state.factor);
      if (norm.is_zero) {
        value = inverse && i == j ? infinity<T>() : T(0);
      } else if (state.entries == Entries::indefinite_diagonal) {
        value = not_a_number<T>();
      } else if (state.entries == Entries::diagonal) {
        value = i == j ? root_of_entry(load_diagonal<T>(a, problem, m, i), norm, state.bound, inverse) : T(0);
      }
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
  newton.begin_roots(a);
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
    // The rounding of an inverse that large would show in the root of every eigenvalue, so it counts as failed.
    if (k == 0 && next_y) newton.find_singular(right, arguments.largest_inverse);
    if (next_x) large.tiles(&add_inverse_kernel<T>, right + batch * size, f.info + batch, n, half, half, x);
    if (next_y) large.tiles(&add_inverse_kernel<T>, right, f.info, n, half, half, y);
  }
  if (arguments.root) newton.find_factor(x, arguments.error);
  // W takes the place of a factor, the numbers of the rows that of a right side.
  large.library().run(&roots_by_eigenvalues_kernel<T>, batch, 1, PairWarps<T>::threads, 1,
                      PairWarps<T>::groups * sizeof(T), a, n, large.norms(), newton.states(), factor, right,
                      arguments.root ? x : nullptr, arguments.inverse ? y : nullptr);
  const auto store = [&](const T* from, Power power, void* out) {
    if (out)
      large.elements(batch, &store_roots_kernel<T>, large.problem(), arguments.a, from, large.norms(), newton.states(),
                     power, out);
  };
  store(x, Power::half, arguments.root);
  store(y, Power::minus_half, arguments.inverse);
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

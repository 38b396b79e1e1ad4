// Root or inverse root by the diagonal Pade approximant in partial fractions: one sweep per shift, one launch.
// Counterparts: mpa_lya and mpa_lya_inv in csrc/cpu and fastsqrtm/_reference/series.py.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct Mpa : OneTeam {
  // Root:         y = constant + sum_j weight[j] * H (I + H)^-1,    H = scale[j] X, scale = 1 / t_j
  // Inverse root: y = constant + sum_j weight[j] * -(I + H)^-1,     H = scale[j] X, scale = t_j, weight negated
  template <typename T>
  struct Arguments {
    Problem problem;
    Input a;
    void* out;
    int teams;            // that share one matrix
    int shared_elements;  // of one matrix, as the plan has it
    int degree;
    bool inverse;
    T constant;
    T scale[max_pade_degree] = {};
    T weight[max_pade_degree] = {};

    Arguments(const PartialFractions& series, const Operands& operands, const Plan& plan)
        : problem(operands.problem),
          a(operands.in[0]),
          out(operands.out[0].data),
          teams(plan.teams),
          shared_elements(static_cast<int>(plan.shared_bytes / plan.matrices_per_block / sizeof(T))),
          degree(series.count),
          inverse(!series.quotient),
          constant(static_cast<T>(series.constant)) {
      for (int j = 0; j < degree; ++j) {
        scale[j] = static_cast<T>(series.scales[j]);
        weight[j] = static_cast<T>(inverse ? -series.weights[j] : series.weights[j]);
      }
    }
  };

  // The input as it was loaded, then X and Y as packed triangles, then the output.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int teams) {
    const int work = larger(s.matrix_elements(), 2 * s.triangle_elements(s.split_sweep));
    const int swept = teams > 1 ? teams * s.triangle_elements(s.split_sweep) : 0;
    return work + swept + teams * (s.panel_elements() + s.scratch_elements());
  }
  // As many teams of one matrix as the registers of their tiles allow: five, for the five shifts of the usual degree,
  // up to 128 threads; of 160 threads three, which take as many rounds as four.
  static FASTSQRTM_HOST_DEVICE constexpr int max_threads(const Shape& s) {
    if (s.threads <= 64) return 320;
    if (s.threads == 128) return 640;
    if (s.threads == 160) return 480;
    return s.tile == 8 && s.threads <= 256 ? 2 * s.threads : s.threads;
  }
  // The shifts of one matrix are independent.
  static FASTSQRTM_HOST_DEVICE constexpr int most_teams(const Shape& s) { return max_threads(s) / s.threads; }
  static constexpr int registers(const Shape& s) { return smaller(128, registers_within(max_threads(s))); }
  static int terms(const PartialFractions& series) { return series.count; }
  static int64_t large_matrices(const PartialFractions& series) { return 1 + 2 * series.count; }
  static int64_t large_terms(const PartialFractions& series) { return series.count; }

  // Of A/||A||_F, times the power of the norm, or of A as it is.
  template <class V, bool normalised = true>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large, bool normalised = true>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/blocked_sweep.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tile/sweep.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/mpa.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<Mpa> : TinyRoot<one_lane::Mpa> {
  template <typename T>
  using Numbers = MpaNumbers<T>;
};

// Block: threadIdx.y = matrix in the block * teams + team. Team g takes the shifts g, g + teams, ...; their sum is
// taken in the order of the shifts, so the number of teams changes no bit.
template <class V, bool normalised>
FASTSQRTM_DEVICE void Mpa::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_sweep;
  const int teams = arguments.teams;
  // A matrix of whole warps has its block for itself: its place need not be kept in registers.
  constexpr bool alone = V::threads >= 32;
  const int team = alone ? static_cast<int>(threadIdx.y) : static_cast<int>(threadIdx.y) % teams;
  const int local = alone ? 0 : static_cast<int>(threadIdx.y) / teams;
  const int matrices = alone ? 1 : static_cast<int>(blockDim.y) / teams;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * matrices + local;
  const int member = team * V::threads + static_cast<int>(threadIdx.x);  // among all threads of this matrix
  const int members = teams * V::threads;
  const int used_tiles = (arguments.problem.n + V::tile - 1) / V::tile;

  constexpr int triangle = Triangle<V, split>::elements;
  constexpr int work_elements = larger(V::matrix_elements, 2 * triangle);
  T* work = reinterpret_cast<T*>(dynamic_shared()) + local * arguments.shared_elements;
  T* after_work = work + work_elements;
  T* own = after_work + (teams > 1 ? teams * triangle : 0) + team * (V::panel_elements + V::scratch_elements);
  const Triangle<V, split> x{work};
  const Triangle<V, split> y{work + triangle};
  const Triangle<V, split> swept{after_work + team * triangle};
  const Panels<V> panels(own);
  T* scratch = own + V::panel_elements;
  const auto sync_matrix = [teams] {
    if (teams > 1) {
      __syncthreads();
    } else {
      sync_team<V>();
    }
  };

  const Owner<V, split> owner;
  load_matrix<V>(work, arguments.a, arguments.problem, index, member, members);
  sync_matrix();
  Fragment<V, split> h;
  read_part(work, T(1), owner, h);
  {
    const Norm<T> frobenius = frobenius_norm(h, scratch), norm = normalised ? frobenius : frobenius.as_one();
    h.apply([norm](T value) { return norm.normalise(value); });
    sync_matrix();  // the triangles replace the input, the factor of the result the norm
    if (threadIdx.x == 0) scratch[0] = result_scale(norm, arguments.inverse);
  }
  if (team == 0) {
    x.store(h);
    h.apply([](T) { return T(0); });
    h.add_to_diagonal(owner, arguments.constant);
    y.store(h);
  }
  sync_matrix();
  for (int round = 0; round < arguments.degree; round += teams) {
    const T scale = round + team < arguments.degree ? arguments.scale[round + team] : T(0);
    x.combine_into(h, [scale](T, T value) { return scale * value; });
    sweep(h, owner, used_tiles, !arguments.inverse, panels);
    if (teams == 1) {
      const T weight = arguments.weight[round];
      y.combine_into(h, [weight](T value, T sum) { return std::fma(weight, value, sum); });
      y.store(h);
      continue;
    }
    swept.store(h);
    sync_matrix();
    if (team == 0) {
      y.combine_into(h, [](T, T sum) { return sum; });
      for (int g = 0; g < teams && round + g < arguments.degree; ++g) {
        const T weight = arguments.weight[round + g];
        const Triangle<V, split> other{after_work + g * triangle};
        other.combine_into(h, [weight](T sum, T value) { return std::fma(weight, value, sum); });
      }
      y.store(h);
    }
    sync_matrix();
  }
  if (team == 0) {
    y.combine_into(h, [](T, T sum) { return sum; });
    scale_result(h, owner, scratch[0], arguments.inverse);
  }
  sync_matrix();  // the output takes the place of the packed triangles
  if (team == 0) write_lower(work, owner, h);
  sync_matrix();
  store_matrix<V>(work, arguments.out, arguments.problem, index, member, members);
}

// Matrix m * degree + j: factor = I + H, right = H or I, H = scale[j] X. Also writes the addresses for batched calls.
template <typename T>
__global__ void shift_kernel(Mpa::Arguments<T> arguments, const T* x, const Norm<T>* norms, T* factor, T* right,
                             T** factors, T** rights) {
  const int n = arguments.problem.n;
  const int degree = arguments.degree;
  const int64_t size = static_cast<int64_t>(n) * n;
  for_elements(arguments.problem.batch * degree, n, [&](int64_t m, int i, int j, int64_t at) {
    const int64_t matrix = m / degree;
    const T h =
        arguments.scale[m % degree] * norms[matrix].normalise(x[matrix * size + static_cast<int64_t>(i) * n + j]);
    const T identity = i == j ? T(1) : T(0);
    factor[at] = identity + h;
    right[at] = arguments.inverse ? identity : h;
    if (i == 0 && j == 0) {
      factors[m] = factor + m * size;
      rights[m] = right + m * size;
    }
  });
}

// Matrix m * degree + j: H = scale[j] X.
template <typename T>
__global__ void scaled_kernel(Mpa::Arguments<T> arguments, const T* x, const Norm<T>* norms, T* h) {
  const int64_t size = static_cast<int64_t>(arguments.problem.n) * arguments.problem.n;
  const int degree = arguments.degree;
  for_elements(arguments.problem.batch * degree, arguments.problem.n, [&](int64_t m, int, int, int64_t at) {
    const int64_t matrix = m / degree;
    h[at] = arguments.scale[m % degree] * norms[matrix].normalise(x[at + (matrix - m) * size]);
  });
}

template <class Large, bool normalised>
void Mpa::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  const int degree = arguments.degree;
  const int64_t count = large.batch * degree;
  T* x = large.matrices();
  T* factor = large.matrices(degree);
  T* right = large.matrices(degree);
  const Factorisations<T> f = large.factorisations(degree);
  large.symmetrise(arguments.a, x);
  large.find_norms(!normalised);
  if (swept_in_blocks(large)) {
    large.elements(count, &scaled_kernel<T>, arguments, x, large.norms(), factor);
    sweep_in_blocks(large, factor, right, count, !arguments.inverse);
    FinishArguments<T> finish = large.finish_arguments(arguments.out, factor, finish_of(arguments.inverse));
    finish.count = degree;
    finish.constant = arguments.constant;
    for (int j = 0; j < degree; ++j) finish.weight[j] = arguments.weight[j];
    return large.tiles(&finish_kernel<T>, finish);
  }
  large.elements(count, &shift_kernel<T>, arguments, x, large.norms(), factor, right, f.factors, f.rights);
  large.solve(f, count);
  FinishArguments<T> finish = large.finish_arguments(arguments.out, right, finish_of(arguments.inverse));
  finish.info = f.info;
  finish.count = degree;
  finish.constant = arguments.constant;
  // The weights of the inverse root are those of the sweep, which ends with -(I + H)^-1.
  for (int j = 0; j < degree; ++j) finish.weight[j] = arguments.inverse ? -arguments.weight[j] : arguments.weight[j];
  large.tiles(&finish_kernel<T>, finish);
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

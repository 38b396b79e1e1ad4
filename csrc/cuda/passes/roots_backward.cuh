// The gradient of the accurate roots S = A^(1/2) and Z = A^(-1/2) for their cotangents G and H, one launch:
// S X + X S = sym(G) - Z sym(H) Z. An absent S is computed as the inverse of Z; one of G and H is enough.
// Counterparts: the ops of the same gradients in csrc/cpu and fastsqrtm/_reference/roots.py.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct RootsBackward : OneTeam {
  static constexpr int tiny_operands = 4;
  template <typename T>
  struct Arguments {
    Problem problem;
    Input root;
    Input inverse_root;
    Input root_cotangent;
    Input inverse_cotangent;
    void* out;
    T tolerance;

    Arguments(const passes::RootsBackward& pass, const Operands& operands, const Plan&)
        : problem(operands.problem),
          root(operands.in[0]),
          inverse_root(operands.in[1]),
          root_cotangent(operands.in[2]),
          inverse_cotangent(operands.in[3]),
          out(operands.out[0].data),
          tolerance(static_cast<T>(pass.tolerance)) {}
  };

  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) { return newton_memory(s); }
  static int64_t large_matrices(const passes::RootsBackward&) { return 6; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/newton_steps.h"
#include "cuda/steps/infinite_identity.cuh"
#include "cuda/steps/newton_lyapunov.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/roots_backward.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<RootsBackward> : TinyGradient<one_lane::RootsBackward> {
  static FASTSQRTM_DEVICE bool of_inverse(const Operands& operands) { return !operands.in[0].data; }
};

// f <- M^-1 for the M in f, of which m.b keeps a copy. If M is a root and singular, M <- M + floor^2 (M + floor I)^-1
// first, whose eigenvalues are at least `floor`, with a ridge on M if M + floor I needs one.
template <class V, typename T>
__device__ __forceinline__ void invert_given(const NewtonMemory<V>& m, bool is_root, T unit, int used_tiles, int n,
                                             const Owner<V, V::split_sweep>& owner, Fragment<V, V::split_sweep>& f) {
  enum Attempt { plain, shifted, last };
  constexpr T floor = root_floor<T>();
  bool singular = false;
#pragma unroll 1
  for (int attempt = is_root ? plain : last;; ++attempt) {
    invert(m, attempt == plain ? T(0) : unit, used_tiles, n, owner, f);
    if (attempt == last) break;
    if (attempt == plain) {
      T trace = 0;
#pragma unroll
      for (int c = 0; c < V::tile; ++c) trace += c == owner.row ? f.diagonal[c] : T(0);
      trace = team_sum<V>(trace, m.scratch);
      const T squares = team_sum<V>(sum_of_squares(f, T(1)), m.scratch);
      singular = !(squares * (floor / 4) <= trace);  // or NaN
      if (!any_team<V>(singular)) break;
      m.b.load(f);
      if (singular) add_identity(f, owner, n, floor);
    } else {
      f.apply([](T inverse) { return floor * floor * inverse; });
      add_identity(f, owner, n, -floor);
      if (!singular) f.apply([](T) { return T(0); });
      m.b.combine_into(f, [](T lift, T b) { return b + lift; });
    }
  }
}

// B = S/s and W = s Z with s the norm of S, or 1/s that of Z: B X + X B = s G - W H W / s for s X.
template <class V>
FASTSQRTM_DEVICE void RootsBackward::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int shared = shared_elements(V::shape, 1);
  const Problem& problem = arguments.problem;
  const int n = problem.n;
  const int used_tiles = (n + V::tile - 1) / V::tile;
  const NewtonMemory<V> m(reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared);
  const Owner<V, V::split_sweep> by_sweep;
  const Owner<V, V::split_symmetric> owner;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const bool has_root = arguments.root.data != nullptr;
  const bool has_inverse = arguments.inverse_root.data != nullptr;

  load_matrix<V>(m.work, has_root ? arguments.root : arguments.inverse_root, problem, index, threadIdx.x, V::threads);
  sync_team<V>();
  Fragment<V, V::split_sweep> f;
  read_part(m.work, T(1), by_sweep, f);
  Norm<T> norm = frobenius_norm(f, m.scratch);
  const bool infinite = is_infinite_identity(f, by_sweep, n, m.scratch);  // needs all lanes, so not behind ||
  norm.is_zero = norm.is_zero || infinite;
  if (threadIdx.x == 0) *m.norm = norm;
  f.apply([norm](T value) { return norm.normalise(value); });
  write(m.w, by_sweep, f, T(1));
  sync_team<V>();
  T norm_b = one_norm<V>(m.w, used_tiles, n, m.scratch);
  sync_team<V>();  // all have read the work matrix and w
  m.b.store(f);
  if (has_root && has_inverse) {
    load_matrix<V>(m.work, arguments.inverse_root, problem, index, threadIdx.x, V::threads);
    sync_team<V>();
    read_part(m.work, T(1), by_sweep, f);
    norm = *m.norm;
    f.apply([norm](T value) { return norm.restore(value); });
    write(m.w, by_sweep, f, T(1));
    sync_team<V>();  // all have read the work matrix
  }

  Fragment<V, V::split_symmetric> x;
  load_matrix<V>(m.work, has_inverse ? arguments.inverse_cotangent : arguments.root_cotangent, problem, index,
                 threadIdx.x, V::threads);
  sync_team<V>();
  read_part(m.work, T(1), owner, x);
  if (has_inverse) {
    sync_team<V>();
    write(m.work, owner, x, T(1));
    sync_team<V>();
    {
      FullProduct<V> u;
      u.multiply(m.work, m.w, used_tiles);
      sync_team<V>();  // all have read the cotangent
      u.write(m.work);
    }
    sync_team<V>();
    symmetric_product(m.w, m.work, used_tiles, owner, x);
    if (has_root) {
      norm = *m.norm;
      x.apply([norm](T value) { return -norm.normalise(norm.normalise(value)); });
      m.c.store(x);
      sync_team<V>();
      load_matrix<V>(m.work, arguments.root_cotangent, problem, index, threadIdx.x, V::threads);
      sync_team<V>();
      read_part(m.work, T(1), owner, x);
      m.c.combine_into(x, [](T g, T sum) { return g + sum; });
    } else {
      x.apply([](T value) { return -value; });
    }
  }
  m.c.store(x);
  sync_team<V>();  // the panels take the place of the work matrix
  m.b.load(f);
  invert_given(m, has_root, ridge_unit<T>(arguments.problem.element) * norm_b, used_tiles, n, by_sweep, f);
  write_lower(m.w, by_sweep, f);
  sync_team<V>();
  T norm_w = one_norm<V>(m.w, used_tiles, n, m.scratch);
  if (!has_root) {
    // The inverted matrix is W, and B is its inverse.
    read(m.w, by_sweep, f);
    sync_team<V>();
    {
      Fragment<V, V::split_sweep> given;
      m.b.load(given);
      write(m.w, by_sweep, given, T(1));
    }
    m.b.store(f);
    const T norm_given = norm_b;
    norm_b = norm_w;
    norm_w = norm_given;
    sync_team<V>();
  }
  solve_newton(m, arguments.tolerance, T(1), norm_b, norm_w, used_tiles, n, x);
  norm = *m.norm;
  if (has_root) {
    x.apply([norm](T value) { return norm.normalise(value); });
  } else {
    // The powers of 1/s come last, where they overflow only if the gradient does.
    x.apply([norm](T value) { return norm.restore(norm.restore(norm.restore(value))); });
  }
  if (norm.is_zero) x.apply([](T) { return T(0); });
  sync_team<V>();
  write(m.work, owner, x, T(1));
  sync_team<V>();
  store_matrix<V>(m.work, arguments.out, problem, index, threadIdx.x, V::threads);
}

template <class Large>
void RootsBackward::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  const bool has_root = arguments.root.data != nullptr, has_inverse = arguments.inverse_root.data != nullptr;
  T* b = large.matrices();
  T* w = large.matrices();
  T* c = large.matrices();
  T* u = large.matrices();
  T* v = large.matrices();
  NewtonSteps<Large> newton(large, 1);
  int* infinite = large.template take<int>(large.batch);
  T* given = has_root ? b : w;
  large.symmetrise(has_root ? arguments.root : arguments.inverse_root, given);
  large.find_norms();
  large.library().run(&infinite_identity_kernel<T>, 1, large.batch, norm_threads, 1, 0, given, large.n, infinite);
  large.scale(given, Scale::inverse_norm, T(1), T(0));
  newton.begin(given);
  if (has_root && has_inverse) {
    large.symmetrise(arguments.inverse_root, w);
    large.scale(w, Scale::norm, T(1), T(0));
  }
  // B X + X B = G/s - W H W / s^3 for X itself, and for X / z^3 where Z alone is given.
  if (has_inverse) {
    large.symmetrise(arguments.inverse_cotangent, v);
    large.gemm(1, v, w, 0, u);
    large.gemm(-1, w, u, 0, has_root ? v : c);
  }
  if (has_root) {
    large.symmetrise(arguments.root_cotangent, c);
    if (has_inverse) {
      large.elements(large.batch, &add_normalised_kernel<T>, v, large.batch, large.n, large.norms(), c);
    }
    large.scale(c, Scale::inverse_norm, T(1), T(0));
  }
  if (has_root) {
    newton.lift_singular(b, v, u, w);
  } else {
    newton.add_ridge(w, v);
  }
  newton.invert(given, v, u, has_root ? w : b);
  const T* x = newton.solve(b, w, c, u, v, arguments.tolerance);
  FinishArguments<T> finish =
      large.finish_arguments(arguments.out, x, has_root ? Finish::gradient : Finish::inverse_gradient);
  finish.is_zero_gradient = infinite;
  large.tiles(&finish_kernel<T>, finish);
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

// Newton steps for B X + X B = C with B symmetric positive definite and C symmetric (sign 1) or skew (sign -1), by
// inverses of B. For the formulas and their source see csrc/cpu/steps/newton_lyapunov.h.
//
// Teams that share a warp pass the same barriers, so each goes on for as long as one of them does. The result of a team
// that has finished is not touched any more, and its bits do not depend on its neighbours.
#pragma once

#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tile/product.cuh"
#include "cuda/tile/sweep.cuh"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace cuda {

// True if this lane sees that a sweep failed: a pivot that is not positive makes NaN of every tile.
template <class V, int split>
__device__ __forceinline__ bool has_nan(const Fragment<V, split>& f) {
  bool any = false;
#pragma unroll
  for (int c = 0; c < V::tile; ++c) any = any || f.diagonal[c] != f.diagonal[c];
  return any;
}

// Largest sums of the absolute values of a column of M and of M + theta I: bounds of the spectral norm. Neighbouring
// lanes read neighbouring columns.
template <class V, typename T>
__device__ __forceinline__ void one_norms(const T* matrix, T theta, int used_tiles, int n, T* scratch, T& plain,
                                          T& shifted) {
  using L = Layout<V>;
  T largest = 0, largest_shifted = 0;
  for (int column = threadIdx.x; column < n; column += V::threads) {
    const int group = column / V::tile;
    const int in_tile = column % V::tile;
    const T* place = matrix + in_tile / L::vec * L::plane + in_tile % L::vec;
    T sum = 0;
    for (int block = 0; block < used_tiles; ++block) {
      const T* first = place + block * V::tile * V::padded + L::rotate(group, block) * L::vec;
#pragma unroll
      for (int r = 0; r < V::tile; ++r) sum += std::fabs(first[r * V::padded]);
    }
    const T diagonal = matrix[L::at(column, column)];
    largest = max_or_nan(largest, sum);
    largest_shifted = max_or_nan(largest_shifted, sum - std::fabs(diagonal) + std::fabs(diagonal + theta));
  }
  plain = team_max<V>(largest, scratch);
  shifted = theta == T(0) ? plain : team_max<V>(largest_shifted, scratch);
}

template <class V, typename T>
__device__ __forceinline__ T one_norm(const T* matrix, int used_tiles, int n, T* scratch) {
  T plain, shifted;
  one_norms<V>(matrix, T(0), used_tiles, n, scratch, plain, shifted);
  return plain;
}

// The shared memory of one matrix.
template <class V>
struct NewtonMemory {
  using T = typename V::scalar;
  static_assert(V::panel_elements <= V::matrix_elements, "the panels share the work matrix");
  T* work;  // C, then W C, then the panels of the sweep; at the end X
  T* w;     // B^-1; at the end B - theta I
  Triangle<V, V::split_symmetric> c;
  Triangle<V, V::split_sweep> b;
  T* scratch;
  Norm<T>* norm;  // waits here for the end: registers are full
  static_assert(sizeof(Norm<T>) <= newton_norm_elements * sizeof(T), "room for the norm");

  explicit __device__ __forceinline__ NewtonMemory(T* shared)
      : work(shared),
        w(work + V::matrix_elements),
        c{w + V::matrix_elements},
        b{c.data + c.elements},
        scratch(b.data + b.elements),
        norm(reinterpret_cast<Norm<T>*>(scratch + V::scratch_elements)) {}
  // The same, with addresses that are computed anew.
  __device__ __forceinline__ NewtonMemory again() const {
    T* base = reinterpret_cast<T*>(dynamic_shared());
    return NewtonMemory(base + opaque(static_cast<int>(work - base)));
  }
  __device__ __forceinline__ Panels<V> panels() const { return Panels<V>(work); }
};

// f <- M^-1 for the M in f, of which m.b keeps a copy. Adds a ridge to M if needed, in units of `unit`; gives NaN if M
// is indefinite. The work matrix must be free.
template <class V, typename T>
__device__ __forceinline__ void invert(const NewtonMemory<V>& m, T unit, int used_tiles, int n,
                                       const Owner<V, V::split_sweep>& owner, Fragment<V, V::split_sweep>& f) {
  bool good = false;
  m.b.store(f);
#pragma unroll 1
  for (int attempt = 0;; ++attempt) {
    m.b.load(f);
    add_identity(f, owner, n, good ? T(0) : T(ridge_of(attempt)) * unit);
    m.b.store(f);
    sweep_own(f, owner, n, used_tiles, m.panels());
    const bool failed = team_max<V>(has_nan(f) ? T(1) : T(0), m.scratch) != T(0);  // needs all lanes, so not behind ||
    good = good || !failed;
    if (!any_team<V>(!good && unit > T(0) && attempt + 1 < ridge_count)) break;
  }
  f.apply([](T value) { return -value; });
}

// On entry the memory holds B, W = B^-1 and C in b, w and c, and norm_b and norm_w are the 1-norms of B and W. On
// return x is the solution; the memory is free after the next barrier.
template <class V, typename T>
__device__ __forceinline__ void solve_newton(const NewtonMemory<V>& memory, T tolerance, T sign, T norm_b, T norm_w,
                                             int used_tiles, int n, Fragment<V, V::split_symmetric>& x) {
  constexpr int most_steps = 12, most_corrections = 6;
  bool done = false;
  T theta = 1;
#pragma unroll 1
  for (int step = 1;; ++step) {
    // Every step computes addresses and owners again, because the registers are too few to keep them.
    const NewtonMemory<V> m = memory.again();
    const Owner<V, V::split_symmetric> owner(opaque(threadIdx.x));
    const T mu = square_root(norm_w * reciprocal(norm_b));
    const T keep = T(0.5) * mu, take = T(0.5) * reciprocal(mu);
    m.c.load(x);
    sync_team<V>();  // the work matrix is free
    write(m.work, owner, x, sign);
    sync_team<V>();
    {
      FullProduct<V> u;
      u.multiply(m.work, m.w, used_tiles);  // sign C W, because the left factor is read transposed
      sync_team<V>();                       // all have read C
      u.write(m.work);
    }
    sync_team<V>();
    symmetric_product(m.w, m.work, used_tiles, owner, x, sign);
    if (!done) m.c.update(x, [=](T c, T v) { return keep * c + sign * (take * v); });
    {
      const Owner<V, V::split_sweep> by_sweep(opaque(threadIdx.x));
      Fragment<V, V::split_sweep> f;
      read(m.w, by_sweep, f);
      if (!done) m.b.update(f, [=](T b, T w) { return keep * b + take * w; });
      m.b.load(f);
      T trace = 0;
#pragma unroll
      for (int c = 0; c < V::tile; ++c) trace += c == by_sweep.row ? f.diagonal[c] : T(0);
      theta = team_sum<V>(trace, m.scratch) * reciprocal(T(opaque(n)));  // kept, it would take a register
      add_identity(f, by_sweep, n, -theta);
      const T frobenius = square_root(team_sum<V>(sum_of_squares(f, T(1)), m.scratch));
      sync_team<V>();  // all have read W
      write(m.w, by_sweep, f, T(1));
      sync_team<V>();
      T column_norm;
      one_norms<V>(m.w, theta, used_tiles, n, m.scratch, column_norm, norm_b);
      const T bound = (frobenius < column_norm ? frobenius : column_norm) * reciprocal(theta);
      done = done || !(bound * bound * bound > tolerance) || step == most_steps;
      if (!any_team<V>(!done)) break;
      m.b.load(f);
      sweep_own(f, by_sweep, n, used_tiles, m.panels());
      f.apply([](T value) { return -value; });
      write_lower(m.w, by_sweep, f);
    }
    sync_team<V>();
    norm_w = one_norm<V>(m.w, used_tiles, n, m.scratch);
  }
  // X <- C/(2 theta) - (E X + X E)/(2 theta); E = B - theta I has the place of W.
  const NewtonMemory<V> m = memory.again();
  const Owner<V, V::split_symmetric> owner(opaque(threadIdx.x));
  const T half = T(0.5) * reciprocal(theta);
  m.c.load(x);
  x.apply([half](T c) { return half * c; });
  m.c.store(x);
  sync_team<V>();
  const Norm<T> size = frobenius_norm(x, m.scratch);
  done = false;
  T contraction = 0;
#pragma unroll 1
  for (int step = 1;; ++step) {
    sync_team<V>();
    write(m.work, owner, x, sign);
    sync_team<V>();
    Fragment<V, V::split_symmetric> old;
    product_plus_transpose(m.w, m.work, sign, used_tiles, owner, x);
    m.c.combine_into(x, [half](T v, T c) { return c - half * v; });
    read(m.work, owner, old);
    x.combine(old, [done](T next, T before) { return done ? before : next; });
    old.combine(x, [](T before, T next) { return next - before; });
    const T change = square_root(team_sum<V>(sum_of_squares(old, size.down), m.scratch)) * size.inverse_ratio;
    if (step == 1) contraction = change < T(0.5) ? change : T(0.5);
    done = done || !(change * contraction > tolerance) || step == most_corrections;
    if (!any_team<V>(!done)) break;
  }
}

}  // namespace cuda
}  // namespace fastsqrtm

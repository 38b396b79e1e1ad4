// One-sided Jacobi rotations for matrices that are singular or indefinite by rounding, whose roots are functions of
// their eigenvalues: the rows of W = A + c I, rotated in pairs until they are orthogonal, are |w_k| v_k with the
// eigenvectors v_k of A and |w_k| = lambda_k + c. Rows, because W is symmetric and its rows are neighbours in memory.
// Source: Hestenes, J. SIAM 6(1), 1958; the order of the pairs is a round robin, so that a round has n/2 disjoint ones.
//
// With c = 1/32 an accepted matrix has a positive definite W, with norms that no product of two takes out of range. For
// lambda_k < -c the norm is -(lambda_k + c) instead, and lambda_k is not what it seems: their sum then exceeds the
// trace by twice that, which has_negative finds. Both kernels of Roots call this.
#pragma once

#include "cuda/tile/layout.cuh"
#include "cuda/tile/norm.cuh"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace cuda {

constexpr double jacobi_shift = 2 * largest_negative;

// Pair number `place` of a round among an even number of players; two of them meet once in `players - 1` rounds.
struct Pair {
  int p, q;

  __device__ __forceinline__ Pair(int round, int place, int players) : p(round + place), q(round - place) {
    const int last = players - 1;
    if (p >= last) p -= last;
    if (q < 0) q += last;
    if (place == 0) p = last;
  }
};

// The rows of a matrix in shared memory, in runs of neighbours.
template <class V>
struct SharedRows {
  using T = typename V::scalar;
  using L = Layout<V>;
  static constexpr int run_length = L::vec;
  static constexpr int runs = V::padded / run_length;

  T* matrix;

  __device__ __forceinline__ T* run(int row, int k) const {
    return matrix + row * V::padded + k / V::tiles * L::plane + L::rotate(k % V::tiles, row / V::tile) * run_length;
  }
};

// The lanes of a team that works on a matrix in shared memory: groups of neighbours, one for each pair of a round.
template <class V>
struct PairLanes {
  using T = typename V::scalar;
  static constexpr int lanes_of() {
    int lanes = 1;
    while (2 * lanes * (V::padded / 2) <= V::threads) lanes *= 2;
    return lanes;
  }
  static constexpr int lanes = lanes_of();  // of a group
  static constexpr int groups = V::threads / lanes;
  static_assert(groups >= V::padded / 2 && V::threads % lanes == 0 && V::width % lanes == 0, "a group for every pair");

  T* scratch;

  static __device__ __forceinline__ int group() { return static_cast<int>(threadIdx.x) / lanes; }
  static __device__ __forceinline__ int member() { return static_cast<int>(threadIdx.x) % lanes; }
  static __device__ __forceinline__ T sum(T value) {
#pragma unroll
    for (int step = lanes / 2; step >= 1; step /= 2) value += __shfl_xor_sync(all_lanes, value, step, V::width);
    return value;
  }
  static __device__ __forceinline__ void sync() { sync_team<V>(); }
  // True if it is true for any lane, and where teams share a warp for any of theirs.
  __device__ __forceinline__ bool any(bool own) const {
    return any_team<V>(team_max<V>(own ? T(1) : T(0), scratch) != T(0));
  }
};

// Calls f(x, y) for the elements of two rows, and writes those back for which it returns true.
template <class Rows, class Lanes, class F>
__device__ __forceinline__ void for_elements_of(const Rows& rows, const Lanes& lanes, int p, int q, F f) {
#pragma unroll 1
  for (int k = lanes.member(); k < rows.runs; k += lanes.lanes) {
    auto* x = rows.run(p, k);
    auto* y = rows.run(q, k);
    using Run = Pack<std::remove_pointer_t<decltype(x)>, Rows::run_length>;
    Run left = *reinterpret_cast<const Run*>(x), right = *reinterpret_cast<const Run*>(y);
    bool changed = false;
#pragma unroll
    for (int e = 0; e < Rows::run_length; ++e) changed = f(left.value[e], right.value[e]) || changed;
    if (!changed) continue;
    *reinterpret_cast<Run*>(x) = left;
    *reinterpret_cast<Run*>(y) = right;
  }
}

// The squared norm of a row, the same bits for all lanes of its group.
template <class Rows, class Lanes>
__device__ __forceinline__ auto squared_norm(const Rows& rows, const Lanes& lanes, int row, bool present) {
  using T = std::remove_pointer_t<decltype(rows.matrix)>;
  T sum = 0;
  if (present) {
    for_elements_of(rows, lanes, row, row, [&sum](T x, T) {
      sum += x * x;
      return false;
    });
  }
  return lanes.sum(sum);
}

// Several rows may be scaled at once, each by its group.
template <class Rows, class Lanes, typename T>
__device__ __forceinline__ void scale_row(const Rows& rows, const Lanes& lanes, int row, T factor) {
  for_elements_of(rows, lanes, row, row, [factor](T& x, T& same) {
    x *= factor;
    same = x;
    return true;
  });
}

// Rotates the rows of the n x n matrix until they are orthogonal. All lanes have written them before a barrier; the
// last step is a barrier too. A matrix with NaN has nothing to rotate.
template <class Rows, class Lanes>
__device__ __forceinline__ void make_orthogonal(const Rows& rows, const Lanes& lanes, int n) {
  using T = std::remove_pointer_t<decltype(rows.matrix)>;
  // About ten are enough, but for twice as many where large clusters of eigenvalues interleave.
  constexpr int most_sweeps = sizeof(T) == 8 ? 30 : 20;
  constexpr T tolerance = 4 * machine_epsilon<T>();
  const int players = n + n % 2;
#pragma unroll 1
  for (int sweep = 0; sweep < most_sweeps; ++sweep) {
    bool rotated = false;
#pragma unroll 1
    for (int round = 0; round + 1 < players; ++round) {
#pragma unroll 1
      for (int first = 0; first < players / 2; first += lanes.groups) {
        const Pair pair(round, first + lanes.group(), players);
        const bool present = first + lanes.group() < players / 2 && pair.p < n && pair.q < n;
        if (lanes.lanes == 32 && !present) continue;  // the whole warp
        T p_p = 0, q_q = 0, p_q = 0;
        if (present) {
          for_elements_of(rows, lanes, pair.p, pair.q, [&](T x, T y) {
            p_p += x * x;
            q_q += y * y;
            p_q += x * y;
            return false;
          });
        }
        p_p = lanes.sum(p_p);
        q_q = lanes.sum(q_q);
        p_q = lanes.sum(p_q);
        if (!(std::fabs(p_q) > tolerance * (square_root(p_p) * square_root(q_q)))) continue;
        rotated = true;
        // The smaller of the two angles, at most 45 degrees.
        const T difference = q_q - p_p;
        const T size = std::fabs(difference) + square_root(difference * difference + T(4) * p_q * p_q);
        const T tangent = T(2) * (difference < T(0) ? -p_q : p_q) * reciprocal(size);
        const T cosine = reciprocal(square_root(T(1) + tangent * tangent)), sine = cosine * tangent;
        // Rutishauser's form: a row times its rounded cosine would let the norms drift.
        const T half_tangent = sine * reciprocal(T(1) + cosine);
        for_elements_of(rows, lanes, pair.p, pair.q, [=](T& x, T& y) {
          const T left = x, right = y;
          x -= sine * (right + half_tangent * left);
          y += sine * (left - half_tangent * right);
          return true;
        });
      }
      lanes.sync();
    }
    if (!lanes.any(rotated)) break;
  }
}

// lambda, for a row of norm lambda + c.
template <typename T>
__device__ __forceinline__ T eigenvalue(T squared_norm) {
  return square_root(squared_norm) - T(jacobi_shift);
}

// The functions of an eigenvalue lambda, where `radius` is the largest absolute one: the rows times `first` make M with
// M^T M = A^(-1/2) if the inverse root is asked for, else the root; the rows times `second` thereafter the root.
template <typename T>
struct RowScales {
  T lambda, first, second;

  __device__ __forceinline__ RowScales(T squared_norm, T radius, bool has_inverse) : lambda(eigenvalue(squared_norm)) {
    const T positive = lambda > T(0) ? square_root(lambda) : T(0);
    const T least = machine_epsilon<T>() * radius;
    const T floored = square_root(lambda > least ? lambda : least);
    first = reciprocal(square_root(squared_norm)) * (has_inverse       ? square_root(reciprocal(floored))
                                                     : positive > T(0) ? square_root(positive)
                                                                       : T(0));
    second = positive > T(0) ? square_root(positive * floored) : T(0);
  }
};

// True if an eigenvalue is too far below zero for a rounding, from the largest -lambda that RowScales has found, the
// largest |lambda|, `radius`, and what the sum of all lambda exceeds the trace by. The limit is exact, because no
// eigenvalue is larger than 1: one in (-3/64, -1/32) seems to be one in (-1/32, -1/64), and one below adds at least
// 1/32 to the sum.
template <typename T>
__device__ __forceinline__ bool has_negative(T largest, T radius, T excess) {
  return !(largest <= T(largest_negative) * radius && excess <= T(largest_negative));
}

}  // namespace cuda
}  // namespace fastsqrtm

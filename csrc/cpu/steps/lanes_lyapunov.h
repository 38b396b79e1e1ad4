// The Lyapunov equation B X + X B = C for small matrices, one a lane: an elimination, and the methods of
// newton_lyapunov.h and sign_lyapunov.h. A lane that has converged keeps its bits while its neighbours go on.
#pragma once

#include <algorithm>

#include "cpu/matrix/eliminated_system.h"
#include "cpu/matrix/lanes_algebra.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// X for symmetric C and W = sign B^-1, all of which it overwrites. Returns where all inverses existed.
template <class T, int n>
FASTSQRTM_LANE_APART Mask<T> solve_newton(T tolerance, T sign, Symmetric<T, n>& B, Symmetric<T, n>& W,
                                          Symmetric<T, n>& C, Symmetric<T, n>& X) {
  constexpr int most_steps = 12, most_corrections = 6;
  Mask<T> good = all_lanes<T>(), done = {};
  for (int step = 1;; ++step) {
    const Vector<T> mu = square_root(one_norm(W) / one_norm(B)), half = T(0.5) * mu, inverse = T(0.5) / mu;
    combine_where<T, n>(~done, inverse, congruence(C, W), half, C);
    const Vector<T> of_W = sign * inverse;
    for (int i = 0; i < B.entries; ++i)  // into W as well, for its norms
      W.entry[i] = B.entry[i] = done ? B.entry[i] : of_W * W.entry[i] + half * B.entry[i];
    sign = T(-1);
    const Vector<T> theta = trace(B) * T(1.0 / B.order);
    add_identity(W, -theta);
    const Vector<T> bound = smaller(one_norm(W), frobenius(W)) / theta;
    done |= ~(bound * bound * bound > tolerance);
    if (step == most_steps || !any(~done)) break;
    const Mask<T> positive = minus_inverse(B, W);
    good &= positive | done;
  }
  const Vector<T> half = T(0.5) / (trace(B) * T(1.0 / B.order));
  add_identity(B, trace(B) * T(-1.0 / B.order));
  X.set_order(C.order);
  for (int i = 0; i < C.entries; ++i) X.entry[i] = C.entry[i] *= half;
  const Vector<T> size = frobenius(C);
  Vector<T> contraction = {};
  done = Mask<T>{};
  for (int step = 1; step <= most_corrections; ++step) {
    Symmetric<T, n> change = plus_transposed(product<T, n>(B, X));
    for (int i = 0; i < X.entries; ++i) {
      const Vector<T> next = C.entry[i] - half * change.entry[i];
      change.entry[i] = next - X.entry[i];
      X.entry[i] = done ? X.entry[i] : next;
    }
    const Vector<T> relative = frobenius(change) / size;
    if (step == 1) contraction = smaller(relative, broadcast(T(0.5)));
    done |= ~(relative * contraction > tolerance);
    if (!any(~done)) break;
  }
  return good;
}

// The pairs (i, j), i > j, of n numbers, one after the other.
template <int n>
struct Pairs {
  static constexpr int count = n * (n - 1) / 2;
  int i[count + 1] = {}, j[count + 1] = {};

  FASTSQRTM_LANE constexpr Pairs() {
    int p = 0;
    for (int row = 1; row < n; ++row)
      for (int column = 0; column < row; ++column, ++p) i[p] = row, j[p] = column;
  }
};

// Up to this order an elimination is faster than Newton steps: its unknowns, n(n - 1)/2, are then at most 28.
constexpr int largest_eliminated_order = 8;

// B X + X B = C by elimination. With one equation for each entry of X on and under the diagonal, those on it halved,
// the system is symmetric and positive definite, so it needs no pivots:
//   b_ii x_ii + sum_k b_ik x_ik = c_ii / 2,
//   b_ij (x_ii + x_jj) + (b_ii + b_jj) x_ij + sum_k (b_jk x_ik + b_ik x_jk) = c_ij,   k other than i and j.
// The entries on the diagonal go first, as none of their equations has two of them.
struct Eliminate {
  template <class T, int n>
  FASTSQRTM_LANE static inline void run(const Symmetric<T, n>& B, const Symmetric<T, n>& C, Symmetric<T, n>& X) {
    constexpr int count = Pairs<n>::count;
    constexpr std::make_integer_sequence<int, count> all;
    Vector<T> inverse[n], half[n];
    FASTSQRTM_UNROLLED (8, int i = 0; i < n; ++i) {
      inverse[i] = T(1) / B(i, i);
      half[i] = T(0.5) * C(i, i) * inverse[i];
    }
    EliminatedSystem<T, count> system;
    each_constant(all, [&](auto of_pair) {
      constexpr int p = decltype(of_pair)::value, i = Pairs<n>().i[p], j = Pairs<n>().j[p];
      const auto with = [&](int shared, int a, int b) {
        return B(a, b) - B(shared, a) * B(shared, b) * inverse[shared];
      };
      system.row(count)[p] = C(i, j) - B(i, j) * (half[i] + half[j]);
      system.row(p)[p] = with(i, j, j) + with(j, i, i);
      each_constant(std::make_integer_sequence<int, p>(), [&](auto of_other) {
        constexpr int q = decltype(of_other)::value, k = Pairs<n>().i[q], l = Pairs<n>().j[q];
        if constexpr (i == k)
          system.row(p)[q] = with(i, j, l);
        else if constexpr (i == l)
          system.row(p)[q] = with(i, j, k);
        else if constexpr (j == k)
          system.row(p)[q] = with(j, i, l);
        else if constexpr (j == l)
          system.row(p)[q] = with(j, i, k);
        else
          system.row(p)[q] = Vector<T>{};
      });
    });
    system.row(count)[count] = Vector<T>{};
    Vector<T> x[count + 1];
    system.solve(x);
    FASTSQRTM_UNROLLED (8, int i = 0; i < n; ++i) X(i, i) = half[i];
    each_constant(all, [&](auto of_pair) {
      constexpr int p = decltype(of_pair)::value, i = Pairs<n>().i[p], j = Pairs<n>().j[p];
      X(i, j) = x[p];
      X(i, i) -= B(i, j) * inverse[i] * x[p];
      X(j, j) -= B(i, j) * inverse[j] * x[p];
    });
  }
};
template <class T, int n>
FASTSQRTM_LANE Symmetric<T, n> solve_by_elimination(const Symmetric<T, n>& B, const Symmetric<T, n>& C) {
  Symmetric<T, n> X;
  run_by_order<Eliminate, n>(B, C, X);
  return X;
}

// The paper's iteration: 2 X in the place of a C with C^T = sign C.
template <class T, int n>
FASTSQRTM_LANE_APART void solve_lyapunov(int iterations, T sign, Symmetric<T, n> B, Square<T, n>& C) {
  for (int step = 1; step <= iterations; ++step) {
    Square<T, n> U = product<T, n>(C, B);
    for (int i = 0; i < C.order; ++i)
      for (int j = 0; j <= i; ++j) {
        const auto lower = U(i, j), upper = U(j, i);
        U(i, j) = sign * upper - T(0.5) * lower;
        U(j, i) = sign * lower - T(0.5) * upper;
      }
    const Square<T, n> V = product<T, n>(B, U);
    for (int i = 0; i < C.order; ++i)
      for (int j = 0; j <= i; ++j) {
        C(i, j) = T(1.5) * C(i, j) - T(0.5) * (V(i, j) + sign * V(j, i));
        C(j, i) = sign * C(i, j);
      }
    if (step == iterations) break;
    const Symmetric<T, n> M = symmetric_product<T, n>(B, B);
    B = linear(broadcast(T(1.5)), B, broadcast(T(-0.5)), symmetric_product<T, n>(B, M));
  }
}
template <class T, int n>
FASTSQRTM_LANE void solve_lyapunov(int iterations, const Symmetric<T, n>& B, Symmetric<T, n>& C) {
  Square<T, n> full;
  full.set_order(C.order);
  if constexpr (n == alone) {
    std::copy_n(C.entry, C.entries, full.entry);
    solve_lyapunov(iterations, T(1), B, full);
    std::copy_n(full.entry, C.entries, C.entry);
  } else {
    for (int i = 0; i < C.order; ++i)
      for (int j = 0; j < C.order; ++j) full(i, j) = C(i, j);
    solve_lyapunov(iterations, T(1), B, full);
    for (int i = 0; i < C.order; ++i)
      for (int j = 0; j <= i; ++j) C(i, j) = full(i, j);
  }
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// The Lyapunov equation B X + X B = C for small matrices, one a lane: the methods of newton_lyapunov.h and
// sign_lyapunov.h. A lane that has converged keeps its bits while its neighbours go on.
#pragma once

#include "cpu/matrix/lanes_algebra.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// X for symmetric C and W = B^-1. Returns where all inverses existed.
template <class T, int n>
__attribute__((noinline)) Mask<T> solve_newton(T tolerance, Symmetric<T, n> B, Symmetric<T, n> W, Symmetric<T, n> C,
                                               Symmetric<T, n>& X) {
  constexpr int most_steps = 12, most_corrections = 6;
  const Vector<T> one = broadcast(T(1));
  Mask<T> good = all_lanes<T>(), done = {};
  for (int step = 1;; ++step) {
    const Vector<T> mu = square_root(one_norm(W) / one_norm(B)), half = T(0.5) * mu, inverse = T(0.5) / mu;
    combine_where<T, n>(~done, inverse, congruence(C, W), half, C);
    combine_where<T, n>(~done, inverse, W, half, B);
    const Vector<T> theta = trace(B) * T(1.0 / B.order);
    W = B;  // for its norms
    add_identity(W, -theta);
    const Vector<T> bound = smaller(one_norm(W), frobenius(W)) / theta;
    done |= ~(bound * bound * bound > tolerance);
    if (step == most_steps || !any(~done)) break;
    const Mask<T> positive = minus_inverse(B, W);
    good &= positive | done;
    W *= -one;
  }
  const Vector<T> half = T(0.5) / (trace(B) * T(1.0 / B.order));
  add_identity(B, trace(B) * T(-1.0 / B.order));
  C *= half;
  X = C;
  const Vector<T> size = frobenius(C);
  Vector<T> contraction = {};
  done = Mask<T>{};
  for (int step = 1; step <= most_corrections; ++step) {
    const Square<T, n> U = product<T, n>(B, X);
    Vector<T> beside = {}, on = {};  // squares of the changes
    for (int i = 0; i < X.order; ++i)
      for (int j = 0; j <= i; ++j) {
        const Vector<T> next = C(i, j) - half * (U(i, j) + U(j, i)), change = next - X(i, j);
        (i == j ? on : beside) += change * change;
        X(i, j) = done ? X(i, j) : next;
      }
    const Vector<T> relative = square_root(on + (beside + beside)) / size;
    if (step == 1) contraction = smaller(relative, broadcast(T(0.5)));
    done |= ~(relative * contraction > tolerance);
    if (!any(~done)) break;
  }
  return good;
}

// The paper's iteration: 2 X in the place of a C with C^T = sign C.
template <class T, int n>
__attribute__((noinline)) void solve_lyapunov(int iterations, T sign, Symmetric<T, n> B, Square<T, n>& C) {
  for (int step = 1; step <= iterations; ++step) {
    Square<T, n> U = product<T, n>(C, B);
    for (int i = 0; i < C.order; ++i)
      for (int j = 0; j <= i; ++j) {
        const Vector<T> lower = U(i, j), upper = U(j, i);
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
void solve_lyapunov(int iterations, const Symmetric<T, n>& B, Symmetric<T, n>& C) {
  Square<T, n> full;
  full.set_order(C.order);
  for (int i = 0; i < C.order; ++i)
    for (int j = 0; j < C.order; ++j) full(i, j) = C(i, j);
  solve_lyapunov(iterations, T(1), B, full);
  for (int i = 0; i < C.order; ++i)
    for (int j = 0; j <= i; ++j) C(i, j) = full(i, j);
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

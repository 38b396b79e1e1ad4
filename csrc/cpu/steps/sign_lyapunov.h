// The paper's Lyapunov solver: the coupled matrix sign iteration, four products a step, two of them half.
// Counterpart in Python: solve_newton_schulz in fastsqrtm/_reference/lyapunov.py.
#pragma once

#include "cpu/matrix/product.h"
#include "cpu/matrix/symmetric.h"
#include "cpu/matrix/workspace.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// Solves B X + X B = C for C^T = sign C, sign = +-1, where ws[0] holds B, symmetric with spectrum in (0, 1], and ws[1]
// C. Leaves 2 X in ws[1] and overwrites ws[2] and ws[3] as well. Per step
//   C <- (3 C - (B^2 C - B C B + C B^2)) / 2,   B <- B (3 I - B^2) / 2.
// With T = B C - C B / 2 the bracket is B T + sign (B T)^T.
template <class T>
void solve_lyapunov(const Team& team, int iterations, T sign, const Workspace<T>& ws) {
  Panels<T> B = ws[0], V = ws[3];
  const Panels<T> C = ws[1], U = ws[2];
  for (int step = 1; step <= iterations; ++step) {
    product(team, Triangle::full, C, B, U);  // C^T B, because the left operand is read transposed
    with_transpose(team, U, [=](Vector<T> own, Vector<T> transposed) { return transposed - sign * T(0.5) * own; });
    product(team, Triangle::full, B, U, V);
    add_with_transpose(team, T(1.5), C, T(-0.5), V, sign, C);
    if (step == iterations) break;
    product(team, Triangle::lower, B, B, U);
    mirror<T, true>(team, U, T(1));
    product(team, Triangle::lower, B, U, V);
    mirror(team, V, T(-0.5), B, T(1.5));  // not B (3 I - M), which would sum up the small B M with 3 B
    const Panels<T> next = V;
    V = B;
    B = next;
  }
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// The coupled Newton-Schulz iteration and its derivative, by products alone.
// Counterparts in Python: newton_schulz and its derivative in fastsqrtm/_reference/series.py.
#pragma once

#include <limits>
#include <utility>

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/product.h"
#include "cpu/matrix/symmetric.h"
#include "cpu/matrix/workspace.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// A symmetric matrix that is a function of X, and its derivative along G where `differentiated`.
template <class T, bool differentiated>
struct Dual {
  Panels<T> value, derivative;

  Dual(const Workspace<T>& ws, int i)
      : value(ws[differentiated ? 2 * i : i]), derivative(ws[differentiated ? 2 * i + 1 : i]) {}

  // a A + b B + c I
  void combination(const Team& team, T a, const Dual& A, T b, const Dual& B, T c) const {
    linear(team, a, A.value, b, B.value, value);
    add_identity(value, c);
    if (differentiated) linear(team, a, A.derivative, b, B.derivative, derivative);
  }

  // A B + q Q + c I for A and B that commute.
  void product(const Team& team, const Dual& A, const Dual& B, T q, const Dual& Q, T c) const {
    constexpr auto lower = Triangle::lower;
    FASTSQRTM_ISA::product(team, lower, A.value, B.value, value);
    mirror(team, value, T(1), Q.value, q, c);
    if (!differentiated) return;
    FASTSQRTM_ISA::product(team, lower, A.derivative, B.value, derivative);
    FASTSQRTM_ISA::product(team, lower, A.value, B.derivative, derivative, true);
    mirror(team, derivative, T(1), Q.derivative, q);
  }
  // A^2. Its derivative is a full product and the transpose: on small matrices cheaper than two halves.
  void square(const Team& team, const Dual& A) const {
    FASTSQRTM_ISA::product(team, Triangle::lower, A.value, A.value, value);
    mirror<T, true>(team, value, T(1));
    if (!differentiated) return;
    FASTSQRTM_ISA::product(team, Triangle::full, A.derivative, A.value, derivative);
    with_transpose(team, derivative, [](Vector<T> own, Vector<T> transposed) { return own + transposed; });
  }
  void product(const Team& team, const Dual& A, const Dual& B) const { product(team, A, B, T(0), *this, T(0)); }
};

// Y of the steps Y <- Y P, M <- M P^2 with P = p(M) = (3 I - M)/2 from M = X and Y = X, or Y = I for the inverse root.
// ws[0] holds X and, where `differentiated`, ws[1] G. The matrices up to ws[4], or up to ws[9], are overwritten, and
// the result lies in none of newton_schulz_free.
//
// The steps are taken in pairs, with P = p(M) p(M p(M)^2), in F = M - I: I - F/2 + 3/8 F^2 - 5/16 F^3 + 1/16 F^4. A
// pair takes five half products instead of six: three if no step follows, four at the start, where Y is M. M is carried
// on as a product, not as Z Y with a Z of its own, and everything is kept symmetric, so that rounding is not amplified.
// A matrix stops as soon as M is I. All iterates are polynomials of X, so the derivative is its own adjoint and none is
// kept.
constexpr int newton_schulz_free[] = {4, 5};

template <class T, bool differentiated>
Dual<T, differentiated> newton_schulz(const Team& team, int steps, bool inverse, const Workspace<T>& ws) {
  using D = Dual<T, differentiated>;
  D M(ws, 0), Y(ws, 1), P(ws, 2), H(ws, 3), F2(ws, 4);
  for (int left = steps; left > 0;) {
    const bool first = left == steps, single = left % 2;
    bool last = left <= 2;
    if (single) {
      P.combination(team, T(-0.5), M, T(0), M, T(1.5));
    } else {
      D F = H;
      F.derivative = M.derivative;
      linear(team, T(1), M.value, T(0), M.value, F.value);
      add_identity(F.value, T(-1));
      const auto converged = [&] {
        const double size = spectral_bound(team, F.value);
        return !(size * size > std::numeric_limits<T>::epsilon());
      };
      last = last || converged();
      F2.square(team, F);
      H.combination(team, T(1.0 / 16), F2, T(-5.0 / 16), M, T(11.0 / 16));
      P.product(team, F2, H, T(-0.5), M, T(1.5));
    }
    left -= single ? 1 : 2;

    D &next = H, &P2 = F2;
    if (first && inverse) {
      Y.combination(team, T(1), P, T(0), P, T(0));
    } else {
      next.product(team, first ? M : Y, P);
      std::swap(Y, next);
    }
    if (last) break;
    if (first && !inverse) {
      next.product(team, Y, P);
    } else {
      P2.square(team, P);
      next.product(team, M, P2);
    }
    std::swap(M, next);
  }
  return Y;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

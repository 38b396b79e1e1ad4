// The series of the paper's forward methods and their derivatives for small matrices, one a lane: the methods of
// series.h and newton_schulz.h.
#pragma once

#include <type_traits>

#include "cpu/matrix/lanes_algebra.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// r(X). `good` is where X is definite enough for the approximant.
template <class T, int n>
struct LaneSeries {
  Symmetric<T, n> value = {};
  Mask<T> good = all_lanes<T>();
};

// The derivative L along G, and <G, r(X)>.
template <class T, int n>
struct LaneDerivative {
  Symmetric<T, n> matrix = {};
  Vector<T> along = {};
  Mask<T> good = all_lanes<T>();
};

template <class T, int n, class Fractions>
FASTSQRTM_LANE LaneSeries<T, n> sum_of_fractions(const Fractions& series, const Symmetric<T, n>& X) {
  LaneSeries<T, n> Y;
  for (int j = 0; j < series.count; ++j) {
    Symmetric<T, n> H = X;
    H *= broadcast(T(series.scales[j]));
    Y.good &= series.quotient ? sweep<Swept::quotient>(H) : sweep<Swept::minus_inverse>(H);
    const T weight = T(series.quotient ? series.weights[j] : -series.weights[j]);
    combine(broadcast(weight), H, broadcast(T(1)), Y.value);
  }
  add_identity(Y.value, broadcast(T(series.constant)));
  return Y;
}

template <class T, int n, class Fractions>
FASTSQRTM_LANE LaneDerivative<T, n> derivative_of_fractions(const Fractions& series, const Symmetric<T, n>& X,
                                                            const Symmetric<T, n>& G) {
  LaneDerivative<T, n> L;
  L.along = trace(G) * T(series.constant);
  for (int j = 0; j < series.count; ++j) {
    Symmetric<T, n> R = X;
    R *= broadcast(T(series.scales[j]));
    L.good &= sweep<Swept::minus_inverse>(R);  // minus (I + H)^-1
    const Vector<T> minus_G_R = inner_product(G, R);
    L.along += T(series.weights[j]) * (series.quotient ? trace(G) + minus_G_R : -minus_G_R);
    combine(broadcast(T(series.slope(j))), congruence(G, R), broadcast(T(1)), L.matrix);
  }
  return L;
}

// With `differentiated` the steps of taylor_derivative go along.
template <bool differentiated, class T, int n, class Series>
FASTSQRTM_LANE LaneDerivative<T, n> taylor(const Series& series, const Symmetric<T, n>& X, const Symmetric<T, n>& G,
                                           Symmetric<T, n>& H) {
  const Vector<T> one = broadcast(T(1)), zero = {};
  const auto* c = series.coefficients;
  const int top = series.degree / 2;
  Symmetric<T, n> W = X, D = {}, dW2 = {};
  W *= -one;
  add_identity(W, one);
  const Symmetric<T, n> W2 = symmetric_product<T, n>(W, W);
  const Vector<T> highest = broadcast(T(series.degree % 2 ? c[2 * top + 1] : 0));
  H = linear(highest, W, zero, W);
  add_identity(H, broadcast(T(c[2 * top])));
  if (differentiated) {
    dW2 = plus_transposed(product<T, n>(W, G));
    D = linear(highest, G, zero, G);
  }
  for (int i = top - 1; i >= 0; --i) {
    const Vector<T> odd = broadcast(T(c[2 * i + 1]));
    if (differentiated) {
      const Symmetric<T, n> from_H = symmetric_product<T, n>(dW2, H), from_D = symmetric_product<T, n>(W2, D);
      for (int k = 0; k < D.entries; ++k) D.entry[k] = from_H.entry[k] + from_D.entry[k] + odd * G.entry[k];
    }
    H = linear(one, symmetric_product<T, n>(W2, H), odd, W);
    add_identity(H, broadcast(T(c[2 * i])));
  }
  if (!differentiated) return LaneDerivative<T, n>{};
  const Vector<T> along = inner_product(G, H);
  D *= -one;
  return {D, along};
}

// A function of X and its derivative along G.
template <class T, int n, bool differentiated>
struct LaneDual {
  Symmetric<T, n> value, derivative;

  FASTSQRTM_LANE static LaneDual combination(T a, const LaneDual& A, T b, const LaneDual& B, T c) {
    LaneDual C = {linear(broadcast(a), A.value, broadcast(b), B.value), {}};
    add_identity(C.value, broadcast(c));
    if (differentiated) C.derivative = linear(broadcast(a), A.derivative, broadcast(b), B.derivative);
    return C;
  }
  // A B for A and B that commute.
  FASTSQRTM_LANE static LaneDual product(const LaneDual& A, const LaneDual& B) {
    LaneDual C = {symmetric(A.value, B.value), {}};
    if (differentiated)
      C.derivative =
          linear(broadcast(T(1)), symmetric(A.derivative, B.value), broadcast(T(1)), symmetric(A.value, B.derivative));
    return C;
  }
  FASTSQRTM_LANE static LaneDual square(const LaneDual& A) {
    LaneDual C = {symmetric(A.value, A.value), {}};
    if (differentiated) C.derivative = plus_transposed(FASTSQRTM_ISA::product<T, n>(A.derivative, A.value));
    return C;
  }
  FASTSQRTM_LANE static Symmetric<T, n> symmetric(const Symmetric<T, n>& A, const Symmetric<T, n>& B) {
    return symmetric_product<T, n>(A, B);
  }
};

template <bool differentiated, class T, int n>
FASTSQRTM_LANE LaneDual<T, n, differentiated> newton_schulz(int steps, bool inverse, const Symmetric<T, n>& X,
                                                            const Symmetric<T, n>& G) {
  using Dual = LaneDual<T, n, differentiated>;
  Dual M = {X, G}, Y = M, P;
  Mask<T> done = {};
  for (int left = steps; left > 0;) {
    const bool first = left == steps, single = left % 2;
    Mask<T> last = {};
    if (single) {
      P = Dual::combination(T(-0.5), M, T(0), M, T(1.5));
    } else {
      P = Dual::combination(T(1), M, T(0), M, T(-1));  // F = M - I
      const Vector<T> size = smaller(frobenius(P.value), one_norm(P.value));
      last = ~(size * size > Limits<T>::epsilon);
      const Dual F2 = Dual::square(P);
      P = Dual::combination(T(1.0 / 16), F2, T(-5.0 / 16), M, T(11.0 / 16));
      P = Dual::product(F2, P);
      P = Dual::combination(T(1), P, T(-0.5), M, T(1.5));
    }
    left -= single ? 1 : 2;
    const Dual next = first && inverse ? P : Dual::product(Y, P);
    assign<T, n>(Y.value, ~done, next.value);
    if (differentiated) assign<T, n>(Y.derivative, ~done, next.derivative);
    done |= last;
    if (left <= 0 || !any(~done)) break;
    M = first && !inverse ? Dual::product(Y, P) : Dual::product(M, Dual::square(P));
  }
  return Y;
}

// A rational function of a matrix as it is, where that is finite, and the gradient of it.
template <class T, int n, class Fractions>
FASTSQRTM_LANE Mask<T> rational_function(const Fractions& series, const Lanes<T>& lanes) {
  const Symmetric<T, n> A = load_symmetric<T, n>(lanes.in[0]);
  const LaneSeries<T, n> f = sum_of_fractions(series, A);
  store_matrices(f.value, lanes.out[0]);
  return f.good & (frobenius(A) < Limits<T>::infinity);
}

template <class T, int n, class Fractions>
FASTSQRTM_LANE Mask<T> gradient_of_rational_function(const Fractions& series, const Lanes<T>& lanes) {
  const Symmetric<T, n> A = load_symmetric<T, n>(lanes.in[0]);
  const LaneDerivative<T, n> L = derivative_of_fractions(series, A, load_symmetric<T, n>(lanes.in[1]));
  store_matrices(L.matrix, lanes.out[0]);
  return L.good & (frobenius(A) < Limits<T>::infinity);
}

// A^power by value(X), which returns the LaneSeries at X = A/||A||_F.
template <class T, int n, class Value>
FASTSQRTM_LANE Mask<T> root_of_series(Power power, const Lanes<T>& lanes, const Value& value) {
  Symmetric<T, n> A = load_symmetric<T, n>(lanes.in[0]);
  const Scaled<T, n> scaled(A);
  const Vector<T> factor = T(1) / frobenius(A);
  A *= factor;
  LaneSeries<T, n> root = value(A);
  root.value *= power == Power::minus_half ? square_root(factor) * scaled.scale.inverse_root
                                           : square_root(T(1) / factor) * scaled.scale.root;
  store_matrices(root.value, lanes.out[0]);
  return scaled.regular & root.good;
}

// The gradient of it by derive(X, G), as gradient_of_series.
template <class T, int n, class Derive>
FASTSQRTM_LANE Mask<T> gradient_of_series(Power power, const Lanes<T>& lanes, const Derive& derive) {
  const bool inverse = power == Power::minus_half;
  Symmetric<T, n> X = load_symmetric<T, n>(lanes.in[0]);
  const Symmetric<T, n> G = load_symmetric<T, n>(lanes.in[1]);
  const Scaled<T, n> scaled(X);
  const Vector<T> factor = T(1) / frobenius(X);
  X *= factor;
  LaneDerivative<T, n> L = derive(X, G);
  const Vector<T> radial = T(inverse ? -0.5 : 0.5) * L.along - inner_product(L.matrix, X);
  combine(radial, X, broadcast(T(1)), L.matrix);
  const Vector<T> root = square_root(factor);
  for (int k = 0; k < (inverse ? 3 : 1); ++k) {
    L.matrix *= root;
    L.matrix *= scaled.scale.inverse_root;
  }
  store_matrices(L.matrix, lanes.out[0]);
  return scaled.regular & L.good;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

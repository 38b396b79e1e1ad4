// The series r(X) of the paper's forward methods at a normalised X, their derivatives L applied to a cotangent G, and
// the steps that all of them share: division by the norm, and its power applied to the result.
// Counterparts in Python: fastsqrtm/_reference/series.py.
#pragma once

#include <cmath>
#include <limits>
#include <utility>

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/memory.h"
#include "cpu/matrix/product.h"
#include "cpu/matrix/sweep.h"
#include "cpu/matrix/symmetric.h"
#include "cpu/matrix/workspace.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// A sum of partial fractions (fastsqrtm/detail/partial_fractions.h) of the X in ws[0]. Overwrites four matrices.
// Returns the one with the value, or .data = nullptr if X is too indefinite for the sum.
template <class T>
Panels<T> sum_of_fractions(const Team& team, const PartialFractions& series, const Workspace<T>& ws) {
  const Panels<T> X = ws[0], H = ws[1], Y = ws[2];
  const SweepStrips<T> strips(ws[3]);
  bool positive = true;
  for (int j = 0; j < series.count; ++j) {
    const T weight = T(series.weights[j]), keep = T(j > 0);
    combine(team, T(series.scales[j]), X, T(0), H);
    if (series.quotient) {
      positive = sweep<T, Swept::quotient>(team, H, strips) && positive;
      combine(team, weight, H, keep, Y);
    } else {
      positive = sweep<T, Swept::minus_inverse>(team, H, strips) && positive;
      combine(team, -weight, H, keep, Y);
    }
  }
  mirror(team, Y, T(1), T(series.constant));
  return positive ? Y : Panels<T>{nullptr, X.n};
}

// sum_k c_k W^k, W = I - X, by pairs: H <- W^2 H + c_2i I + c_2i+1 W. ws[0] holds X and gets W. Overwrites four
// matrices. Returns the one with the value.
template <class T>
Panels<T> taylor(const Team& team, const passes::Mtp& series, const Workspace<T>& ws) {
  const Panels<T> W = ws[0], W2 = ws[1];
  Panels<T> H = ws[2], next = ws[3];
  const double* c = series.coefficients;
  const int top = series.degree / 2;
  const bool odd = series.degree % 2;
  mirror(team, W, T(-1), T(1));
  if (top == 0) {
    combine(team, T(c[1]), W, T(0), H);
    mirror(team, H, T(1), T(c[0]));
    return H;
  }
  product(team, Triangle::lower, W, W, W2);
  mirror<T, true>(team, W2, T(1));
  // The highest pair is c_2top I + c_2top+1 W, or c_2top I alone: its product with W^2 needs one product or none.
  if (odd) product(team, Triangle::lower, W2, W, next);
  combine(team, T(c[2 * top]), W2, T(odd ? c[2 * top + 1] : 0), next);
  for (int i = top - 1;; --i) {
    mirror(team, next, T(1), W, T(c[2 * i + 1]), T(c[2 * i]));
    std::swap(H, next);
    if (i == 0) return H;
    product(team, Triangle::lower, W2, H, next);
  }
}

// The parts of an exact gradient: `matrix` is L, complete, and `along` is <G, r>. matrix.data is nullptr if X is too
// indefinite for the approximant.
template <class T>
struct Derivative {
  Panels<T> matrix;
  double along;
};

// With R = (I + H)^-1 the derivative of weight H R is weight scale R G R, and that of weight R the same, negated. Each
// is a congruence whose weight goes into R, so that the products build up the sum. ws[0] holds X and ws[1] G; both are
// kept. Five matrices in all.
template <class T>
Derivative<T> derivative_of_fractions(const Team& team, const PartialFractions& series, const Workspace<T>& ws) {
  const Panels<T> X = ws[0], G = ws[1], R = ws[2], U = ws[3], L = ws[4];
  double along = trace(G) * series.constant;
  for (int j = 0; j < series.count; ++j) {
    combine(team, T(series.scales[j]), X, T(0), R);
    if (!sweep<T, Swept::minus_inverse>(team, R, SweepStrips<T>(U))) return {{nullptr, X.n}, 0};
    mirror(team, R, T(-1));
    const double G_R = inner_product(team, G, R);
    along += series.weights[j] * (series.quotient ? trace(G) - G_R : G_R);
    combine_full(team, T(std::sqrt(std::fabs(series.slope(j)))), R, T(0), R);
    product(team, Triangle::full, G, R, U);
    product(team, Triangle::lower, R, U, L, j > 0);
  }
  mirror(team, L, T(series.slope(0) < 0 ? -1 : 1));
  return {L, along};
}

// The Horner steps of `taylor` and their derivatives: H <- W^2 H + c_2i I + c_2i+1 W with W = I - X, and
// D <- (W G + G W) H + W^2 D + c_2i+1 G. The derivative with respect to X is -D. ws[0] holds X
// and gets W, ws[1] holds G. Overwrites six matrices more.
template <class T>
Derivative<T> taylor_derivative(const Team& team, const passes::Mtp& series, const Workspace<T>& ws) {
  const Panels<T> W = ws[0], G = ws[1], W2 = ws[2], dW2 = ws[3];
  Panels<T> H = ws[4], D = ws[5], next_H = ws[6], next_D = ws[7];
  const double* c = series.coefficients;
  mirror(team, W, T(-1), T(1));
  product(team, Triangle::full, W, G, dW2);
  with_transpose(team, dW2, [](Vector<T> own, Vector<T> transposed) { return own + transposed; });
  product(team, Triangle::lower, W, W, W2);
  mirror<T, true>(team, W2, T(1));
  const int top = series.degree / 2;
  const bool odd = series.degree % 2;
  // The highest pair: c_2top I + c_2top+1 W, or c_2top I alone, which takes no product in the first step.
  combine_full(team, T(odd ? c[2 * top + 1] : 0), W, T(0), H);
  add_identity(H, T(c[2 * top]));
  combine_full(team, T(odd ? c[2 * top + 1] : 0), G, T(0), D);
  for (int i = top - 1; i >= 0; --i) {
    if (i == top - 1 && !odd) {
      combine(team, T(c[2 * top]), dW2, T(0), next_D);
      combine(team, T(c[2 * top]), W2, T(0), next_H);
    } else {
      product(team, Triangle::lower, dW2, H, next_D);
      product(team, Triangle::lower, W2, D, next_D, true);
      product(team, Triangle::lower, W2, H, next_H);
    }
    mirror(team, next_D, T(1), G, T(c[2 * i + 1]));
    mirror(team, next_H, T(1), W, T(c[2 * i + 1]), T(c[2 * i]));
    std::swap(H, next_H);
    std::swap(D, next_D);
  }
  const double along = inner_product(team, G, H);
  combine_full(team, T(-1), D, T(0), D);
  return {D, along};
}

// A^power by value(), which reads X = A/nu from ws[0] and returns the matrix with r(X).
template <class T, class Storage, class Value>
void root_of_series(const Task& task, Power power, const Workspace<T>& ws, const Team& team, const Value& value) {
  const bool inverse = power == Power::minus_half;
  Storage* target = static_cast<Storage*>(task.out[0]);
  load_symmetric<T, Storage>(team, task.in[0], ws[0]);
  double nu = frobenius(team, ws[0]);
  constexpr T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  if (nu == 0) return fill(task.n, inverse ? infinity : T(0), T(0), target);
  if (!(nu < std::numeric_limits<double>::infinity())) return fill(task.n, nan, nan, target);
  nu = normalise(team, nu, ws[0]);
  const Panels<T> root = value();
  if (!root.data) return fill(task.n, nan, nan, target);
  store_matrix(team, root, inverse ? 1 / std::sqrt(nu) : std::sqrt(nu), target);
}

// The exact gradient of A^power by a series. derive() reads X = A/nu from ws[0] and G from ws[1], returns L and leaves
// X in `X`. With <.,.> the sum of products of entries the gradient is
//   root     (L + X (<G, r>/2 - <L, X>)) / sqrt(nu)          inverse root   (L - X (<G, r>/2 + <L, X>)) / sqrt(nu)^3
template <class T, class Storage, class Derive>
void gradient_of_series(const Task& task, Power power, const Workspace<T>& ws, const Team& team, const Derive& derive) {
  const bool inverse = power == Power::minus_half;
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  Storage* target = static_cast<Storage*>(task.out[0]);
  const auto load_X = [&](const Panels<T>& X) {
    load_symmetric<T, Storage>(team, task.in[0], X);
    const double nu = frobenius(team, X);
    return nu == 0 ? 0 : normalise(team, nu, X);
  };
  Panels<T> X = ws[0];
  const double nu = load_X(X);
  if (nu == 0) return fill(task.n, T(0), T(0), target);
  load_symmetric<T, Storage>(team, task.in[1], ws[1]);
  const Derivative<T> L = derive(X, load_X);
  if (!L.matrix.data) return fill(task.n, nan, nan, target);
  const double sign = inverse ? -1 : 1;
  const double radial = sign * L.along / 2 - inner_product(team, L.matrix, X);
  combine_full(team, T(radial), X, T(1), L.matrix);
  store_matrix(team, L.matrix, 1 / (inverse ? std::sqrt(nu) * nu : std::sqrt(nu)), target);
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

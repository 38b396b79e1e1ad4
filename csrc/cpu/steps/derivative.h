// Exact gradients of the paper's two forward methods: the Frechet derivative L of the series at X = A/nu, applied to
// the cotangent. Counterparts in Python: mpa_backward and mtp_backward in fastsqrtm/reference.py.
#pragma once

#include "cpu/kernels.h"
#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/product.h"
#include "cpu/matrix/sweep.h"
#include "cpu/matrix/symmetric.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// What the gradient is made of: L, complete, where `derivative` points, and <G, value of the series>.
template <class T>
struct Frechet {
  Panels<T> derivative;
  double along;
  bool positive;
};

// With R = (X + t_j I)^-1 the derivative of w_j X R is w_j t_j R G R, and with R = (I + t_j X)^-1 that of w_j R is
// -w_j t_j R G R. Each is a congruence whose weight goes into R: the sum is built up by the products.
template <class T>
Frechet<T> pade_derivative(const Team& team, const RootMethod& method, const Panels<T>& X, const Panels<T>& G,
                           const Panels<T>& R, const Panels<T>& U, const Panels<T>& L) {
  double along = trace(G) / (2 * method.degree + 1);
  for (int j = 0; j < method.degree; ++j) {
    const double shift = method.shifts[j], weight = method.weights[j];
    combine(team, T(method.inverse ? shift : 1 / shift), X, T(0), R);
    if (!sweep<T, Swept::minus_inverse>(team, R, SweepStrips<T>(U))) return {L, 0, false};
    mirror(team, R, T(-1));  // (I + X/t)^-1 = t (X + t I)^-1 for the root
    const double G_R = inner_product(G, R);
    along += weight * (method.inverse ? G_R : trace(G) - G_R);
    const T scale = T(std::sqrt(method.inverse ? weight * shift : weight / shift));
    combine_full(team, scale, R, T(0), R);
    product(team, Triangle::full, G, R, U);
    product(team, Triangle::lower, R, U, L, j > 0);
  }
  mirror(team, L, T(method.inverse ? -1 : 1));
  return {L, along, true};
}

// The Horner steps of `taylor` and their derivatives: H <- W^2 H + c_2i I + c_2i+1 W with W = I - X, and
// D <- (W G + G W) H + W^2 D + c_2i+1 G. The derivative with respect to X is -D. Turns X into W; the other six matrices
// are workspace.
template <class T>
Frechet<T> taylor_derivative(const Team& team, const RootMethod& method, const Panels<T>& X, const Panels<T>& G,
                             const Panels<T>& W2, const Panels<T>& dW2, Panels<T> H, Panels<T> D, Panels<T> next_H,
                             Panels<T> next_D) {
  const Panels<T>& W = X;
  const double* c = method.coefficients;
  mirror(team, W, T(-1), T(1));
  product(team, Triangle::full, W, G, dW2);
  with_transpose(team, dW2, [](Vector<T> own, Vector<T> transposed) { return own + transposed; });
  product(team, Triangle::lower, W, W, W2);
  mirror<T, true>(team, W2, T(1));
  const int top = method.degree / 2;
  const bool odd = method.degree % 2;
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
  const double along = inner_product(G, H);
  combine_full(team, T(-1), D, T(0), D);
  return {D, along, true};
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

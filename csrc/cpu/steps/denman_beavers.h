// The accurate roots: Zolotarev's approximation, then the coupled steps of Denman and Beavers. The scalars and sources
// are in csrc/scalars/zolotarev.h. Counterpart in Python: newton_roots in fastsqrtm/_reference/roots.py.
#pragma once

#include "cpu/matrix/workspace.h"
#include "cpu/steps/inverse.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// W <- -P^-1, on and under the diagonal. Large matrices as -(I + (P/c - I))^-1/c with c the mean eigenvalue: where most
// eigenvalues are near the largest, as of kernel matrices with noise, the diagonal would otherwise take the same
// rounding again and again, to the same side.
template <class T>
bool minus_inverse_about_mean(const Team& team, const Panels<T>& P, const Panels<T>& W, const SweepStrips<T>& strips) {
  if (P.n <= 256) return minus_inverse(team, P, W, strips);
  const T factor = T(P.n / trace(P));
  combine(team, factor, P, T(0), W);
  add_identity(W, T(-1));
  if (!sweep<T, Swept::minus_inverse>(team, W, strips)) return false;
  combine(team, factor, W, T(0), W);
  return true;
}

struct Wanted {
  bool root, inverse;
};

// The first terms of X = c A + sum_j w_j (I + H_j) and Y = c I - sum_j w_j/t_j H_j with H_j = -(I + A/t_j)^-1. X and Y
// take the places of two of the terms.
constexpr int most_first_terms = 3;
template <int count, class T>
bool first_terms(const Team& team, const RootDesign& design, const Panels<T>& A,
                 const Panels<T> (&terms)[most_first_terms], const SweepStrips<T>& strips) {
  struct Numbers {
    T constant, inverse_shift[count], weight[count], weight_over_shift[count];
    T* data[count];
  } given = {T(design.constant), {}, {}, {}, {}};
  for (int j = 0; j < count; ++j) {
    given.inverse_shift[j] = T(design.inverse_shift(j));
    given.weight[j] = T(design.weights[j]);
    given.weight_over_shift[j] = T(design.weight_over_shift(j));
    given.data[j] = terms[j].data;
  }
  each_lower(team, A, [given, a = A.data](int64_t at) {
    const Vector<T> x = load(a + at);
#pragma GCC unroll 3
    for (int j = 0; j < count; ++j) store(given.data[j] + at, given.inverse_shift[j] * x);
  });
  for (int j = 0; j < count; ++j)
    if (!sweep<T, Swept::minus_inverse>(team, terms[j], strips)) return false;
  T* diagonal = strips.eliminated;  // of X: 1 + h rounds nothing where h is near -1
  for (int i = 0; i < A.n; ++i) {
    diagonal[i] = given.constant * *A.at(i, i);
    for (int j = 0; j < count; ++j) diagonal[i] += given.weight[j] * (1 + *terms[j].at(i, i));
  }
  const Panels<T>&X = terms[0], &Y = terms[1];
  each_lower(team, A, [given, a = A.data, X = X.data, Y = Y.data](int64_t at) {
    Vector<T> x = given.constant * load(a + at), y = {};
#pragma GCC unroll 3
    for (int j = 0; j < count; ++j) {
      const Vector<T> h = load(given.data[j] + at);
      x += given.weight[j] * h;
      y -= given.weight_over_shift[j] * h;
    }
    store(X + at, x);
    store(Y + at, y);
  });
  for (int i = 0; i < A.n; ++i) *X.at(i, i) = diagonal[i];
  add_identity(Y, given.constant);
  return true;
}

// X ~ A^(1/2) in ws[1] and Y ~ A^(-1/2) in ws[2], on and under the diagonal, for the A in ws[0] with eigenvalues up to
// 1. The last step computes only the roots asked for. Overwrites the five matrices. Returns false if A is singular or
// not positive definite in this precision.
template <class T>
bool newton_roots(const Team& team, const RootDesign& design, Wanted wanted, const Workspace<T>& ws) {
  const Panels<T> A = ws[0], X = ws[1], Y = ws[2], H = ws[3];
  const SweepStrips<T> strips(ws[4]);
  const Panels<T> terms[most_first_terms] = {X, Y, H};
  if (!(design.poles == 1   ? first_terms<1>(team, design, A, terms, strips)
        : design.poles == 2 ? first_terms<2>(team, design, A, terms, strips)
                            : first_terms<3>(team, design, A, terms, strips)))
    return false;
  for (int j = most_first_terms; j < design.poles; ++j) {
    combine(team, T(design.inverse_shift(j)), A, T(0), H);
    if (!sweep<T, Swept::minus_inverse>(team, H, strips)) return false;
    combine(team, T(design.weights[j]), H, T(1), X);
    add_identity(X, T(design.weights[j]));
    combine(team, T(-design.weight_over_shift(j)), H, T(1), Y);
  }
  const Panels<T>& minus_X_inverse = A;
  const Panels<T>& minus_Y_inverse = H;
  // How many steps more A needs, where its smallest eigenvalue lies below the interval of the design; -1 if it counts
  // as singular, in units of its largest eigenvalue. ||A|| <= 1 may be an overestimate by far.
  const auto further_steps = [&] {
    const double precision = singular_eigenvalue(sizeof(T)), regular = largest_regular_inverse(design, sizeof(T));
    if (sum_of_squares(minus_X_inverse) <= regular * regular) return 0;
    mirror(team, minus_X_inverse, T(1));
    const double inverse = spectral_estimate(minus_X_inverse, 4, strips.eliminated);
    if (inverse <= regular) return 0;
    mirror(team, X, T(1));
    const double root = spectral_estimate(X, 4, strips.eliminated);
    if (!(inverse <= design.largest_inverse(precision * root * root))) return -1;
    for (int more = 1; more <= 2; ++more)
      if (inverse <= design.largest_inverse(design.deepest[more])) return more;
    return -1;
  };
  int steps = design.newton_steps;
  for (int k = 0; k < steps; ++k) {
    const auto next = [&](bool of_wanted) { return k + 1 < steps || of_wanted; };
    const bool next_Y = next(wanted.inverse);
    if (next_Y && !minus_inverse(team, X, minus_X_inverse, strips)) return false;
    if (k == 0 && next_Y) {
      const int further = further_steps();
      if (further < 0) return false;
      steps += further;
    }
    const bool next_X = next(wanted.root);
    if (next_X && !minus_inverse_about_mean(team, Y, minus_Y_inverse, strips)) return false;
    const T half = T(design.half_scale(k));
    if (next_X) combine(team, -half, minus_Y_inverse, half, X);
    if (next_Y) combine(team, -half, minus_X_inverse, half, Y);
  }
  return true;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

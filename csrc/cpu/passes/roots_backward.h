// The gradient for the cotangents G of S = A^(1/2) and H of Z = A^(-1/2): S X + X S = sym(G) - Z sym(H) Z. An absent S
// is computed as the inverse of Z. One of G and H is enough.
#pragma once

#include "cpu/steps/jacobi.h"
#include "cpu/steps/lanes_lyapunov.h"
#include "cpu/steps/newton_lyapunov.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// False where invert_root might replace eigenvalues of B, which has Frobenius norm 1 and the inverse W: by bounds of
// the spectral norms.
template <class T, int n>
FASTSQRTM_LANE Mask<T> is_regular_root(const Symmetric<T, n>& B, const Symmetric<T, n>& W) {
  Mask<T> regular = inner_product(W, W) * Limits<T>::epsilon <= 1;
  if constexpr (n > largest_unrolled_order)
    if (any(~regular)) {
      const Vector<T> of_B = frobenius(symmetric_product<T, n>(B, B)), of_W = frobenius(symmetric_product<T, n>(W, W));
      regular |= of_B * of_W * Limits<T>::epsilon <= 1;
    }
  return regular;
}

struct RootsBackward {
  using Arguments = passes::RootsBackward;
  static constexpr int matrices = 5;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    constexpr T nan = std::numeric_limits<T>::quiet_NaN();
    const MatrixIn &S = task.in[0], &Z = task.in[1], &G = task.in[2], &H = task.in[3];
    const Panels<T> B = ws[0], W = ws[1], C = ws[2], U = ws[3], V = ws[4];
    Storage* target = static_cast<Storage*>(task.out[0]);
    // B = S/s with s the norm of S, or W = s Z with 1/s that of Z.
    const Panels<T>& given = S.data ? B : W;
    load_symmetric<T, Storage>(team, S.data ? S : Z, given);
    double s = !S.data && is_infinite_root(given) ? 0 : frobenius(team, given);
    if (s == 0) return fill(task.n, T(0), T(0), target);
    if (!(s < std::numeric_limits<double>::infinity())) return fill(task.n, nan, nan, target);
    s = normalise(team, s, given);
    if (!S.data) s = 1 / s;
    double scale = 1 / s;
    if (H.data) {
      if (S.data) {
        load_symmetric<T, Storage>(team, Z, W);
        combine_full(team, T(s), W, T(0), W);
      }
      load_symmetric<T, Storage>(team, H, C);
      product(team, Triangle::full, C, W, U);
      product(team, Triangle::lower, W, U, V);
      if (G.data) {
        load_symmetric<T, Storage>(team, G, C);
        mirror(team, V, T(-1 / (s * s)), C, T(1));
      } else {
        mirror(team, V, T(-1));
        scale /= s * s;
      }
      copy(team, V, C);
    } else {
      load_symmetric<T, Storage>(team, G, C);
    }
    constexpr double unit = ridge_unit<T>(element_of<Storage>);
    const SweepStrips<T> strips(U);
    if (!(S.data ? invert_root(team, unit, B, W, strips) : invert(team, unit, W, B, strips)))
      return fill(task.n, nan, nan, target);
    const Panels<T> X = solve_newton(team, arguments.tolerance, T(1), ws);
    if (!X.data) return fill(task.n, nan, nan, target);
    store_matrix(team, X, scale, target);
  }

  // Roots of full rank by an elimination or by Newton steps, 2 x 2 matrices in closed form. Singular ones go by their
  // eigenvalues, as invert_root replaces them.
  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes([[maybe_unused]] const Told& arguments, const Lanes<T>& lanes) {
    const GroupIn<T>&S = lanes.in[0], &Z = lanes.in[1], &G = lanes.in[2], &H = lanes.in[3];
    Symmetric<T, n> B = load_symmetric<T, n>(S ? S : Z);
    const Scaled<T, n> scaled(B);
    const Vector<T>& inverse = scaled.scale.inverse;
    Symmetric<T, n> C = load_symmetric<T, n>(G ? G : H);
    if (S && H) {
      Symmetric<T, n> W = load_symmetric<T, n>(Z);
      W *= scaled.scale.value;
      W = congruence(load_symmetric<T, n>(H), W);
      for (int i = 0; i < C.entries; ++i) C.entry[i] -= W.entry[i] * inverse * inverse;
    }
    Symmetric<T, n> X = {};
    Mask<T> plain = {}, done = scaled.regular;
    if constexpr (n == 2)
      if (S) {
        const Symmetric<T, n> adjugate = {{{}, {B.entry[2], -B.entry[1], B.entry[0]}}};
        const Vector<T> trace = B(0, 0) + B(1, 1), determinant = B(0, 0) * B(1, 1) - B(1, 0) * B(1, 0);
        plain = scaled.regular & (trace > 0) & (determinant > 2 * root_floor<T>() * trace * trace);
        X = congruence(C, adjugate);
        const Vector<T> factor = T(0.5) * inverse / (trace * determinant);
        for (int i = 0; i < C.entries; ++i) X.entry[i] = (X.entry[i] + determinant * C.entry[i]) * factor;
      }
    if constexpr (n > 2) {
      // B = S/s or s Z, and W its inverse. With Z, S X + X S = -Z H Z is Z T + T Z = -Z H Z for X = Z T Z, and the
      // errors that T has in the directions of small eigenvalues do not show in X.
      constexpr bool eliminated = n <= largest_eliminated_order;
      const Vector<T> factor = T(1) / frobenius(B);
      Symmetric<T, n> normalised = times(factor, B), W;
      plain = scaled.regular & minus_inverse(normalised, W);
      plain &= is_regular_root(normalised, W);
      // The solvers overwrite their right side. Up to n = 8 singular lanes need C once more.
      constexpr bool needs_C = n <= largest_unrolled_order;
      Symmetric<T, n> other_side;
      if (!S)
        other_side = congruence(C, normalised);
      else if (needs_C)
        other_side = C;
      Symmetric<T, n>& right_side = S && !needs_C ? C : other_side;
      if constexpr (eliminated) {
        X = solve_by_elimination(normalised, right_side);
        if (!S) X = congruence(X, normalised);
      } else {
        if (!S) W *= broadcast(T(-1));
        plain &=
            solve_newton(T(arguments.tolerance), T(S ? -1 : 1), S ? normalised : W, S ? W : normalised, right_side, X);
      }
      if (S) {
        X *= factor * inverse;
      } else {
        for (int power = 0; power < 3; ++power) X *= scaled.scale.value / factor;
        X *= broadcast(T(-1));
      }
    }
    if constexpr (n > largest_unrolled_order) {
      done = plain;
    } else if (any(~plain)) {
      LaneEigen<T, n> eigen = jacobi(B);
      Vector<T>* b = eigen.values;
      Symmetric<T, n> other = congruence(C, eigen.V);
      if (S) {
        constexpr bool one_lane = Simd<T>::lanes == 1;  // decides as the kernels for one matrix do on CUDA
        const Vector<T> least = root_floor<T>() * (one_lane ? frobenius(B) : eigen.size);
        add_ridge(lanes.ridge_unit, T(-0.5) * least, eigen);
        Mask<T> singular = eigen.smallest < least;
        if constexpr (one_lane) {
          Vector<T> inverse_trace = {}, inverse_squares = {};
          for (int k = 0; k < n; ++k) {
            const Vector<T> inverse_value = T(1) / b[k];
            inverse_trace += inverse_value;
            inverse_squares += inverse_value * inverse_value;
          }
          singular = ~((eigen.smallest > 0) & (inverse_squares * (least * T(0.25)) <= inverse_trace));
        }
        done &= plain | (eigen.smallest > T(-0.5) * least);
        if (any(singular))
          for (int k = 0; k < n; ++k) b[k] = singular ? b[k] + least * least / (b[k] + least) : b[k];
        for (int i = 0; i < n; ++i)
          for (int j = 0; j <= i; ++j) other(i, j) *= T(1) / (b[i] + b[j]);
      } else {
        const Vector<T> least = 8 * Limits<T>::epsilon * eigen.size;
        add_ridge(lanes.ridge_unit, least, eigen);
        done &= plain | (eigen.smallest > least);
        for (int i = 0; i < n; ++i)
          for (int j = 0; j <= i; ++j) other(i, j) *= -b[i] * b[i] * b[j] * b[j] / (b[i] + b[j]);
      }
      other = congruence(other, Transposed<Square<T, n>>{eigen.V});
      if (S)
        other *= inverse;
      else
        for (int power = 0; power < 3; ++power) other *= scaled.scale.value;
      for (int i = 0; i < C.entries; ++i) X.entry[i] = plain ? X.entry[i] : other.entry[i];
      if (S) {
        done |= scaled.zero;
        for (auto& x : X.entry) x = scaled.zero ? Vector<T>{} : x;
      }
    }
    store_matrices(X, lanes.out[0]);
    return done;
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

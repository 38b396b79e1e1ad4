// A -> A^(1/2) and A^(-1/2), either or both, as accurately as the design says. A matrix that turns out to be singular
// or indefinite in this precision starts again, by its eigenvalues.
#pragma once

#include "cpu/steps/denman_beavers.h"
#include "cpu/steps/jacobi.h"
#include "cpu/steps/lanes_roots.h"
#include "cpu/steps/spectral.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct Roots {
  using Arguments = passes::Roots;
  static constexpr int matrices = 5;  // of workspace
  static constexpr bool adds_to_output = false;

  template <class T, class Storage>
  static void run(const Task& task, const Arguments& arguments, const Workspace<T>& ws, const Team& team) {
    constexpr T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
    Storage *root_target = static_cast<Storage*>(task.out[0]), *inverse_target = static_cast<Storage*>(task.out[1]);
    const auto fill_both = [&](T root_diagonal, T inverse_diagonal, T off_diagonal) {
      if (root_target) fill(task.n, root_diagonal, off_diagonal, root_target);
      if (inverse_target) fill(task.n, inverse_diagonal, off_diagonal, inverse_target);
    };
    const Wanted wanted = {root_target != nullptr, inverse_target != nullptr};
    const Panels<T> A = ws[0], S = ws[1];
    Panels<T> Z = ws[2];
    double nu = 0;
    const auto load = [&] {
      load_symmetric<T, Storage>(team, task.in[0], A);
      nu = frobenius(team, A);
    };
    load();
    if (nu == 0) return fill_both(T(0), infinity, T(0));
    if (!(nu < std::numeric_limits<double>::infinity())) return fill_both(nan, nan, nan);
    if (is_diagonal(A)) {
      SpectralRoots<T> roots;
      for (int i = 0; i < task.n; ++i) roots.add(*A.at(i, i));
      if (!roots.exist()) return fill_both(nan, nan, nan);
      fill_both(T(0), T(0), T(0));
      for (int64_t i = 0; i < task.n; ++i) {
        const T w = *A.at(int(i), int(i));
        if (root_target) encode(roots.root(w), root_target[i * task.n + i]);
        if (inverse_target) encode(roots.inverse(w), inverse_target[i * task.n + i]);
      }
      return;
    }
    bool done = false;
    double trace_of_A = 0;
    const bool tiny = task.n <= largest_spectral_order;
    if (!tiny) {
      nu = normalise(team, nu, A);
      const double tighter = one_norm(team, A);  // a bound of the largest eigenvalue, as the Frobenius norm is
      if (tighter < 1) nu *= normalise(team, tighter, A);
      trace_of_A = trace(A);
      done = newton_roots(team, arguments.design, wanted, ws);
    }
    double unbiased = 1;
    if (done) {
      // The error of the design is largest at the largest eigenvalue, always to the same side: the trace shows it.
      if (wanted.root) unbiased = std::sqrt(trace_of_A / sum_of_squares(S));
      if (!(std::fabs(unbiased - 1) <= 2 * arguments.design.error)) unbiased = 1;
      if (wanted.root) mirror(team, S, T(1));
      if (wanted.inverse) mirror(team, Z, T(1));
    } else {
      // By a power of two, which rounds nothing: the smallest eigenvalues are as small as the rounding of the entries.
      if (!tiny) load();
      nu = normalise(team, std::exp2(std::floor(std::log2(nu))), A);
      if (!spectral_roots(team, wanted, ws)) return fill_both(nan, nan, nan);
      Z = ws[3];
    }
    if (wanted.root) store_matrix(team, S, std::sqrt(nu) * unbiased, root_target);
    if (wanted.inverse) store_matrix(team, Z, 1 / std::sqrt(nu), inverse_target);
  }

  // All matrices from 3 x 3 on take the steps above: side by side they are two to four times as fast as the rotations.
  // Diagonal and singular ones go by their eigenvalues; the other 2 x 2 matrices have a closed form.
  template <class T, int n, class Told>
  FASTSQRTM_LANE static Mask<T> run_lanes([[maybe_unused]] const Told& arguments, const Lanes<T>& lanes) {
    using Limits = fastsqrtm::Limits<T>;
    Symmetric<T, n> A = load_symmetric<T, n>(lanes.in[0]);
    const Scaled<T, n> scaled(A);
    Mask<T> plain = {}, done = all_lanes<T>();
    Symmetric<T, n> S = {}, Z = {};
    if constexpr (n == 2) {
      const Vector<T> trace = A(0, 0) + A(1, 1), determinant = A(0, 0) * A(1, 1) - A(1, 0) * A(1, 0);
      plain = scaled.regular & (A(1, 0) != 0) & (trace > 0) & (determinant > 8 * Limits::epsilon * trace * trace);
      const Vector<T> both = square_root(determinant), factor = T(1) / square_root(trace + 2 * both);
      S.entry[0] = A(0, 0) + both;
      S.entry[1] = A(1, 0);
      S.entry[2] = A(1, 1) + both;
      if (lanes.out[1]) {
        Z.entry[0] = S.entry[2];
        Z.entry[1] = -A(1, 0);
        Z.entry[2] = S.entry[0];
        Z *= factor / both * scaled.scale.inverse_root;
      }
      S *= factor * scaled.scale.root;
    }
    if constexpr (n > 2) {
      const Vector<T> norm = smaller(frobenius(A), one_norm(A)), factor = T(1) / norm;
      const Symmetric<T, n> normalised = times(factor, A);
      const Wanted wanted = {lanes.out[0] != nullptr, lanes.out[1] != nullptr};
      plain = scaled.regular & ~is_diagonal(A) & newton_roots(arguments.design, wanted, normalised, S, Z);
      if (wanted.root) {  // the error of the design is to one side, as above
        const Vector<T> excess = excess_of_trace(normalised, S), one = broadcast(T(1));
        const Vector<T> unbiased = absolute(excess) <= T(4 * arguments.design.error) ? one + excess : one;
        S *= square_root(unbiased * norm) * scaled.scale.root;
      }
      if (wanted.inverse) Z *= square_root(factor) * scaled.scale.inverse_root;
    }
    if constexpr (n > largest_unrolled_order) {
      done = plain;
    } else if (any(~plain)) {
      const LaneEigen<T, n> eigen = jacobi(A);
      const Mask<T> exists = scaled.regular & (eigen.smallest >= T(-largest_negative) * eigen.size);
      const auto complete = [&](const Vector<T>* f, Vector<T> factor, T diagonal_of_zero, Symmetric<T, n>& root) {
        Symmetric<T, n> other = from_eigen(eigen.V, f);
        for (int i = 0; i < n; ++i)
          for (int j = 0; j <= i; ++j) {
            const Vector<T> known =
                scaled.zero ? broadcast(i == j ? diagonal_of_zero : T(0)) : broadcast(Limits::quiet_NaN);
            other(i, j) = exists ? other(i, j) * factor : known;
            root(i, j) = plain ? root(i, j) : other(i, j);
          }
      };
      Vector<T> f[n];
      for (int k = 0; k < n; ++k) f[k] = square_root(larger(eigen.values[k], Vector<T>{}));
      if (lanes.out[0]) {
        // The rotations lengthen the eigenvectors a little. The root of a diagonal matrix is exact.
        const Vector<T> excess = excess_of_trace(A, from_eigen(eigen.V, f));
        const Mask<T> turned = (absolute(excess) <= 16 * n * Limits::epsilon) & ~is_diagonal(A);
        complete(f, turned ? square_root(T(1) + excess) * scaled.scale.root : scaled.scale.root, T(0), S);
      }
      for (int k = 0; k < n; ++k) f[k] = T(1) / square_root(larger(eigen.values[k], Limits::epsilon * eigen.size));
      if (lanes.out[1]) complete(f, scaled.scale.inverse_root, Limits::infinity, Z);
    }
    if (lanes.out[0]) store_matrices(S, lanes.out[0]);
    if (lanes.out[1]) store_matrices(Z, lanes.out[1]);
    return done;
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// Ridges, inverses and Newton steps of the accurate passes on the path for large matrices. Inverses are batched
// Cholesky factorisations and triangular solves of the identity.
//
// The host launches a fixed number of steps; a matrix that needs fewer stays as it is from there on. No solve is
// repeated to try a ridge: a factorisation, a third of a product, shows beforehand which ridge a matrix needs.
#pragma once

#include "cuda/library/large.h"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace cuda {

template <class Large>
class NewtonSteps {
  using T = typename Large::scalar;

 public:
  // `terms`: matrices factored at once for each matrix of the batch.
  NewtonSteps(Large& large, int64_t terms)
      : large_(large),
        n_(large.n),
        batch_(large.batch),
        sums_(large.template take<ColumnSums<T>>(batch_ * n_)),
        states_(large.template take<NewtonState<T>>(batch_)),
        f_(large.factorisations(terms)) {}

  const Factorisations<T>& factorisations() const { return f_; }
  const NewtonState<T>* states() const { return states_; }

  // The initial state of A, whose root is taken, with A divided by a bound of its largest eigenvalue.
  void begin_roots(T* a) {
    with_sums(a, &begin_roots_kernel<T>);
    large_.elements(batch_, &divide_by_bound_kernel<T>, a, batch_, n_, states_);
  }

  // Marks the matrices whose inverse has an estimated norm of more than `largest`.
  void find_singular(const T* inverse, T largest) { with_sums(inverse, &singular_inverse_kernel<T>, largest); }

  // The factor of the roots X, which takes the error of the design away.
  void find_factor(const T* x, T error) { with_sums(x, &factor_kernel<T>, error); }

  // The initial state of the matrix that a Lyapunov equation has.
  void begin(const T* matrix) { with_sums(matrix, &begin_newton_kernel<T>, ridge_unit<T>(large_.problem().element)); }

  // Adds to M the ridge that makes it invertible.
  void add_ridge(T* matrix, T* factor) {
    find_ridge(matrix, T(0), ridge_count, factor);
    large_.elements(batch_, &add_ridge_kernel<T>, matrix, batch_, n_, states_, T(0), matrix);
  }

  // Where the root M is singular, M <- M + floor^2 (M + floor I)^-1. If rounding to a half type has left M + floor I
  // indefinite, M gets a ridge first; other roundings are smaller than the floor. The other three are workspace.
  void lift_singular(T* matrix, T* factor, T* right, T* shifted) {
    constexpr T floor = root_floor<T>();
    invert(matrix, factor, right, shifted);
    find_singular(shifted, T(4) / floor);
    const Element element = large_.problem().element;
    const bool half = element == Element::float16 || element == Element::bfloat16;
    find_ridge(matrix, floor, half ? ridge_count : 1, factor);
    large_.elements(batch_, &add_ridge_kernel<T>, matrix, batch_, n_, states_, floor, shifted);
    invert(shifted, factor, right, shifted);
    large_.elements(batch_, &lift_kernel<T>, matrix, batch_, n_, states_, floor, shifted);
  }

  void invert(const T* matrix, T* factor, T* right, T* out) {
    large_.elements(batch_, &inverse_kernel<T>, matrix, batch_, n_, factor, right, f_.factors, f_.rights);
    large_.solve(f_, batch_);
    large_.tiles(&add_inverse_kernel<T>, right, f_.info, n_, T(0), T(1), out);
  }

  // Returns a pointer to X with B X + X B = C. W = B^-1; u and v are workspace.
  const T* solve(T* b, T* w, T* c, T* u, T* v, T tolerance) {
    // Condition numbers of B of 1e4 and 1e7 need one step less.
    constexpr int steps = sizeof(T) == 8 ? 8 : 6;
    with_sums(b, &begin_steps_kernel<T>);
    for (int step = 1;; ++step) {
      with_sums(w, &scaling_kernel<T>);
      large_.gemm(1, c, w, 0, u);
      large_.gemm(1, w, u, 0, v);
      large_.elements(batch_, &newton_step_kernel<T>, c, v, b, w, batch_, n_, states_);
      with_sums(b, &progress_kernel<T>, tolerance);
      if (step == steps) break;
      invert(b, v, u, w);
    }
    // X <- C' - (E X + X E) twice, with C' = C / (2 theta) and E = (B - theta I) / (2 theta).
    large_.elements(batch_, &corrections_kernel<T>, b, c, batch_, n_, states_);
    const T* x = c;
    for (T* next : {u, v}) {
      large_.elements(batch_, &copy_kernel<T>, c, batch_, n_, next);
      large_.gemm(-1, b, x, 1, next);
      large_.gemm(-1, x, b, 1, next);
      x = next;
    }
    return x;
  }

 private:
  // Finds the first of `attempts` ridges that makes M + shift I positive definite, one on top of the other as the CPU
  // does.
  void find_ridge(const T* matrix, T shift, int attempts, T* factor) {
    int sum = 0;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      sum += ridge_of(attempt);
      const T ridge = static_cast<T>(sum);
      large_.elements(batch_, &ridge_trial_kernel<T>, matrix, batch_, n_, states_, shift, ridge, factor, f_.factors);
      large_.library().factor(f_.factors, f_.info, n_, batch_);
      large_.library().run(&ridge_choice_kernel<T>, (batch_ + 255) / 256, 1, 256, 1, 0, f_.info, batch_, ridge,
                           states_);
    }
  }

  // Runs a kernel with a block for each matrix on the column sums of `matrix`.
  template <class Kernel, class... Arguments>
  void with_sums(const T* matrix, Kernel kernel, const Arguments&... arguments) {
    large_.library().run(&column_sums_kernel<T>, (n_ + tile_edge - 1) / tile_edge, batch_, tile_edge, tile_rows,
                         2 * tile_edge * tile_rows * sizeof(T), matrix, n_, sums_);
    large_.library().run(kernel, batch_, 1, norm_threads, 1, norm_threads * sizeof(T), sums_, n_, arguments...,
                         states_);
  }

  Large& large_;
  const int n_;
  const int64_t batch_;
  ColumnSums<T>* sums_;
  NewtonState<T>* states_;
  Factorisations<T> f_;
};

}  // namespace cuda
}  // namespace fastsqrtm

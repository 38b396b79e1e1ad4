// The accurate methods for matrices that do not fit a block: the order of the steps, as in large.h. Inverses are
// batched Cholesky factorisations and triangular solves of the identity.
//
// The host asks for a fixed number of steps; the matrices that need fewer are left alone from there on. Ridges are not
// tried by passes of their own: a factorisation, a third of a product, tells beforehand which one a matrix needs.
//
// Library, beside what large.h has: factor(factors, info, n, count)    Cholesky alone
#pragma once

#include "cuda/library/library.h"
#include "cuda/library/newton_kernels.cuh"

namespace fastsqrtm {
namespace cuda {

template <typename T, class Library>
class LargeNewton : private Large<T, Library> {
  using Base = Large<T, Library>;
  using Base::batch_;
  using Base::elements;
  using Base::find_norms;
  using Base::gemm;
  using Base::library_;
  using Base::matrices;
  using Base::n_;
  using Base::norms_;
  using Base::scale;
  using Base::symmetrise;
  using Base::tiles;

 public:
  LargeNewton(Library& library, Fused op, const Problem& problem, int poles, void* workspace)
      : Base(library, {op, problem, {}, {}, {}, poles, 1, false}, workspace) {
    const int64_t terms = large_terms(op, poles);
    sums_ = this->template take<ColumnSums<T>>(batch_ * n_);
    states_ = this->template take<NewtonState<T>>(batch_);
    factors_ = this->template take<T*>(batch_ * terms);
    rights_ = this->template take<T*>(batch_ * terms);
    info_ = this->template take<int>(batch_ * terms);
  }

  void accurate_roots(const AccurateRootsArguments<T>& arguments) {
    const int64_t poles = arguments.poles, size = static_cast<int64_t>(n_) * n_;
    T* a = matrices();
    T* x = matrices(2);
    T* y = x + batch_ * size;
    T* factor = matrices(large_terms(Fused::accurate_roots, arguments.poles));
    T* right = matrices(large_terms(Fused::accurate_roots, arguments.poles));
    symmetrise(arguments.a, a);
    find_norms();
    scale(a, Scale::inverse_norm, T(1), T(0));
    begin(a, true);
    // The guard keeps A far enough from singular that X and Y stay definite by rounding as well.
    constexpr T guard = 2;
    for (int attempt = 0; attempt < ridge_count; ++attempt) {
      const T ridge =
          attempt + 1 == ridge_count ? arguments.last_ridge / machine_epsilon<T>() : static_cast<T>(ridge_of(attempt));
      try_ridge(a, ridge - guard, ridge, factor);
    }
    elements(batch_, &add_ridge_kernel<T>, a, batch_, n_, states());
    elements(batch_ * poles, &pole_kernel<T>, arguments, static_cast<const T*>(a), factor, right, factors_, rights_);
    library_.solve(factors_, rights_, info_, n_, batch_ * poles);
    for (const bool inverse : {false, true}) {
      tiles(&poles_sum_kernel<T>, arguments, static_cast<const T*>(a), static_cast<const T*>(right), info(), inverse,
            inverse ? y : x);
    }
    for (int k = 0; k < arguments.newton_steps; ++k) {
      const bool last = k + 1 == arguments.newton_steps;
      const bool next_x = !last || arguments.root, next_y = !last || arguments.inverse;
      const T half = arguments.half_scale[k];
      // X and Y lie one after the other, and so do their inverses.
      const int64_t first = next_y ? 0 : batch_, count = next_x && next_y ? 2 * batch_ : batch_;
      elements(2 * batch_, &inverse_kernel<T>, static_cast<const T*>(x), 2 * batch_, n_, factor, right, factors_,
               rights_);
      library_.solve(factors_ + first, rights_ + first, info_ + first, n_, count);
      if (next_x) {
        tiles(&add_inverse_kernel<T>, static_cast<const T*>(right + batch_ * size), info() + batch_, n_, half, half, x);
      }
      if (next_y) tiles(&add_inverse_kernel<T>, static_cast<const T*>(right), info(), n_, half, half, y);
    }
    const int parts = arguments.root && arguments.inverse ? 2 : 1;
    for (int part = 0; part < parts; ++part) {
      const bool inverse = part == 1 || !arguments.root;
      elements(batch_, &store_roots_kernel<T>, arguments.problem, static_cast<const T*>(inverse ? y : x),
               static_cast<const Norm<T>*>(norms_), states(), inverse, part, parts);
    }
  }

  void accurate_backward(const AccurateBackwardArguments& arguments) {
    const bool has_root = arguments.root.data != nullptr, has_inverse = arguments.inverse_root.data != nullptr;
    T* b = matrices();
    T* w = matrices();
    T* c = matrices();
    T* u = matrices();
    T* v = matrices();
    int* infinite = this->template take<int>(batch_);
    T* given = has_root ? b : w;
    symmetrise(has_root ? arguments.root : arguments.inverse_root, given);
    find_norms();
    library_.run(&infinite_identity_kernel<T>, 1, batch_, norm_threads, 1, 0, static_cast<const T*>(given), n_,
                 infinite);
    scale(given, Scale::inverse_norm, T(1), T(0));
    begin(given, false);
    if (has_root && has_inverse) {
      symmetrise(arguments.inverse_root, w);
      scale(w, Scale::norm, T(1), T(0));
    }
    // B X + X B = G/s - W H W / s^3 for X itself, and for X / z^3 where Z alone is given.
    if (has_inverse) {
      symmetrise(arguments.inverse_cotangent, v);
      gemm(1, v, w, 0, u);
      gemm(-1, w, u, 0, has_root ? v : c);
    }
    if (has_root) {
      symmetrise(arguments.root_cotangent, c);
      if (has_inverse) {
        elements(batch_, &add_normalised_kernel<T>, static_cast<const T*>(v), batch_, n_,
                 static_cast<const Norm<T>*>(norms_), c);
      }
      scale(c, Scale::inverse_norm, T(1), T(0));
    }
    find_ridge(given, v);
    invert(given, v, u, has_root ? w : b);
    const T* x = solve(b, w, c, u, v, static_cast<T>(arguments.tolerance));
    FinishArguments<T> finish = this->finish_arguments(x, has_root ? Finish::gradient : Finish::inverse_gradient);
    finish.is_zero_gradient = infinite;
    tiles(&finish_kernel<T>, finish);
  }

  // Any C: W C W needs no symmetry.
  void lyapunov_newton(const LyapunovNewtonArguments& arguments) {
    T* b = matrices();
    T* w = matrices();
    T* c = matrices();
    T* u = matrices();
    T* v = matrices();
    symmetrise(arguments.b, b);
    find_norms();
    scale(b, Scale::inverse_norm, T(1), T(0));
    begin(b, false);
    find_ridge(b, v);
    invert(b, v, u, w);
    elements(batch_, &load_kernel<T>, arguments.problem, arguments.c, c, static_cast<const Norm<T>*>(norms_),
             Scale::inverse_norm);
    const T* x = solve(b, w, c, u, v, static_cast<T>(arguments.tolerance));
    tiles(&finish_kernel<T>, this->finish_arguments(x, Finish::plain));
  }

 private:
  const NewtonState<T>* states() const { return states_; }
  const int* info() const { return info_; }

  template <class Kernel, class... Arguments>
  void with_sums(const T* matrix, Kernel kernel, const Arguments&... arguments) {
    library_.run(&column_sums_kernel<T>, (n_ + tile_edge - 1) / tile_edge, batch_, tile_edge, tile_rows,
                 2 * tile_edge * tile_rows * sizeof(T), matrix, n_, sums_);
    library_.run(kernel, batch_, 1, norm_threads, 1, norm_threads * sizeof(T), static_cast<const ColumnSums<T>*>(sums_),
                 n_, arguments..., states_);
  }
  void begin(const T* matrix, bool roots) {
    const T unit = roots ? machine_epsilon<T>() : ridge_unit<T>(this->o_.problem.storage);
    with_sums(matrix, &begin_newton_kernel<T>, roots, unit);
  }

  // Whether M + shift I is positive definite, in units of the matrix's own; if so, and for the first time, `ridge` is
  // what it gets.
  void try_ridge(const T* matrix, T shift, T ridge, T* factor) {
    elements(batch_, &ridge_trial_kernel<T>, matrix, batch_, n_, states(), shift, factor, factors_);
    library_.factor(factors_, info_, n_, batch_);
    library_.run(&ridge_choice_kernel<T>, (batch_ + 255) / 256, 1, 256, 1, 0, info(), batch_, ridge, states_);
  }

  // Adds to M what it needs to be inverted, one ridge on top of the other as in csrc/cpu/newton.h.
  void find_ridge(T* matrix, T* factor) {
    int ridge = 0;
    for (int attempt = 0; attempt < ridge_count; ++attempt) {
      ridge += ridge_of(attempt);
      try_ridge(matrix, static_cast<T>(ridge), static_cast<T>(ridge), factor);
    }
    elements(batch_, &add_ridge_kernel<T>, matrix, batch_, n_, states());
  }

  void invert(const T* matrix, T* factor, T* right, T* out) {
    elements(batch_, &inverse_kernel<T>, matrix, batch_, n_, factor, right, factors_, rights_);
    library_.solve(factors_, rights_, info_, n_, batch_);
    tiles(&add_inverse_kernel<T>, static_cast<const T*>(right), info(), n_, T(0), T(1), out);
  }

  // Returns where X with B X + X B = C is. W = B^-1.
  const T* solve(T* b, T* w, T* c, T* u, T* v, T tolerance) {
    // Condition numbers of B of 1e4 and 1e7 need one step less.
    constexpr int steps = sizeof(T) == 8 ? 8 : 6;
    with_sums(b, &begin_steps_kernel<T>);
    for (int step = 1;; ++step) {
      with_sums(w, &scaling_kernel<T>);
      gemm(1, c, w, 0, u);
      gemm(1, w, u, 0, v);
      elements(batch_, &newton_step_kernel<T>, c, static_cast<const T*>(v), b, static_cast<const T*>(w), batch_, n_,
               states());
      with_sums(b, &progress_kernel<T>, tolerance);
      if (step == steps) break;
      invert(b, v, u, w);
    }
    // X <- C' - (E X + X E) twice, with C' = C / (2 theta) and E = (B - theta I) / (2 theta).
    elements(batch_, &corrections_kernel<T>, b, c, batch_, n_, states());
    const T* x = c;
    for (T* next : {u, v}) {
      elements(batch_, &copy_kernel<T>, static_cast<const T*>(c), batch_, n_, next);
      gemm(-1, b, x, 1, next);
      gemm(-1, x, b, 1, next);
      x = next;
    }
    return x;
  }

  ColumnSums<T>* sums_;
  NewtonState<T>* states_;
  T** factors_;
  T** rights_;
  int* info_;
};

}  // namespace cuda
}  // namespace fastsqrtm

// Eigenvalues of small matrices, one a lane, by cyclic Jacobi rotations (Golub and Van Loan, Matrix Computations,
// section 8.5), and functions of these matrices. A lane that needs no rotation is turned by the angle zero, which
// leaves its bits, so that its neighbours may go on.
#pragma once

#include "cpu/matrix/lanes_algebra.h"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// A = V diag(values) V^T.
template <class T, int n>
struct LaneEigen {
  Vector<T> values[n], smallest, size;  // size: the largest absolute value
  Square<T, n> V;
};

// Whether an entry beside the diagonal changes a root by more than rounding does. False for NaN.
template <class T, int n>
FASTSQRTM_LANE Mask<T> is_significant(const Symmetric<T, n>& A, int p, int q) {
  constexpr T precision = Limits<T>::epsilon;
  return absolute(A(p, q)) > precision / 8 * (absolute(A(p, p)) + absolute(A(q, q))) + precision * precision / 8;
}

// Turns rows and columns p and q so that A(p, q) becomes zero.
template <class T, int n>
FASTSQRTM_LANE inline void rotate(Symmetric<T, n>& A, Square<T, n>& V, int p, int q) {
  const Vector<T> one = broadcast(T(1)), zero = {};
  const Vector<T> beside = A(p, q), twice = beside + beside, difference = A(q, q) - A(p, p);
  const Vector<T> length = square_root(difference * difference + twice * twice);
  const Mask<T> wanted = is_significant(A, p, q);
  const Vector<T> tangent = wanted ? twice / with_sign(absolute(difference) + length, difference) : zero;
  const Vector<T> cosine = one / square_root(one + tangent * tangent), sine = tangent * cosine;
  A(p, p) -= tangent * beside;
  A(q, q) += tangent * beside;
  A(p, q) = wanted ? zero : beside;
  const auto turn = [&](Vector<T>& x, Vector<T>& y) {
    const Vector<T> before = x;
    x = cosine * before - sine * y;
    y = sine * before + cosine * y;
  };
  FASTSQRTM_UNROLLED (8, int r = 0; r < n; ++r) {
    if (r != p && r != q) turn(A(r, p), A(r, q));
    turn(V(r, p), V(r, q));
  }
}

struct Jacobi {
  template <class T, int n>
  FASTSQRTM_LANE static inline void run(Symmetric<T, n>& A, LaneEigen<T, n>& eigen) {
    constexpr int most_sweeps = 12;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) eigen.V(i, j) = broadcast(T(i == j));
    for (int sweep = 0; sweep < (n > 2 ? most_sweeps : n - 1); ++sweep) {  // 2 x 2 matrices need but one rotation
      if (n > 2) {
        Mask<T> left = {};
        for (int p = 0; p < n; ++p)
          for (int q = p + 1; q < n; ++q) left |= is_significant(A, p, q);
        if (!any(left)) break;
      }
      if constexpr (n <= largest_order_in_registers) {
        FASTSQRTM_UNROLLED (4, int p = 0; p < n; ++p)
          FASTSQRTM_UNROLLED (4, int q = p + 1; q < n; ++q) rotate(A, eigen.V, p, q);
      } else {
        FASTSQRTM_UNROLLED (1, int p = 0; p < n; ++p)
          FASTSQRTM_UNROLLED (1, int q = p + 1; q < n; ++q) rotate(A, eigen.V, p, q);
      }
    }
    eigen.smallest = A(0, 0);
    eigen.size = absolute(A(0, 0));
    for (int i = 0; i < n; ++i) {
      eigen.values[i] = A(i, i);
      eigen.smallest = smaller(A(i, i), eigen.smallest);
      eigen.size = larger(absolute(A(i, i)), eigen.size);
    }
  }
};
// For an A of a norm near 1.
template <class T, int n>
FASTSQRTM_LANE LaneEigen<T, n> jacobi(Symmetric<T, n> A) {
  LaneEigen<T, n> eigen;
  run_by_order<Jacobi, n, 2>(A, eigen);
  return eigen;
}

// Adds to a matrix with an eigenvalue below `least` the first ridge with which it has none. Of vectors with one lane:
// in longer ones such a matrix is left undone, and goes alone to the inverse of steps/inverse.h.
template <class T, int n>
FASTSQRTM_LANE void add_ridge(T unit, const Vector<T>& least, LaneEigen<T, n>& eigen) {
  if constexpr (Simd<T>::lanes == 1) {
    Vector<T> ridge = {};
    for (int attempt = 1; attempt < ridge_count; ++attempt)
      if (any(~(eigen.smallest + ridge > least))) ridge = T(ridge_of(attempt)) * unit * eigen.size;
    for (auto& value : eigen.values) value += ridge;
    eigen.smallest += ridge;
  }
}

struct FromEigen {
  template <class T, int n>
  FASTSQRTM_LANE static inline void run(const Square<T, n>& V, const Vector<T>*& f, Symmetric<T, n>& A) {
    FASTSQRTM_UNROLLED (8, int i = 0; i < n; ++i) {
      Vector<T> row[n];
      FASTSQRTM_UNROLLED (8, int k = 0; k < n; ++k) row[k] = V(i, k) * f[k];
      FASTSQRTM_UNROLLED (8, int j = 0; j <= i; ++j) {
        Vector<T> sum = row[0] * V(j, 0);
        FASTSQRTM_UNROLLED (8, int k = 1; k < n; ++k) sum += row[k] * V(j, k);
        A(i, j) = sum;
      }
    }
  }
};
// V diag(f) V^T
template <class T, int n>
FASTSQRTM_LANE Symmetric<T, n> from_eigen(const Square<T, n>& V, const Vector<T>* f) {
  Symmetric<T, n> A;
  run_by_order<FromEigen, n>(V, f, A);
  return A;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

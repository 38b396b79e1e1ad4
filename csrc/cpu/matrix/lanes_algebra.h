// Products, norms and inverses of small matrices, one a lane.
#pragma once

#include "cpu/matrix/lanes.h"
#include "cpu/matrix/sweep.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// An operand read transposed.
template <class M>
struct Transposed {
  const M& matrix;
  const auto& operator()(int i, int j) const { return matrix(j, i); }
};

// sum_k A(i, k) B(k, j)
template <int n, class A, class B>
inline auto entry_of_product(const A& a, const B& b, int i, int j) {
  auto sum = a(i, 0) * b(0, j);
#pragma GCC unroll 8
  for (int k = 1; k < n; ++k) sum += a(i, k) * b(k, j);
  return sum;
}

struct Product {
  template <class T, int n, class A, class B>
  static inline void run(const A& a, const B& b, Square<T, n>& C) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < n; ++j) C(i, j) = entry_of_product<n>(a, b, i, j);
  }
  template <class T, int n, class A, class B>
  static inline void run(const A& a, const B& b, Symmetric<T, n>& C) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i)
#pragma GCC unroll 8
      for (int j = 0; j <= i; ++j) C(i, j) = entry_of_product<n>(a, b, i, j);
  }
};

// A B
template <class T, int n, class A, class B>
inline Square<T, n> product(const A& a, const B& b) {
  Square<T, n> C;
  run_by_order<Product, n>(a, b, C);
  return C;
}
// A B where that is symmetric.
template <class T, int n, class A, class B>
inline Symmetric<T, n> symmetric_product(const A& a, const B& b) {
  Symmetric<T, n> C;
  run_by_order<Product, n>(a, b, C);
  return C;
}

// W^T C W
template <class T, int n, class W>
inline Symmetric<T, n> congruence(const Symmetric<T, n>& C, const W& w) {
  return symmetric_product<T, n>(Transposed<W>{w}, product<T, n>(C, w));
}
template <class T, int n, class W>
inline Square<T, n> congruence(const Square<T, n>& C, const W& w) {
  return product<T, n>(Transposed<W>{w}, product<T, n>(C, w));
}

template <class T, int n>
Vector<T> sum_of_entries(const Symmetric<T, n>& A) {
  Vector<T> sum = {};
  for (const auto& x : A.entry) sum += x;
  return sum;
}

template <class T, int n>
Vector<T> trace(const Symmetric<T, n>& A) {
  Vector<T> sum = A(0, 0);
#pragma GCC unroll 8
  for (int i = 1; i < n; ++i) sum += A(i, i);
  return sum;
}

// sum_ij a_ij b_ij
template <class T, int n>
Vector<T> inner_product(const Symmetric<T, n>& A, const Symmetric<T, n>& B) {
  Vector<T> beside = {}, on = {};
#pragma GCC unroll 8
  for (int i = 0; i < n; ++i) {
    on += A(i, i) * B(i, i);
#pragma GCC unroll 8
    for (int j = 0; j < i; ++j) beside += A(i, j) * B(i, j);
  }
  return on + (beside + beside);
}

template <class T, int n>
Mask<T> is_diagonal(const Symmetric<T, n>& A) {
  Mask<T> found = all_lanes<T>();
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < i; ++j) found &= A(i, j) == 0;
  return found;
}

// Of entries whose squares neither over- nor underflow.
template <class T, int n>
Vector<T> frobenius(const Symmetric<T, n>& A) {
  return square_root(inner_product(A, A));
}

template <class T, int n>
Vector<T> one_norm(const Symmetric<T, n>& A) {
  Vector<T> largest = {};
#pragma GCC unroll 8
  for (int j = 0; j < n; ++j) {
    Vector<T> sum = {};
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) sum += absolute(A(i, j));
    largest = larger(sum, largest);
  }
  return largest;
}

// a A + b B
template <class T, int n>
Symmetric<T, n> linear(Vector<T> a, const Symmetric<T, n>& A, Vector<T> b, const Symmetric<T, n>& B) {
  Symmetric<T, n> C;
  for (int i = 0; i < C.entries; ++i) C.entry[i] = a * A.entry[i] + b * B.entry[i];
  return C;
}
template <class T, int n>
void add_identity(Symmetric<T, n>& A, Vector<T> value) {
#pragma GCC unroll 8
  for (int i = 0; i < n; ++i) A(i, i) += value;
}

// A where the mask is set.
template <class T, int n>
void assign(Symmetric<T, n>& to, Mask<T> where, const Symmetric<T, n>& A) {
  for (int i = 0; i < A.entries; ++i) to.entry[i] = where ? A.entry[i] : to.entry[i];
}

template <Swept result>
struct Sweep {
  template <class T, int n>
  static inline void run(Symmetric<T, n>& H, Mask<T>& positive, Vector<T>*& pivots) {
    positive = all_lanes<T>();
#pragma GCC unroll 8
    for (int k = 0; k < n; ++k) {
      const Vector<T> own = H(k, k), pivot = result == Swept::minus_own_inverse ? own : T(1) + own;
      const Vector<T> inverse = T(1) / pivot;
      positive &= pivot > 0;
      if (pivots) pivots[k] = pivot;
      Vector<T> scaled[n];
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) scaled[i] = H(i, k) * inverse;
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i)
#pragma GCC unroll 8
        for (int j = 0; j <= i; ++j)
          if (i != k && j != k) H(i, j) -= H(i, k) * scaled[j];
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i)
        if (i != k) H(i, k) = scaled[i];
      H(k, k) = result == Swept::quotient ? scaled[k] : -inverse;
    }
  }
};
// The sweep of matrix/sweep.h, in place. Returns where all pivots were positive.
template <Swept result, class T, int n>
Mask<T> sweep(Symmetric<T, n>& H, Vector<T>* pivots = nullptr) {
  Mask<T> positive;
  run_by_order<Sweep<result>, n>(H, positive, pivots);
  return positive;
}

// W <- -P^-1
template <class T, int n>
Mask<T> minus_inverse(const Symmetric<T, n>& P, Symmetric<T, n>& W) {
  W = P;
  return sweep<Swept::minus_own_inverse>(W);
}

// False for NaN and Inf.
template <class T>
Mask<T> is_finite(Vector<T> x) {
  return absolute(x) <= std::numeric_limits<T>::max();
}

// The matrices divided by a power of four, so that their largest entries lie in [1, 4), and what else there is to know
// before one computes with them.
template <class T, int n>
struct Scaled {
  Vector<T> largest;
  PowerOfFour<T> scale;
  Mask<T> zero, regular;  // regular: finite and not zero

  using Limits = std::numeric_limits<T>;

  explicit Scaled(Symmetric<T, n>& A)
      : largest(largest_entry(A)), scale(largest < Limits::min() ? broadcast(T(1)) : largest) {
    A *= scale.inverse;
    const Mask<T> finite = is_finite<T>(sum_of_entries(A)) & (largest <= Limits::max());
    zero = finite & (largest < Limits::min());
    regular = finite & ~zero;
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

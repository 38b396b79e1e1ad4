// Products, norms and inverses of small matrices, one a lane.
#pragma once

#include <type_traits>

#include "cpu/matrix/alone.h"
#include "cpu/matrix/lanes.h"
#include "cpu/matrix/swept_pivots.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// sum_k A(i, k) B(k, j)
template <int n, class A, class B>
FASTSQRTM_LANE inline auto entry_of_product(const A& a, const B& b, int i, int j) {
  auto sum = a(i, 0) * b(0, j);
  FASTSQRTM_UNROLLED (8, int k = 1; k < n; ++k) sum += a(i, k) * b(k, j);
  return sum;
}

// to[r][j] = from[r][j] - sum_k left[r][k] right[k][j] for begin <= j < end
template <class V, int rows, int terms>
FASTSQRTM_LANE __attribute__((always_inline)) inline void subtract_products(V* const (&to)[rows],
                                                                            const V* const (&from)[rows],
                                                                            const V (&left)[rows][terms],
                                                                            const V* const (&right)[terms], int begin,
                                                                            int end) {
  for (int j = begin; j < end; ++j)
    FASTSQRTM_UNROLLED (4, int r = 0; r < rows; ++r) {
      V sum = from[r][j];
      FASTSQRTM_UNROLLED (4, int k = 0; k < terms; ++k) sum -= left[r][k] * right[k][j];
      to[r][j] = sum;
    }
}

// Calls body(i, rows) for the rows of a matrix but those of the pivots: as many at a time as registers hold their
// factors, and those left over one by one, rows a constant.
template <class F>
FASTSQRTM_LANE __attribute__((always_inline)) inline void each_rows_beside(int first, int after, int order, F&& body) {
  constexpr int most = FASTSQRTM_VECTOR_BYTES == 64 ? 4 : 2;
  for (int i = first > 0 ? 0 : after; i < order; i = i == first ? after : i) {
    const bool fits = i + most <= (i < first ? first : order);
    if (fits)
      body(i, std::integral_constant<int, most>());
    else
      body(i, std::integral_constant<int, 1>());
    i += fits ? most : 1;
  }
}

// The product of larger matrices: 4 x `columns` entries in registers at a time. The last of them may overlap.
struct ProductInTiles {
  static constexpr int rows = 4, columns = FASTSQRTM_VECTOR_BYTES == 64 ? 4 : 2;

  template <class T, class A, class B, template <class, int> class C>
  FASTSQRTM_LANE static inline void run(const A& a, const B& b, C<T, any_order>& c) {
    constexpr bool triangle = std::is_same<C<T, any_order>, Symmetric<T, any_order>>::value;
    const int n = a.order;
    c.set_order(n);
    Vector<T> left[any_order][rows];
    for (int from = 0; from < n; from += rows) {
      const int i = from + rows <= n ? from : n - rows;
      for (int k = 0; k < n; ++k)
        FASTSQRTM_UNROLLED (4, int r = 0; r < rows; ++r) left[k][r] = a(i + r, k);
      for (int at = 0; at < (triangle ? i + rows : n); at += columns) {
        const int j = at + columns <= n ? at : n - columns;
        Vector<T> sum[rows][columns] = {};
        const auto add = [&](int begin, int end, const auto& right) {
          for (int k = begin; k < end; ++k)
            FASTSQRTM_UNROLLED (4, int s = 0; s < columns; ++s) {
              const Vector<T> factor = right(k, s);
              FASTSQRTM_UNROLLED (4, int r = 0; r < rows; ++r) sum[r][s] += left[k][r] * factor;
            }
        };
        if constexpr (std::is_same<B, Symmetric<T, any_order>>::value) {
          const Vector<T>* row[columns];  // of the triangle
          FASTSQRTM_UNROLLED (4, int s = 0; s < columns; ++s) row[s] = b.entry + b.place(j + s, 0);
          add(0, j, [&](int k, int s) { return row[s][k]; });
          add(j, j + columns, [&](int k, int s) { return *(b.entry + b.place(k, j + s)); });
          add(j + columns, n, [&](int k, int s) { return *(b.entry + b.place(k, j) + s); });
        } else {
          add(0, n, [&](int k, int s) { return b.entry[k * n + j + s]; });
        }
        FASTSQRTM_UNROLLED (4, int r = 0; r < rows; ++r)
          FASTSQRTM_UNROLLED (4, int s = 0; s < columns; ++s)
            if (!triangle || j + s <= i + r) c(i + r, j + s) = sum[r][s];
      }
    }
  }
};

struct Product {
  template <class T, int n, class A, class B>
  FASTSQRTM_LANE static inline void run(const A& a, const B& b, Square<T, n>& C) {
    FASTSQRTM_UNROLLED (8, int i = 0; i < n; ++i)
      FASTSQRTM_UNROLLED (8, int j = 0; j < n; ++j) C(i, j) = entry_of_product<n>(a, b, i, j);
  }
  template <class T, int n, class A, class B>
  FASTSQRTM_LANE static inline void run(const A& a, const B& b, Symmetric<T, n>& C) {
    FASTSQRTM_UNROLLED (8, int i = 0; i < n; ++i)
      FASTSQRTM_UNROLLED (8, int j = 0; j <= i; ++j) C(i, j) = entry_of_product<n>(a, b, i, j);
  }
};

template <int n>
using ProductBy =
    std::conditional_t<n == alone, ProductAlone, std::conditional_t<n == any_order, ProductInTiles, Product>>;

// A B
template <class T, int n, class A, class B>
FASTSQRTM_LANE inline Square<T, n> product(const A& a, const B& b) {
  Square<T, n> C;
  run_by_order<ProductBy<n>, n>(a, b, C);
  return C;
}
// A B where that is symmetric.
template <class T, int n, class A, class B>
FASTSQRTM_LANE inline Symmetric<T, n> symmetric_product(const A& a, const B& b) {
  Symmetric<T, n> C;
  run_by_order<ProductBy<n>, n>(a, b, C);
  return C;
}

// W^T C W
template <class T, int n, class W>
FASTSQRTM_LANE inline Symmetric<T, n> congruence(const Symmetric<T, n>& C, const W& w) {
  return symmetric_product<T, n>(Transposed<W>{w}, product<T, n>(C, w));
}
template <class T, int n, class W>
FASTSQRTM_LANE inline Square<T, n> congruence(const Square<T, n>& C, const W& w) {
  return product<T, n>(Transposed<W>{w}, product<T, n>(C, w));
}

// U + U^T
template <class T, int n>
FASTSQRTM_LANE Symmetric<T, n> plus_transposed(const Square<T, n>& U) {
  Symmetric<T, n> A;
  A.set_order(U.order);
  FASTSQRTM_UNROLLED (8, int i = 0; i < U.order; ++i)
    FASTSQRTM_UNROLLED (8, int j = 0; j <= i; ++j) A(i, j) = U(i, j) + U(j, i);
  return A;
}

// False where there is NaN or Inf.
template <class T, int n>
FASTSQRTM_LANE Mask<T> is_finite(const Symmetric<T, n>& A) {
  Vector<T> zero[4] = {};
  each_in_chains<n>(A.entries, [&](int i, int c) { zero[c] += A.entry[i] * Vector<T>{}; });
  return (zero[0] + zero[1]) + (zero[2] + zero[3]) == 0;
}

template <class T, int n>
FASTSQRTM_LANE Vector<T> trace(const Symmetric<T, n>& A) {
  Vector<T> sum = A(0, 0);
  FASTSQRTM_UNROLLED (8, int i = 1; i < A.order; ++i) sum += A(i, i);
  return sum;
}

// The sums down each column of a symmetric matrix, to which add(sum, i, j) adds entry (i, j), i >= j, once for column j
// and once for column i; from the top to the bottom.
template <int n, class V, class F>
FASTSQRTM_LANE inline void sum_columns(int order, V (&sum)[n], F&& add) {
  int first = 0;
  if constexpr (n > largest_unrolled_order) {  // by four rows, so that the sums are read and written once for them
    for (; first + 4 <= order; first += 4) {
      V own[4] = {};
      for (int j = 0; j < first; ++j) {
        V of_column = sum[j];
        FASTSQRTM_UNROLLED (4, int r = 0; r < 4; ++r) {
          add(own[r], first + r, j);
          add(of_column, first + r, j);
        }
        sum[j] = of_column;
      }
      FASTSQRTM_UNROLLED (4, int r = 0; r < 4; ++r) {
        FASTSQRTM_UNROLLED (4, int s = 0; s < r; ++s) {
          add(own[r], first + r, first + s);
          add(own[s], first + r, first + s);
        }
        add(own[r], first + r, first + r);
      }
      FASTSQRTM_UNROLLED (4, int r = 0; r < 4; ++r) sum[first + r] = own[r];
    }
  }
  FASTSQRTM_UNROLLED (8, int i = first; i < order; ++i) {
    sum[i] = V{};
    FASTSQRTM_UNROLLED (8, int j = 0; j < i; ++j) {
      add(sum[i], i, j);
      add(sum[j], i, j);
    }
    add(sum[i], i, i);
  }
}

// sum_ij a_ij b_ij. From n = 9 on column by column, as they lie side by side in alone.h.
template <class T, int n>
FASTSQRTM_LANE Vector<T> inner_product(const Symmetric<T, n>& A, const Symmetric<T, n>& B) {
  if constexpr (n > largest_unrolled_order) {
    constexpr int lanes = Simd<T>::lanes;
    Vector<T> sum[n], part[lanes] = {};
    sum_columns(A.order, sum, [&](Vector<T>& to, int i, int j) { to += A(i, j) * B(i, j); });
    for (int j = 0; j < A.order; ++j) part[j % lanes] += sum[j];
    for (int half = lanes / 2; half > 0; half /= 2)
      for (int c = 0; c < half; ++c) part[c] += part[c + half];
    return part[0];
  } else {
    constexpr int chains = n > largest_order_in_registers ? 3 : 1;  // a step waits for the one before it
    Vector<T> beside[chains] = {}, on = {};
    FASTSQRTM_UNROLLED (8, int i = 0; i < A.order; ++i) {
      on += A(i, i) * B(i, i);
      FASTSQRTM_UNROLLED (8, int j = 0; j < i; ++j) beside[j % chains] += A(i, j) * B(i, j);
    }
    for (int c = 1; c < chains; ++c) beside[0] += beside[c];
    return on + (beside[0] + beside[0]);
  }
}

template <class T, int n>
FASTSQRTM_LANE Mask<T> is_diagonal(const Symmetric<T, n>& A) {
  Mask<T> found = all_lanes<T>();
  for (int i = 0; i < A.order; ++i)
    for (int j = 0; j < i; ++j) found &= A(i, j) == 0;
  return found;
}

// Of entries whose squares neither over- nor underflow.
template <class T, int n>
FASTSQRTM_LANE Vector<T> frobenius(const Symmetric<T, n>& A) {
  return square_root(inner_product(A, A));
}

template <class T, int n>
FASTSQRTM_LANE Vector<T> one_norm(const Symmetric<T, n>& A) {
  Vector<T> sum[n], largest = {};
  sum_columns(A.order, sum, [&](Vector<T>& to, int i, int j) { to += absolute(A(i, j)); });
  FASTSQRTM_UNROLLED (8, int i = 0; i < A.order; ++i) largest = larger(sum[i], largest);
  return largest;
}

// a A
template <class T, int n>
FASTSQRTM_LANE Symmetric<T, n> times(Vector<T> a, const Symmetric<T, n>& A) {
  Symmetric<T, n> C;
  C.set_order(A.order);
  for (int i = 0; i < C.entries; ++i) C.entry[i] = a * A.entry[i];
  return C;
}
// a A + b B
template <class T, int n>
FASTSQRTM_LANE Symmetric<T, n> linear(Vector<T> a, const Symmetric<T, n>& A, Vector<T> b, const Symmetric<T, n>& B) {
  Symmetric<T, n> C;
  C.set_order(A.order);
  for (int i = 0; i < C.entries; ++i) C.entry[i] = a * A.entry[i] + b * B.entry[i];
  return C;
}
// to <- a A + b to
template <class T, int n>
FASTSQRTM_LANE void combine(Vector<T> a, const Symmetric<T, n>& A, Vector<T> b, Symmetric<T, n>& to) {
  const bool zero = to.order == 0;
  to.set_order(A.order);
  if (zero)
    for (int i = 0; i < A.entries; ++i) to.entry[i] = a * A.entry[i];
  else
    for (int i = 0; i < A.entries; ++i) to.entry[i] = a * A.entry[i] + b * to.entry[i];
}
template <class T, int n>
FASTSQRTM_LANE void add_identity(Symmetric<T, n>& A, Vector<T> value) {
  FASTSQRTM_UNROLLED (8, int i = 0; i < A.order; ++i) A(i, i) += value;
}

// to <- a A + b to where the mask is set.
template <class T, int n>
FASTSQRTM_LANE void combine_where(Mask<T> where, Vector<T> a, const Symmetric<T, n>& A, Vector<T> b,
                                  Symmetric<T, n>& to) {
  for (int i = 0; i < A.entries; ++i) to.entry[i] = where ? a * A.entry[i] + b * to.entry[i] : to.entry[i];
}

// A where the mask is set.
template <class T, int n>
FASTSQRTM_LANE void assign(Symmetric<T, n>& to, Mask<T> where, const Symmetric<T, n>& A) {
  to.set_order(A.order);
  for (int i = 0; i < A.entries; ++i) to.entry[i] = where ? A.entry[i] : to.entry[i];
}

template <Swept result>
struct Sweep {
  // The same operations, the other rows and columns for three or four pivots at once. Reads A, which may be H, until
  // the first of them are done.
  template <class T>
  FASTSQRTM_LANE static inline void run(const Symmetric<T, any_order>& A, Symmetric<T, any_order>& H, Mask<T>& positive,
                                        Vector<T>*& pivots) {
    positive = all_lanes<T>();
    H.set_order(A.order);
    each_part(H.order, [&](int first, auto part) {
      sweep_part(part, first, first == 0 ? A.entry : H.entry, H, positive, pivots);
    });
  }
  template <int p, class T>
  FASTSQRTM_LANE static inline void sweep_part(std::integral_constant<int, p>, int first, const Numbers<T>* from,
                                               Symmetric<T, any_order>& H, Mask<T>& positive, Vector<T>* pivots) {
    const int after = first + p;
    SweptPivots<T, p> block;
    for (int s = 0; s < p; ++s)
      for (int t = 0; t < p; ++t) block.own[s][t] = from[H.place(first + s, first + t)];
    block.template sweep<result>();
    for (int k = 0; k < p; ++k) {
      positive &= block.pivot[k] > 0;
      if (pivots) pivots[first + k] = block.pivot[k];
    }
    for (int s = 0; s < p; ++s)
      for (int t = 0; t <= s; ++t) H(first + s, first + t) = block.own[s][t];
    Vector<T> right[p][any_order];
    // A few rows from i on in the columns of the pivots, and then up to the diagonal: no row needs one below them.
    const auto update = [&](int i, auto some) __attribute__((always_inline)) {
      constexpr int rows = decltype(some)::value;
      const Numbers<T>* read[rows];
      Vector<T>* to[rows];
      Vector<T> left[rows][p];
      const Vector<T>* above[p];
      for (int k = 0; k < p; ++k) above[k] = right[k];
      for (int r = 0; r < rows; ++r) {
        read[r] = from + H.place(i + r, 0);
        to[r] = H.entry + H.place(i + r, 0);
        Vector<T> x[p], factors[p];
        for (int k = 0; k < p; ++k) x[k] = from[H.place(i + r, first + k)];
        block.sweep_row(x, left[r], factors);
        for (int k = 0; k < p; ++k) right[k][i + r] = factors[k], H(i + r, first + k) = x[k];
      }
      subtract_products(to, read, left, above, 0, i < first ? i + 1 : first);
      subtract_products(to, read, left, above, after, i + 1);
      FASTSQRTM_UNROLLED (4, int r = 1; r < rows; ++r)
        FASTSQRTM_UNROLLED (4, int j = i + 1; j <= i + r; ++j) {
          Vector<T> sum = read[r][j];
          FASTSQRTM_UNROLLED (4, int k = 0; k < p; ++k) sum -= left[r][k] * right[k][j];
          to[r][j] = sum;
        }
    };
    each_rows_beside(first, after, H.order, update);
  }
  // The same for orders that are unrolled.
  template <int first, int p, class T, int n>
  FASTSQRTM_LANE static __attribute__((always_inline)) inline void sweep_part(const Symmetric<T, n>& from,
                                                                              Symmetric<T, n>& H, Mask<T>& positive,
                                                                              Vector<T>* pivots) {
    const auto beside = [](int i) { return i < first || i >= first + p; };
    SweptPivots<T, p> block;
    FASTSQRTM_UNROLLED (4, int s = 0; s < p; ++s)
      FASTSQRTM_UNROLLED (4, int t = 0; t <= s; ++t) block.own[s][t] = block.own[t][s] = from(first + s, first + t);
    block.template sweep_here<result>();
    FASTSQRTM_UNROLLED (4, int k = 0; k < p; ++k) {
      positive &= block.pivot[k] > 0;
      if (pivots) pivots[first + k] = block.pivot[k];
    }
    Vector<T> right[p][n];
    FASTSQRTM_UNROLLED (8, int i = 0; i < n; ++i)
      if (beside(i)) {
        Vector<T> x[p], left[p], factors[p];
        FASTSQRTM_UNROLLED (4, int k = 0; k < p; ++k) x[k] = from(i, first + k);
        block.sweep_row(x, left, factors);
        FASTSQRTM_UNROLLED (4, int k = 0; k < p; ++k) right[k][i] = factors[k], H(i, first + k) = x[k];
        FASTSQRTM_UNROLLED (8, int j = 0; j <= i; ++j)
          if (beside(j)) {
            Vector<T> sum = from(i, j);
            FASTSQRTM_UNROLLED (4, int k = 0; k < p; ++k) sum -= left[k] * right[k][j];
            H(i, j) = sum;
          }
      }
    FASTSQRTM_UNROLLED (4, int s = 0; s < p; ++s)
      FASTSQRTM_UNROLLED (4, int t = 0; t <= s; ++t) H(first + s, first + t) = block.own[s][t];
  }
  template <class T, int n>
  FASTSQRTM_LANE static inline void run(const Symmetric<T, n>& A, Symmetric<T, n>& H, Mask<T>& positive,
                                        Vector<T>*& pivots) {
    positive = all_lanes<T>();
    if constexpr (n > largest_order_in_registers) {
      constexpr int p = (n + 1) / 2;
      sweep_part<0, p>(A, H, positive, pivots);
      sweep_part<p, n - p>(H, H, positive, pivots);
    } else {
      H = A;
      FASTSQRTM_UNROLLED (4, int k = 0; k < n; ++k) {
        const Vector<T> own = H(k, k), pivot = result == Swept::minus_own_inverse ? own : T(1) + own;
        const Vector<T> inverse = T(1) / pivot;
        positive &= pivot > 0;
        if (pivots) pivots[k] = pivot;
        Vector<T> scaled[n];
        FASTSQRTM_UNROLLED (4, int i = 0; i < n; ++i) scaled[i] = H(i, k) * inverse;
        FASTSQRTM_UNROLLED (4, int i = 0; i < n; ++i)
          FASTSQRTM_UNROLLED (4, int j = 0; j <= i; ++j)
            if (i != k && j != k) H(i, j) -= H(i, k) * scaled[j];
        FASTSQRTM_UNROLLED (4, int i = 0; i < n; ++i)
          if (i != k) H(i, k) = scaled[i];
        H(k, k) = result == Swept::quotient ? scaled[k] : -inverse;
      }
    }
  }
};
template <Swept result, int n>
using SweepBy = std::conditional_t<n == alone, SweepAlone<result>, Sweep<result>>;

// The sweep of matrix/sweep.h. Returns where all pivots were positive.
template <Swept result, class T, int n>
FASTSQRTM_LANE Mask<T> sweep(const Symmetric<T, n>& A, Symmetric<T, n>& H, Vector<T>* pivots = nullptr) {
  Mask<T> positive;
  run_by_order<SweepBy<result, n>, n>(A, H, positive, pivots);
  return positive;
}
// In place.
template <Swept result, class T, int n>
FASTSQRTM_LANE Mask<T> sweep(Symmetric<T, n>& H, Vector<T>* pivots = nullptr) {
  return sweep<result>(H, H, pivots);
}

// W <- -P^-1
template <class T, int n>
FASTSQRTM_LANE Mask<T> minus_inverse(const Symmetric<T, n>& P, Symmetric<T, n>& W) {
  return sweep<Swept::minus_own_inverse>(P, W);
}

// The matrices divided by a power of four, so that their largest entries lie in [1, 4), and what else there is to know
// before one computes with them.
template <class T, int n>
struct Scaled {
  Vector<T> largest;
  PowerOfFour<T> scale;
  Mask<T> zero, regular;  // regular: finite and not zero

  using Limits = fastsqrtm::Limits<T>;

  FASTSQRTM_LANE explicit Scaled(Symmetric<T, n>& A)
      : largest(largest_entry(A)), scale(largest < Limits::min ? broadcast(T(1)) : largest) {
    A *= scale.inverse;
    const Mask<T> finite = is_finite(A) & (largest <= Limits::max);
    zero = finite & (largest < Limits::min);
    regular = finite & ~zero;
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

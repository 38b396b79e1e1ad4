// Passes over the entries of one matrix or of two of the same order: norms and linear combinations.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/matrix/panel.h"
#include "cpu/matrix/team.h"
#include "path.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// A sum waits for the one before, so there are several: neighbouring rows go to different ones.
constexpr int chains = 4;

// Calls body(offset, valid, chain) for the vectors of an n x n matrix in the columns j, ..., j + lanes - 1; their first
// `valid` lanes belong to the matrix. Padding holds arbitrary values after a pass; reductions must mask it out.
// Inlined, or the sums would lie in memory.
template <class T, class F>
__attribute__((always_inline)) inline void each_vector_of_columns(const Panels<T>& P, int j, F&& body) {
  constexpr int width = Panels<T>::width;
  int64_t at = P.at(0, j) - P.data;
  int i = 0;
  for (; i + chains <= P.n; i += chains, at += chains * width)
#pragma GCC unroll 4
    for (int c = 0; c < chains; ++c) body(at + c * width, P.n - j, c);
  for (; i < P.n; ++i, at += width) body(at, P.n - j, 0);
}
// The same for all columns.
template <class T, class F>
__attribute__((always_inline)) inline void each_vector(const Panels<T>& P, F&& body) {
  for (int j = 0; j < P.n; j += Simd<T>::lanes) each_vector_of_columns(P, j, body);
}

template <class T>
Vector<T> load_valid(const T* p, int valid) {
  const Vector<T> x = FASTSQRTM_ISA::load(p);
  return valid < Simd<T>::lanes ? (Simd<T>::lane_index() < T(valid) - Vector<T>{} ? x : Vector<T>{}) : x;
}

// The sum of the numbers in a vector, half by half.
template <class V>
inline auto sum_of_halves(const V& x) {
  constexpr int lanes = int(sizeof x / sizeof x[0]);
  alignas(64) std::remove_cv_t<std::remove_reference_t<decltype(x[0])>> number[lanes];
  std::memcpy(number, &x, sizeof x);
#pragma GCC unroll 4
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int c = 0; c < half; ++c) number[c] += number[c + half];
  return number[0];
}

// Sums of products in double, each lane by itself. Parts of a vector are converted as they are loaded: the compiler
// takes apart a longer vector, or one in a register, by shuffles through memory.
template <class T>
struct WideSum {
  static constexpr int parts = int(sizeof(double) / sizeof(T)), lanes = Simd<double>::lanes;
  using Part = typename Simd<T, FASTSQRTM_VECTOR_BYTES / parts>::Vector;
  Vector<double> part[parts] = {};

  static Vector<double> wide(const T* x, int p) {
    return FASTSQRTM_CONVERT(*reinterpret_cast<const Part*>(x + p * lanes), Vector<double>);
  }
  void add(const T* x, const T* y) {
    for (int p = 0; p < parts; ++p) part[p] += wide(x, p) * wide(y, p);
  }
  WideSum& operator+=(const WideSum& other) {
    for (int p = 0; p < parts; ++p) part[p] += other.part[p];
    return *this;
  }
  double total() const {
    Vector<double> sum = part[0];
    for (int p = 1; p < parts; ++p) sum += part[p];
    return sum_of_halves(sum);
  }
};
// The same of vectors of which the first `valid` lanes count.
template <class T>
inline void add_valid(WideSum<T>& sum, const T* x, const T* y, int valid) {
  if (valid >= Simd<T>::lanes) return sum.add(x, y);
  alignas(64) T part[2][Simd<T>::lanes];
  FASTSQRTM_ISA::store(part[0], load_valid(x, valid));
  FASTSQRTM_ISA::store(part[1], load_valid(y, valid));
  sum.add(part[0], part[1]);
}

template <class T>
double total(const WideSum<T> (&sums)[chains]) {
  WideSum<T> sum = sums[0];
  for (int c = 1; c < chains; ++c) sum += sums[c];
  return sum.total();
}

// parts[p] <- part(p), where part p is for the blocks of columns p, p + most_parts, ... Each thread takes some, and who
// takes which is not seen in the sum of the parts.
constexpr int most_parts = 64;
template <class Part, class F>
void find_parts(const Team& team, Part (&parts)[most_parts], F&& part) {
  team.each([&](int member) {
    for (int p = member; p < most_parts; p = team.next(p)) parts[p] = part(p);
  });
}

// The sum of what add(sum, offset, valid) adds for every vector.
template <class T, class F>
__attribute__((always_inline)) inline double sum_over(const Team& team, const Panels<T>& P, F&& add) {
  if (P.n < smallest_order_in_parts) {
    WideSum<T> sums[chains];
    each_vector(P, [&](int64_t at, int valid, int c) { add(sums[c], at, valid); });
    return total(sums);
  }
  double parts[most_parts], sum = 0;
  find_parts(team, parts, [&](int p) {
    WideSum<T> sums[chains];
    for (int J = p; J < P.blocks(); J += most_parts)
      each_vector_of_columns(P, J * Simd<T>::lanes, [&](int64_t at, int valid, int c) { add(sums[c], at, valid); });
    return total(sums);
  });
  for (const double part : parts) sum += part;
  return sum;
}

template <class T>
double sum_of_lanes(const typename DoubleLanes<T>::Vector& sum) {
  double total = 0;
  for (int c = 0; c < Simd<T>::lanes; ++c) total += sum[c];
  return total;
}

// Frobenius norm, scaled so that squares neither overflow nor vanish. 0 if all entries are below the smallest normal
// number; NaN if any entry is NaN or Inf.
template <class T>
double frobenius(const Team& team, const Panels<T>& P) {
  using Wide = typename DoubleLanes<T>::Vector;
  const double sum_of_squares = sum_over(
      team, P, [&](WideSum<T>& sum, int64_t at, int valid) { add_valid(sum, P.data + at, P.data + at, valid); });
  // No square that counts over- or underflowed.
  if (sum_of_squares > 1e-70 && sum_of_squares < 1e300) return std::sqrt(sum_of_squares);
  Vector<T> largest = {};
  each_vector(P, [&](int64_t at, int valid, int) {
    const Vector<T> x = load_valid(P.data + at, valid), size = absolute(x);
    largest = size > largest ? size : largest;  // skips NaN; the sum below does not
  });
  T scale = 0;
  for (int c = 0; c < Simd<T>::lanes; ++c) scale = largest[c] > scale ? largest[c] : scale;
  const T inverse = scale < std::numeric_limits<T>::min() ? T(0) : 1 / scale;
  Wide sum = {};
  each_vector(P, [&](int64_t at, int valid, int) {
    const Wide x = FASTSQRTM_CONVERT(load_valid(P.data + at, valid) * inverse, Wide);
    sum += x * x;
  });
  return double(scale) * std::sqrt(sum_of_lanes<T>(sum));
}

// P <- P / s. Returns the divisor really used: 1/s is rounded to T, and that factor, common to the whole matrix, would
// show in the result if the compensation did not undo the same one.
template <class T>
double normalise(const Team& team, double s, const Panels<T>& P) {
  const T factor = T(1 / s);
  team.each([&](int member) {
    for (int p = member; p < P.panels(); p = team.next(p))
      for (T *x = P.panel(p), *end = P.panel(p + 1); x < end; x += Simd<T>::lanes)
        FASTSQRTM_ISA::store(x, factor * FASTSQRTM_ISA::load(x));
  });
  return 1 / double(factor);
}

// Calls body(offset) for every vector on and under the diagonal, by whole panels. Each thread has a body of its own:
// the compiler keeps its numbers in registers, since no store can reach them.
template <class T, class F>
void each_lower(const Team& team, const Panels<T>& P, const F& body) {
  constexpr int width = Panels<T>::width, lanes = Simd<T>::lanes;
  team.each([&](int member) {
    const F own = body;
    for (int p = member; p < P.panels(); p = team.next(p))
      for (int64_t at = P.at(p * width, p * width) - P.data, end = P.panel(p + 1) - P.data; at < end; at += lanes)
        own(at);
  });
}

// to <- a from + b to on and under the diagonal.
template <class T>
void combine(const Team& team, T a, const Panels<T>& from, T b, const Panels<T>& to) {
  each_lower(team, to, [=, x = from.data, y = to.data](int64_t at) {
    Vector<T> value = a * FASTSQRTM_ISA::load(x + at);
    if (b != 0) value += b * FASTSQRTM_ISA::load(y + at);
    FASTSQRTM_ISA::store(y + at, value);
  });
}

// to <- a A + b B, everywhere.
template <class T>
void linear(const Team& team, T a, const Panels<T>& A, T b, const Panels<T>& B, const Panels<T>& to) {
  constexpr int lanes = Simd<T>::lanes;
  team.each([&](int member) {
    for (int p = member; p < to.panels(); p = team.next(p)) {
      const T *x = A.panel(p), *z = B.panel(p);
      for (T *y = to.panel(p), *end = to.panel(p + 1); y < end; x += lanes, y += lanes, z += lanes) {
        Vector<T> value = a * FASTSQRTM_ISA::load(x);
        if (b != 0) value += b * FASTSQRTM_ISA::load(z);
        FASTSQRTM_ISA::store(y, value);
      }
    }
  });
}

// to <- a from + b to, everywhere.
template <class T>
void combine_full(const Team& team, T a, const Panels<T>& from, T b, const Panels<T>& to) {
  linear(team, a, from, b, to, to);
}

// A and B <- a A + b B, everywhere.
template <class T>
void combine_twice(const Team& team, T a, const Panels<T>& A, T b, const Panels<T>& B) {
  constexpr int lanes = Simd<T>::lanes;
  team.each([&](int member) {
    for (int p = member; p < B.panels(); p = team.next(p)) {
      T* x = A.panel(p);
      for (T *y = B.panel(p), *end = B.panel(p + 1); y < end; x += lanes, y += lanes) {
        const Vector<T> value = a * FASTSQRTM_ISA::load(x) + b * FASTSQRTM_ISA::load(y);
        FASTSQRTM_ISA::store(x, value);
        FASTSQRTM_ISA::store(y, value);
      }
    }
  });
}

template <class T>
void copy(const Team& team, const Panels<T>& from, const Panels<T>& to) {
  team.each([&](int member) {
    for (int p = member; p < to.panels(); p = team.next(p))
      std::memcpy(to.panel(p), from.panel(p), sizeof(T) * to.rows * to.width);
  });
}

template <class T>
void add_identity(const Panels<T>& P, T value) {
  for (int i = 0; i < P.n; ++i) *P.at(i, i) += value;
}

template <class T>
double trace(const Panels<T>& P) {
  double sum = 0;
  for (int i = 0; i < P.n; ++i) sum += *P.at(i, i);
  return sum;
}

// The largest absolute sums of columns, one column a lane, and the sums of squares. Skips NaN in the first.
template <class T>
struct ColumnNorms {
  Vector<T> largest = {}, squares = {};

  __attribute__((always_inline)) void add(const Panels<T>& P, int j) {
    Vector<T> sums[chains] = {}, more_squares[chains] = {};
    each_vector_of_columns(P, j, [&](int64_t at, int valid, int c) {
      const Vector<T> x = load_valid(P.data + at, valid);
      sums[c] += absolute(x);
      more_squares[c] += x * x;
    });
    const Vector<T> sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    largest = sum > largest ? sum : largest;
    squares += (more_squares[0] + more_squares[1]) + (more_squares[2] + more_squares[3]);
  }
};
struct Norms {
  double one, squares;
};
template <class T>
Norms norms_of(const ColumnNorms<T>& columns) {
  T one = 0;
  for (int c = 0; c < Simd<T>::lanes; ++c) one = columns.largest[c] > one ? columns.largest[c] : one;
  return {one, sum_of_halves(columns.squares)};
}
// The 1-norm and the sum of all squares.
template <class T>
Norms norms(const Team& team, const Panels<T>& P) {
  if (P.n < smallest_order_in_parts) {
    ColumnNorms<T> all;
    for (int j = 0; j < P.n; j += Simd<T>::lanes) all.add(P, j);
    return norms_of(all);
  }
  Norms parts[most_parts], norms = {0, 0};
  find_parts(team, parts, [&](int p) {
    ColumnNorms<T> columns;
    for (int J = p; J < P.blocks(); J += most_parts) columns.add(P, J * Simd<T>::lanes);
    return norms_of(columns);
  });
  for (const Norms& part : parts) {
    norms.one = part.one > norms.one ? part.one : norms.one;
    norms.squares += part.squares;
  }
  return norms;
}

// Largest absolute column sum: bounds the spectral norm of a symmetric matrix. It skips NaN.
template <class T>
double one_norm(const Team& team, const Panels<T>& P) {
  return norms(team, P).one;
}

// The smaller of the Frobenius norm and the 1-norm, for entries whose squares neither over- nor underflow: bounds the
// spectral norm of a symmetric matrix. NaN if any entry is NaN.
template <class T>
double spectral_bound(const Team& team, const Panels<T>& P) {
  const Norms found = norms(team, P);
  const double frobenius = std::sqrt(found.squares);
  return found.one < frobenius ? found.one : frobenius;
}

// A lower bound of the spectral norm of a symmetric matrix, close after few steps: power iteration from the column of
// the largest diagonal entry. `vectors` holds two, padded.
template <class T>
double spectral_estimate(const Panels<T>& P, int steps, T* vectors) {
  using Wide = typename DoubleLanes<T>::Vector;
  constexpr int lanes = Simd<T>::lanes, width = Panels<T>::width;
  T *x = vectors, *y = vectors + P.panels() * width;
  int largest = 0;
  for (int i = 1; i < P.n; ++i) largest = std::fabs(*P.at(i, i)) > std::fabs(*P.at(largest, largest)) ? i : largest;
  for (int i = 0; i < P.n; ++i) x[i] = T(i == largest);
  double norm = 0;
  for (int step = 0; step < steps; ++step) {
    Wide squares = {};
    for (int j = 0; j < P.n; j += lanes) {
      Vector<T> sums[chains] = {};
      const T* p = P.at(0, j);
      int i = 0;
      for (; i + chains <= P.n; i += chains)
#pragma GCC unroll 4
        for (int c = 0; c < chains; ++c) sums[c] += x[i + c] * FASTSQRTM_ISA::load(p + (i + c) * width);
      for (; i < P.n; ++i) sums[0] += x[i] * FASTSQRTM_ISA::load(p + i * width);
      FASTSQRTM_ISA::store(y + j, (sums[0] + sums[1]) + (sums[2] + sums[3]));
      const Wide valid = FASTSQRTM_CONVERT(load_valid(y + j, P.n - j), Wide);
      squares += valid * valid;
    }
    norm = std::sqrt(sum_of_lanes<T>(squares));
    const T factor = norm > 0 ? T(1 / norm) : T(0);
    for (int i = 0; i < P.n; ++i) x[i] = factor * y[i];
  }
  return norm;
}

// sum_ij p_ij q_ij, in double.
template <class T>
double inner_product(const Team& team, const Panels<T>& P, const Panels<T>& Q) {
  return sum_over(team, P,
                  [&](WideSum<T>& sum, int64_t at, int valid) { add_valid(sum, P.data + at, Q.data + at, valid); });
}

// sum_ij p_ij^2 of a symmetric P, from its blocks on and under the diagonal.
template <class T>
double sum_of_squares(const Panels<T>& P) {
  constexpr int lanes = Simd<T>::lanes, width = Panels<T>::width;
  WideSum<T> beside[chains], on[chains];  // the blocks on the diagonal
  for (int J = 0; J < P.blocks(); ++J) {
    const T* column = P.at(0, J * lanes);
    const auto add = [&](WideSum<T>(&sums)[chains], int begin, int end) {
      int i = begin;
      for (; i + chains <= end; i += chains)
#pragma GCC unroll 4
        for (int c = 0; c < chains; ++c)
          add_valid(sums[c], column + (i + c) * width, column + (i + c) * width, P.n - J * lanes);
      for (; i < end; ++i) add_valid(sums[0], column + i * width, column + i * width, P.n - J * lanes);
    };
    const int end = (J + 1) * lanes < P.n ? (J + 1) * lanes : P.n;
    add(on, J * lanes, end);
    add(beside, end, P.n);
  }
  return total(on) + 2 * total(beside);
}

// ||P - Q||_F, where squares neither over- nor underflow.
template <class T>
double distance(const Team& team, const Panels<T>& P, const Panels<T>& Q) {
  return std::sqrt(sum_over(team, P, [&](WideSum<T>& sum, int64_t at, int valid) {
    alignas(64) T difference[Simd<T>::lanes];
    FASTSQRTM_ISA::store(difference, load_valid(P.data + at, valid) - load_valid(Q.data + at, valid));
    sum.add(difference, difference);
  }));
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// Passes over the entries of one matrix or of two of the same order: norms and linear combinations.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/matrix/panel.h"
#include "cpu/matrix/team.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// Calls body(offset, valid) for every vector of an n x n matrix; its first `valid` lanes belong to the matrix. Padding
// holds arbitrary values after a pass; reductions must mask it out.
template <class T, class F>
void each_vector(const Panels<T>& P, F&& body) {
  constexpr int lanes = Simd<T>::lanes, width = Panels<T>::width;
  for (int j = 0; j < P.n; j += lanes) {
    const int64_t first = P.at(0, j) - P.data;
    for (int i = 0; i < P.n; ++i) body(first + int64_t(i) * width, P.n - j);
  }
}

template <class T>
Vector<T> load_valid(const T* p, int valid) {
  const Vector<T> x = FASTSQRTM_ISA::load(p);
  return valid < Simd<T>::lanes ? (Simd<T>::lane_index() < T(valid) - Vector<T>{} ? x : Vector<T>{}) : x;
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
  double total() const {
    double total = 0;
    for (int p = 0; p < parts; ++p)
      for (int c = 0; c < lanes; ++c) total += part[p][c];
    return total;
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
double sum_of_lanes(const typename DoubleLanes<T>::Vector& sum) {
  double total = 0;
  for (int c = 0; c < Simd<T>::lanes; ++c) total += sum[c];
  return total;
}

// Frobenius norm, scaled so that squares neither overflow nor vanish. 0 if all entries are below the smallest normal
// number; NaN if any entry is NaN or Inf.
template <class T>
double frobenius(const Panels<T>& P) {
  using Wide = typename DoubleLanes<T>::Vector;
  WideSum<T> squares;
  each_vector(P, [&](int64_t at, int valid) { add_valid(squares, P.data + at, P.data + at, valid); });
  const double total = squares.total();
  if (total > 1e-70 && total < 1e300) return std::sqrt(total);  // no square that counts over- or underflowed
  Vector<T> largest = {};
  each_vector(P, [&](int64_t at, int valid) {
    const Vector<T> x = load_valid(P.data + at, valid), size = absolute(x);
    largest = size > largest ? size : largest;  // skips NaN; the sum below does not
  });
  T scale = 0;
  for (int c = 0; c < Simd<T>::lanes; ++c) scale = largest[c] > scale ? largest[c] : scale;
  const T inverse = scale < std::numeric_limits<T>::min() ? T(0) : 1 / scale;
  Wide sum = {};
  each_vector(P, [&](int64_t at, int valid) {
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
    for (int p = member; p < P.panels(); p += team.threads)
      for (T *x = P.panel(p), *end = P.panel(p + 1); x < end; x += Simd<T>::lanes)
        FASTSQRTM_ISA::store(x, factor * FASTSQRTM_ISA::load(x));
  });
  return 1 / double(factor);
}

// to <- a from + b to on and under the diagonal, by whole panels.
template <class T>
void combine(const Team& team, T a, const Panels<T>& from, T b, const Panels<T>& to) {
  constexpr int width = Panels<T>::width, lanes = Simd<T>::lanes;
  team.each([&](int member) {
    for (int p = member; p < to.panels(); p += team.threads) {
      const T* x = from.at(p * width, p * width);
      T* y = to.at(p * width, p * width);
      const T* end = to.panel(p) + int64_t(to.rows) * width;
      for (; y < end; x += lanes, y += lanes) {
        Vector<T> value = a * FASTSQRTM_ISA::load(x);
        if (b != 0) value += b * FASTSQRTM_ISA::load(y);
        FASTSQRTM_ISA::store(y, value);
      }
    }
  });
}

// to <- a A + b B, everywhere.
template <class T>
void linear(const Team& team, T a, const Panels<T>& A, T b, const Panels<T>& B, const Panels<T>& to) {
  constexpr int lanes = Simd<T>::lanes;
  team.each([&](int member) {
    for (int p = member; p < to.panels(); p += team.threads) {
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

template <class T>
void copy(const Team& team, const Panels<T>& from, const Panels<T>& to) {
  team.each([&](int member) {
    for (int p = member; p < to.panels(); p += team.threads)
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

// Largest absolute column sum: bounds the spectral norm of a symmetric matrix. It skips NaN.
template <class T>
double one_norm(const Panels<T>& P) {
  constexpr int lanes = Simd<T>::lanes, width = Panels<T>::width;
  Vector<T> largest = {};
  for (int j = 0; j < P.n; j += lanes) {
    Vector<T> sum = {};
    for (const T *x = P.at(0, j), *end = x + int64_t(P.n) * width; x < end; x += width) {
      const Vector<T> value = load_valid(x, P.n - j);
      sum += absolute(value);
    }
    largest = sum > largest ? sum : largest;
  }
  T result = 0;
  for (int c = 0; c < lanes; ++c) result = largest[c] > result ? largest[c] : result;
  return result;
}

// The smaller of the Frobenius norm and the 1-norm, for entries whose squares neither over- nor underflow: bounds the
// spectral norm of a symmetric matrix. NaN if any entry is NaN.
template <class T>
double spectral_bound(const Panels<T>& P) {
  constexpr int lanes = Simd<T>::lanes, width = Panels<T>::width;
  Vector<T> largest = {}, squares = {};
  for (int j = 0; j < P.n; j += lanes) {
    Vector<T> sum = {};
    for (const T *x = P.at(0, j), *end = x + int64_t(P.n) * width; x < end; x += width) {
      const Vector<T> value = load_valid(x, P.n - j);
      sum += absolute(value);
      squares += value * value;
    }
    largest = sum > largest ? sum : largest;
  }
  double one_norm = 0, total = 0;
  for (int c = 0; c < lanes; ++c) {
    one_norm = largest[c] > one_norm ? largest[c] : one_norm;
    total += squares[c];
  }
  const double frobenius = std::sqrt(total);
  return one_norm < frobenius ? one_norm : frobenius;
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
      Vector<T> sum = {};
      const T* p = P.at(0, j);
      for (int i = 0; i < P.n; ++i) sum += x[i] * FASTSQRTM_ISA::load(p + i * width);
      FASTSQRTM_ISA::store(y + j, sum);
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
double inner_product(const Panels<T>& P, const Panels<T>& Q) {
  WideSum<T> sum;
  each_vector(P, [&](int64_t at, int valid) { add_valid(sum, P.data + at, Q.data + at, valid); });
  return sum.total();
}

// sum_ij p_ij^2 of a symmetric P, from its blocks on and under the diagonal.
template <class T>
double sum_of_squares(const Panels<T>& P) {
  constexpr int lanes = Simd<T>::lanes, width = Panels<T>::width;
  WideSum<T> beside, on;  // the blocks on the diagonal
  for (int J = 0; J < P.blocks(); ++J)
    for (int i = J * lanes; i < P.n; ++i) {
      const T* x = P.at(0, J * lanes) + i * width;
      add_valid(i < (J + 1) * lanes ? on : beside, x, x, P.n - J * lanes);
    }
  return on.total() + 2 * beside.total();
}

// ||P - Q||_F, where squares neither over- nor underflow.
template <class T>
double distance(const Panels<T>& P, const Panels<T>& Q) {
  WideSum<T> squares;
  each_vector(P, [&](int64_t at, int valid) {
    alignas(64) T difference[Simd<T>::lanes];
    FASTSQRTM_ISA::store(difference, load_valid(P.data + at, valid) - load_valid(Q.data + at, valid));
    squares.add(difference, difference);
  });
  return std::sqrt(squares.total());
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

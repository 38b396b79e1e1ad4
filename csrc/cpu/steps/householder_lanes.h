// Householder's QR of matrices side by side (matrix/lanes.h): H_k ... H_1 A = R with H = I - tau v v^T and v_1 = 1, in
// LAPACK's signs. The vectors v stay under the diagonal until the columns of Q take their place.
#pragma once

#include <limits>

#include "cpu/matrix/lanes.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// Sums of squares outside of these ends may have lost digits, or all of them.
template <class T>
constexpr T least_square =
    std::numeric_limits<T>::min() / (std::numeric_limits<T>::epsilon() * std::numeric_limits<T>::epsilon());
template <class T>
constexpr T largest_square = std::numeric_limits<T>::max() / 4;

template <class T>
Vector<T> sum_of_squares(const Vector<T>* x, int count, const Vector<T>& scale) {
  Vector<T> sums[2] = {};
  for (int i = 0; i < count; ++i) {
    const Vector<T> scaled = x[i] * scale;
    sums[i % 2] += scaled * scaled;
  }
  return sums[0] + sums[1];
}

// A factor for each lane that brings numbers of this size near 1.
template <class T>
Vector<T> scale_for(const Vector<T>& size) {
  const Vector<T> one = broadcast(T(1));
  return size > 0 ? one / larger<T>(size, broadcast(std::numeric_limits<T>::min())) : one;
}

template <class T>
Vector<T> largest_of(const Vector<T>* x, int count) {
  Vector<T> largest = {};
  for (int i = 0; i < count; ++i) largest = larger<T>(largest, absolute<T>(x[i]));
  return largest;
}

template <class T>
Vector<T> norm(const Vector<T>* x, int count) {
  const Vector<T> one = broadcast(T(1)), squares = sum_of_squares<T>(x, count, one);
  const auto in_range = (squares >= least_square<T>)&(squares <= largest_square<T>);
  if (!any(~in_range)) return square_root<T>(squares);
  const Vector<T> scale = in_range ? one : scale_for<T>(largest_of<T>(x, count));
  return square_root<T>(sum_of_squares<T>(x, count, scale)) / scale;
}

// The reflector that takes x to (beta, 0, ..., 0), which becomes (beta, v_2, ..., v_count). Returns its tau. As in
// LAPACK it is the identity where all but x_1 are zero.
template <class T>
Vector<T> reflector(Vector<T>* x, int count) {
  const Vector<T> one = broadcast(T(1));
  if (count == 1) return Vector<T>{};
  Vector<T> squares = sum_of_squares<T>(x + 1, count - 1, one), total = squares + x[0] * x[0], scale = one;
  const auto in_range = (squares >= least_square<T>)&(total <= largest_square<T>);
  auto none = squares != squares;  // nowhere
  if (any(~in_range)) {
    const Vector<T> rest = largest_of<T>(x + 1, count - 1);
    none = rest == 0;
    scale = in_range ? one : scale_for<T>(larger<T>(rest, absolute<T>(x[0])));
    total = in_range ? total : sum_of_squares<T>(x, count, scale);
  }
  const Vector<T> alpha = x[0] * scale, size = square_root<T>(total), beta = alpha < 0 ? size : -size;
  const Vector<T> factor = none ? Vector<T>{} : one / (alpha - beta);
  x[0] = none ? x[0] : beta / scale;
  for (int i = 1; i < count; ++i) x[i] = x[i] * scale * factor;  // scale * factor may be too large
  return none ? Vector<T>{} : (beta - alpha) / beta;
}

// c <- c - tau v (v^T c) for `columns` columns. v_1 = 1 whatever stands in its place.
template <int columns, class T>
inline void reflect(const Vector<T>* v, int count, const Vector<T>& tau, Vector<T>* c, int stride) {
  Vector<T> w[columns];
#pragma GCC unroll 8
  for (int x = 0; x < columns; ++x) w[x] = c[x * stride];
  for (int i = 1; i < count; ++i) {
    const Vector<T> left = v[i];
#pragma GCC unroll 8
    for (int x = 0; x < columns; ++x) w[x] += left * c[x * stride + i];
  }
#pragma GCC unroll 8
  for (int x = 0; x < columns; ++x) {
    w[x] *= tau;
    c[x * stride] -= w[x];
  }
  for (int i = 1; i < count; ++i) {
    const Vector<T> left = v[i];
#pragma GCC unroll 8
    for (int x = 0; x < columns; ++x) c[x * stride + i] -= left * w[x];
  }
}

// Reflector k applied to the columns from `first` to before `end`.
template <class T>
void reflect_columns(const Lanes<T>& A, int k, const Vector<T>& tau, int first, int end) {
  const Vector<T>* v = A.column(k) + k;
  const int count = A.m - k;
  int j = first;
  for (; j + 8 <= end; j += 8) reflect<8, T>(v, count, tau, A.column(j) + k, A.m);
  for (; j + 4 <= end; j += 4) reflect<4, T>(v, count, tau, A.column(j) + k, A.m);
  for (; j + 2 <= end; j += 2) reflect<2, T>(v, count, tau, A.column(j) + k, A.m);
  for (; j < end; ++j) reflect<1, T>(v, count, tau, A.column(j) + k, A.m);
}

// LAPACK's choice of pivots: the column whose rest is longest, by norms that each step makes smaller, and computes anew
// where too many digits went with it.
template <class T>
struct LanesPivots {
  Vector<T>*now, *then;  // norms of the columns' rests, and when they were computed last
  Mask<T>* order;        // column j of the result is column order[j] of A

  void start(const Lanes<T>& A, int n) {
    for (int j = 0; j < n; ++j) {
      now[j] = then[j] = norm<T>(A.column(j), A.m);
      order[j] = Mask<T>{} + j;
    }
  }

  // Puts the longest column in place k.
  void choose(const Lanes<T>& A, int k, int n) {
    Vector<T> longest = now[k];
    Mask<T> at = Mask<T>{} + k;
    for (int j = k + 1; j < n; ++j) {
      const Mask<T> better = now[j] > longest;
      longest = better ? now[j] : longest;
      at = better ? Mask<T>{} + j : at;
    }
    const auto exchange = [](const Mask<T>& chosen, auto& x, auto& y) {
      const auto old = x;
      x = chosen ? y : old;
      y = chosen ? old : y;
    };
    for (int j = k + 1; j < n; ++j) {
      const Mask<T> chosen = at == j;
      if (!any(chosen)) continue;
      Vector<T>*x = A.column(k), *y = A.column(j);
      for (int i = 0; i < A.m; ++i) exchange(chosen, x[i], y[i]);
      exchange(chosen, now[k], now[j]);
      exchange(chosen, then[k], then[j]);
      exchange(chosen, order[k], order[j]);
    }
  }

  // Takes row k of R off the norms.
  void shorten(const Lanes<T>& A, int k, int n) {
    constexpr T unit = std::numeric_limits<T>::epsilon() / 2;
    const T limit = std::sqrt(unit);
    for (int j = k + 1; j < n; ++j) {
      const Vector<T> one = broadcast(T(1)), divisor = now[j] > 0 ? now[j] : one, last = then[j] > 0 ? then[j] : one;
      const Vector<T> part = absolute<T>(A.column(j)[k]) / divisor, left = larger<T>(one - part * part, Vector<T>{});
      const Vector<T> ratio = now[j] / last;
      const auto stale = (left * (ratio * ratio) <= limit) & (now[j] > 0);
      now[j] *= square_root<T>(left);
      if (!any(stale)) continue;
      const Vector<T> fresh = norm<T>(A.column(j) + k + 1, A.m - k - 1);
      now[j] = stale ? fresh : now[j];
      then[j] = stale ? fresh : then[j];
    }
  }
};

// A becomes R on and above the diagonal, and the reflectors under it; `pivots` may be null.
template <class T>
void factor(const Lanes<T>& A, int n, Vector<T>* tau, LanesPivots<T>* pivots) {
  const int k = A.m < n ? A.m : n;
  if (pivots) pivots->start(A, n);
  for (int i = 0; i < k; ++i) {
    if (pivots) pivots->choose(A, i, n);
    tau[i] = reflector<T>(A.column(i) + i, A.m - i);
    if (i + 1 < A.m) reflect_columns(A, i, tau[i], i + 1, n);
    if (pivots) pivots->shorten(A, i, n);
  }
}

// The reflectors in the first `count` columns become the first `columns` columns of their product.
template <class T>
void form_q(const Lanes<T>& A, int count, int columns, const Vector<T>* tau) {
  for (int j = count; j < columns; ++j)
    for (int i = 0; i < A.m; ++i) A.column(j)[i] = broadcast(T(i == j));
  for (int k = count - 1; k >= 0; --k) {
    reflect_columns(A, k, tau[k], k + 1, columns);
    Vector<T>* column = A.column(k);
    for (int i = 0; i < k; ++i) column[i] = Vector<T>{};
    column[k] = broadcast(T(1)) - tau[k];
    for (int i = k + 1; i < A.m; ++i) column[i] *= -tau[k];
  }
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// Householder's QR of matrices side by side (matrix/columns_in_lanes.h): H_k ... H_1 A = R with H = I - tau v v^T and
// v_1 = 1, in LAPACK's signs. The vectors v stay under the diagonal until the columns of Q take their place.
#pragma once

#include <limits>

#include "cpu/matrix/columns_in_lanes.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// Sums of squares outside of these ends may have lost digits, or all of them.
template <class S>
struct SquareRange {
  using Limits = std::numeric_limits<typename S::Scalar>;
  static constexpr auto least = Limits::min() / (Limits::epsilon() * Limits::epsilon()), most = Limits::max() / 4;
};

template <class S>
VectorOf<S> sum_of_squares(const VectorOf<S>* x, int count, const VectorOf<S>& scale) {
  VectorOf<S> sums[2] = {};
  for (int i = 0; i < count; ++i) {
    const VectorOf<S> scaled = x[i] * scale;
    sums[i % 2] += scaled * scaled;
  }
  return sums[0] + sums[1];
}

// A factor for each lane that brings numbers of this size near 1.
template <class S>
VectorOf<S> scale_for(const VectorOf<S>& size) {
  const VectorOf<S> one = broadcast_to<S>(1);
  return size > 0 ? one / larger(size, broadcast_to<S>(SquareRange<S>::Limits::min())) : one;
}

template <class S>
VectorOf<S> largest_of(const VectorOf<S>* x, int count) {
  VectorOf<S> largest = {};
  for (int i = 0; i < count; ++i) largest = larger(largest, absolute(x[i]));
  return largest;
}

template <class S>
VectorOf<S> norm(const VectorOf<S>* x, int count) {
  const VectorOf<S> one = broadcast_to<S>(1), squares = sum_of_squares<S>(x, count, one);
  const auto in_range = (squares >= SquareRange<S>::least) & (squares <= SquareRange<S>::most);
  if (!any(~in_range)) return square_root(squares);
  const VectorOf<S> scale = in_range ? one : scale_for<S>(largest_of<S>(x, count));
  return square_root(sum_of_squares<S>(x, count, scale)) / scale;
}

// sum + x^2 with one rounding or with two, but everywhere the same: inlined, it is a multiply-add in some places only.
template <class S>
__attribute__((noinline)) VectorOf<S> add_square(const VectorOf<S>& sum, const VectorOf<S>& x) {
  return sum + x * x;
}

// The reflector that takes x to (beta, 0, ..., 0), which becomes (beta, v_2, ..., v_count). Returns its tau. As in
// LAPACK it is the identity where all but x_1 are zero.
template <class S>
VectorOf<S> reflector(VectorOf<S>* x, int count) {
  const VectorOf<S> one = broadcast_to<S>(1);
  if (count == 1) return VectorOf<S>{};
  VectorOf<S> squares = sum_of_squares<S>(x + 1, count - 1, one), total = add_square<S>(squares, x[0]), scale = one;
  const auto in_range = (squares >= SquareRange<S>::least) & (total <= SquareRange<S>::most);
  auto none = squares != squares;  // nowhere
  if (any(~in_range)) {
    const VectorOf<S> rest = largest_of<S>(x + 1, count - 1);
    none = rest == 0;
    scale = in_range ? one : scale_for<S>(larger(rest, absolute(x[0])));
    total = in_range ? total : sum_of_squares<S>(x, count, scale);
  }
  const VectorOf<S> alpha = x[0] * scale, size = square_root(total), beta = alpha < 0 ? size : -size;
  const VectorOf<S> factor = none ? VectorOf<S>{} : one / (alpha - beta);
  x[0] = none ? x[0] : beta / scale;
  for (int i = 1; i < count; ++i) x[i] = x[i] * scale * factor;  // scale * factor may be too large
  return none ? VectorOf<S>{} : (beta - alpha) / beta;
}

// c <- c - tau v (v^T c) for `columns` columns. v_1 = 1 whatever stands in its place.
template <int columns, class S>
inline void reflect(const VectorOf<S>* v, int count, const VectorOf<S>& tau, VectorOf<S>* c, int stride) {
  VectorOf<S> w[columns];
#pragma GCC unroll 8
  for (int x = 0; x < columns; ++x) w[x] = c[x * stride];
  for (int i = 1; i < count; ++i) {
    const VectorOf<S> left = v[i];
#pragma GCC unroll 8
    for (int x = 0; x < columns; ++x) w[x] += left * c[x * stride + i];
  }
#pragma GCC unroll 8
  for (int x = 0; x < columns; ++x) {
    w[x] *= tau;
    c[x * stride] -= w[x];
  }
  for (int i = 1; i < count; ++i) {
    const VectorOf<S> left = v[i];
#pragma GCC unroll 8
    for (int x = 0; x < columns; ++x) c[x * stride + i] -= left * w[x];
  }
}

// Reflector k applied to the columns from `first` to before `end`.
template <class S>
void reflect_columns(const ColumnsInLanes<S>& A, int k, const VectorOf<S>& tau, int first, int end) {
  const VectorOf<S>* v = A.column(k) + k;
  const int count = A.m - k;
  int j = first;
  for (; j + 8 <= end; j += 8) reflect<8, S>(v, count, tau, A.column(j) + k, A.m);
  for (; j + 4 <= end; j += 4) reflect<4, S>(v, count, tau, A.column(j) + k, A.m);
  for (; j + 2 <= end; j += 2) reflect<2, S>(v, count, tau, A.column(j) + k, A.m);
  for (; j < end; ++j) reflect<1, S>(v, count, tau, A.column(j) + k, A.m);
}

// LAPACK's choice of pivots: the column whose rest is longest, by norms that each step makes smaller, and computes anew
// where too many digits went with it.
template <class S>
struct LanesPivots {
  VectorOf<S>*now, *then;  // norms of the columns' rests, and when they were computed last
  MaskOf<S>* order;        // column j of the result is column order[j] of A

  void start(const ColumnsInLanes<S>& A, int n) {
    for (int j = 0; j < n; ++j) {
      now[j] = then[j] = norm<S>(A.column(j), A.m);
      order[j] = MaskOf<S>{} + j;
    }
  }

  // Puts the longest column in place k.
  void choose(const ColumnsInLanes<S>& A, int k, int n) {
    VectorOf<S> longest = now[k];
    MaskOf<S> at = MaskOf<S>{} + k;
    for (int j = k + 1; j < n; ++j) {
      const MaskOf<S> better = now[j] > longest;
      longest = better ? now[j] : longest;
      at = better ? MaskOf<S>{} + j : at;
    }
    const auto exchange = [](const MaskOf<S>& chosen, auto& x, auto& y) {
      const auto old = x;
      x = chosen ? y : old;
      y = chosen ? old : y;
    };
    for (int j = k + 1; j < n; ++j) {
      const MaskOf<S> chosen = at == j;
      if (!any(chosen)) continue;
      VectorOf<S>*x = A.column(k), *y = A.column(j);
      for (int i = 0; i < A.m; ++i) exchange(chosen, x[i], y[i]);
      exchange(chosen, now[k], now[j]);
      exchange(chosen, then[k], then[j]);
      exchange(chosen, order[k], order[j]);
    }
  }

  // Takes row k of R off the norms.
  void shorten(const ColumnsInLanes<S>& A, int k, int n) {
    const auto limit = std::sqrt(SquareRange<S>::Limits::epsilon() / 2);  // of LAPACK's unit of rounding
    for (int j = k + 1; j < n; ++j) {
      const VectorOf<S> one = broadcast_to<S>(1), divisor = now[j] > 0 ? now[j] : one,
                        last = then[j] > 0 ? then[j] : one;
      const VectorOf<S> part = absolute(A.column(j)[k]) / divisor, left = larger(one - part * part, VectorOf<S>{});
      const VectorOf<S> ratio = now[j] / last;
      const auto stale = (left * (ratio * ratio) <= limit) & (now[j] > 0);
      now[j] *= square_root(left);
      if (!any(stale)) continue;
      const VectorOf<S> fresh = norm<S>(A.column(j) + k + 1, A.m - k - 1);
      now[j] = stale ? fresh : now[j];
      then[j] = stale ? fresh : then[j];
    }
  }
};

// A becomes R on and above the diagonal, and the reflectors under it; `pivots` may be null.
template <class S>
void factor(const ColumnsInLanes<S>& A, int n, VectorOf<S>* tau, LanesPivots<S>* pivots) {
  const int k = A.m < n ? A.m : n;
  if (pivots) pivots->start(A, n);
  for (int i = 0; i < k; ++i) {
    if (pivots) pivots->choose(A, i, n);
    tau[i] = reflector<S>(A.column(i) + i, A.m - i);
    if (i + 1 < A.m) reflect_columns(A, i, tau[i], i + 1, n);
    if (pivots) pivots->shorten(A, i, n);
  }
}

// The reflectors in the first `count` columns become the first `columns` columns of their product.
template <class S>
void form_q(const ColumnsInLanes<S>& A, int count, int columns, const VectorOf<S>* tau) {
  for (int j = count; j < columns; ++j)
    for (int i = 0; i < A.m; ++i) A.column(j)[i] = broadcast_to<S>(i == j);
  for (int k = count - 1; k >= 0; --k) {
    reflect_columns(A, k, tau[k], k + 1, columns);
    VectorOf<S>* column = A.column(k);
    for (int i = 0; i < k; ++i) column[i] = VectorOf<S>{};
    column[k] = broadcast_to<S>(1) - tau[k];
    for (int i = k + 1; i < A.m; ++i) column[i] *= -tau[k];
  }
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

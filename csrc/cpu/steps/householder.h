// Householder's QR of one matrix in panels: H_k ... H_1 A = R with H = I - tau v v^T and v_1 = 1, in LAPACK's signs.
// The reflectors of a panel are applied together, as I - V T^T V^T, by products; with pivots one by one, because the
// next pivot depends on it. T comes from the products V^T v, which the reflection of the panel itself has to compute.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/matrix/memory.h"
#include "cpu/matrix/product.h"
#include "cpu/matrix/symmetric.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// The sum of squares of `count` numbers `stride` apart, each times `scale`.
template <class T>
double strided_squares(const T* x, int stride, int count, double scale) {
  double sum = 0;
  for (int i = 0; i < count; ++i) {
    const double value = scale * x[int64_t(i) * stride];
    sum += value * value;
  }
  return sum;
}

template <class T>
double strided_largest(const T* x, int stride, int count) {
  double largest = 0;
  for (int i = 0; i < count; ++i) largest = std::max(largest, std::fabs(double(x[int64_t(i) * stride])));
  return largest;
}

// Sums of squares outside of these ends may have lost digits, or all of them.
template <class T>
bool square_is_in_range(T squares) {
  constexpr T epsilon = std::numeric_limits<T>::epsilon(), least = std::numeric_limits<T>::min() / (epsilon * epsilon);
  return squares >= least && squares <= std::numeric_limits<T>::max() / 4;
}

// A factor that brings numbers of this size near 1.
template <class T>
double scale_for(double size) {
  return size > 0 ? 1 / std::max(size, double(std::numeric_limits<T>::min())) : 1;
}

// `squares`: the sum of the squares, as far as they are in range.
template <class T>
T strided_norm(const T* x, int stride, int count, T squares) {
  if (square_is_in_range(squares)) return std::sqrt(squares);
  const double scale = scale_for<T>(strided_largest(x, stride, count));
  return T(std::sqrt(strided_squares(x, stride, count, scale)) / scale);
}

// The numbers of the reflector that takes x to (beta, 0, ..., 0): v_i = factor x_i for i > 1. As in LAPACK it is the
// identity where all but x_1 are zero. `squares`: the sum of the others' squares, as far as they are in range.
template <class T>
struct Reflection {
  T tau, beta, factor;

  Reflection(T* x, int stride, int count, T squares) : tau(0), beta(*x), factor(0) {
    const T total = squares + *x * *x;
    if (square_is_in_range(squares) && square_is_in_range(total)) {
      finish(*x, std::sqrt(total), T(1));
      return;
    }
    double scale = strided_largest(x + stride, stride, count - 1);
    if (scale == 0) return;
    scale = scale_for<T>(std::max(scale, std::fabs(double(*x))));
    for (int i = 0; i < count; ++i) x[int64_t(i) * stride] = T(x[int64_t(i) * stride] * scale);
    finish(*x, T(std::sqrt(strided_squares(x, stride, count, 1))), T(scale));
  }

 private:
  void finish(T alpha, T size, T scale) {
    const T end = alpha < 0 ? size : -size;
    tau = (end - alpha) / end;
    beta = end / scale;
    factor = 1 / (alpha - end);
  }
};

// The columns of T for the reflectors of one panel, contiguous.
template <class T>
struct PanelFactors {
  static constexpr int width = Panels<T>::width;

  T* columns;
  T* column(int c) const { return columns + c * width; }

  // Appends reflector c: T(:, c) = tau (e_c - T V^T v).
  void append(int c, T tau, const T* inner) const {
    constexpr int lanes = Simd<T>::lanes, chains = 2;
    Vector<T> low[chains] = {}, high[chains] = {};
    const auto add = [&](int j, int chain) {
      low[chain] += inner[j] * load(column(j));
      high[chain] += inner[j] * load(column(j) + lanes);
    };
    for (int j = 0; j + 1 < c; j += 2) {
      add(j, 0);
      add(j + 1, 1);
    }
    if (c % 2 == 1) add(c - 1, 0);
    store(column(c), -tau * (low[0] + low[1]));
    store(column(c) + lanes, -tau * (high[0] + high[1]));
    column(c)[c] = tau;
  }
};

// The sums of squares of the columns of a panel, over `count` rows.
template <class T>
inline void column_squares(const T* rows, int count, Vector<T>* squares) {
  constexpr int width = Panels<T>::width, lanes = Simd<T>::lanes, chains = 4;
  Vector<T> sums[chains][2] = {};
  int i = 0;
  for (; i + chains <= count; i += chains)
#pragma GCC unroll 4
    for (int x = 0; x < chains; ++x)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const Vector<T> value = load(rows + (i + x) * width + half * lanes);
        sums[x][half] += value * value;
      }
  for (; i < count; ++i)
    for (int half = 0; half < 2; ++half) {
      const Vector<T> value = load(rows + i * width + half * lanes);
      sums[0][half] += value * value;
    }
  for (int half = 0; half < 2; ++half)
    squares[half] = (sums[0][half] + sums[1][half]) + (sums[2][half] + sums[3][half]);
}

// w <- V^T C for one v, which is `factor` times the column at v but for its first entry, a one, and one panel of C.
template <bool scaled, class T>
inline void inner_products(std::conditional_t<scaled, T, const T>* v, T factor, const T* c, int count, Vector<T>* w) {
  constexpr int width = Panels<T>::width, lanes = Simd<T>::lanes, chains = 4;
  Vector<T> sums[chains][2] = {};
  sums[0][0] = load(c);
  sums[0][1] = load(c + lanes);
  const auto add = [&](int i, Vector<T>* sum) {
    // Both loads stand before the store: one of them would wait for it.
    const Vector<T> first = load(c + i * width), second = load(c + i * width + lanes);
    T left = v[i * width];
    if constexpr (scaled) v[i * width] = left *= factor;
    sum[0] += left * first;
    sum[1] += left * second;
  };
  int i = 1;
  for (; i + chains <= count; i += chains)
#pragma GCC unroll 4
    for (int x = 0; x < chains; ++x) add(i + x, sums[x]);
  for (; i < count; ++i) add(i, sums[0]);
  for (int x = 0; x < 2; ++x) w[x] = (sums[0][x] + sums[1][x]) + (sums[2][x] + sums[3][x]);
}

// C <- C - v w^T. first_vector = 1: in the second half of the panel only.
template <int first_vector, class T>
inline void subtract_outer(const T* v, T* c, int count, const Vector<T>* w) {
  constexpr int width = Panels<T>::width, lanes = Simd<T>::lanes;
  for (int x = first_vector; x < 2; ++x) store(c + x * lanes, load(c + x * lanes) - w[x]);
  for (int i = 1; i < count; ++i) {
    const Vector<T> left = broadcast(v[i * width]);
#pragma GCC unroll 2
    for (int x = first_vector; x < 2; ++x)
      store(c + i * width + x * lanes, load(c + i * width + x * lanes) - left * w[x]);
  }
}

// Reflector k of A, for column k, and its effect on the other columns of its panel.
template <class T>
T reflect_panel(const Panels<T>& A, int k, const PanelFactors<T>& factors) {
  constexpr int width = Panels<T>::width, lanes = Simd<T>::lanes;
  const int c = k % width, count = A.m - k;
  T *x = A.at(k, k), *rows = A.at(k, k - c);
  Vector<T> w[2];
  alignas(64) T inner[width];
  column_squares(rows + width, count - 1, w);
  store(inner, w[0]);
  store(inner + lanes, w[1]);
  const Reflection<T> reflection(x, width, count, inner[c]);
  inner_products<true>(x, reflection.factor, rows, count, w);
  store(inner, w[0]);
  store(inner + lanes, w[1]);
  factors.append(c, reflection.tau, inner);
  for (int j = 0; j <= c; ++j) inner[j] = 0;
  for (int v = 0; v < 2; ++v) w[v] = broadcast(reflection.tau) * load(inner + v * lanes);
  if (c + 1 < lanes)
    subtract_outer<0>(x, rows, count, w);
  else
    subtract_outer<1>(x, rows, count, w);
  *x = reflection.beta;
  return reflection.tau;
}

// Reflector k of A applied to panel p, which is another one.
template <class T>
void reflect_other_panel(const Panels<T>& A, int k, T tau, int p) {
  constexpr int width = Panels<T>::width;
  const T* v = A.at(k, k);
  T* rows = A.panel(p) + int64_t(k) * width;
  Vector<T> w[2];
  inner_products<false>(v, T(1), rows, A.m - k, w);
  for (int x = 0; x < 2; ++x) w[x] *= tau;
  subtract_outer<0>(v, rows, A.m - k, w);
}

enum class Order { forward, backward };  // H_c ... H_1 C, or H_1 ... H_c C

// The reflectors of panel P, of which there are `count`, applied to panel p of C, whose rows before `start` are zero
// where those reflectors begin. V has zeros and ones on and above its diagonal.
template <Order order, class T>
void reflect_by_block(const Panels<T>& V, int P, int count, const PanelFactors<T>& factors, const Panels<T>& C, int p,
                      int start) {
  constexpr int width = Panels<T>::width, tile_rows = Simd<T>::tile_rows;
  constexpr int k_block = 24 * 1024 / int(width * sizeof(T));  // rows of C that stay in L1
  alignas(64) T inner[width * width], w[width * width];
  const int first = P * width, end = (count + tile_rows - 1) / tile_rows * tile_rows;
  T* c = C.panel(p);
  Tile<T, 2> tile;
  if (C.m <= start) return;
  for (int k0 = start; k0 < C.m; k0 += k_block)
    for (int i = 0; i < end; i += tile_rows) {
      tile.clear();
      tile.multiply(V.at(k0, first + i), width, c + int64_t(k0) * width, width, std::min(k_block, C.m - k0));
      if (k0 > start) tile.add(inner + i * width, width);
      tile.store(inner + i * width, width);
    }
  for (int i = 0; i < end; i += tile_rows) {
    tile.clear();
    if (order == Order::forward)
      tile.template multiply<1, width>(factors.column(i), 1, inner, width, count);
    else
      tile.multiply(factors.columns + i, width, inner, width, count);
    tile.store(w + i * width, width);
  }
  for (int i = first; i < C.m; i += tile_rows) {
    tile.load(c + int64_t(i) * width, width);
    tile.template multiply<-1, width>(V.at(i, first), 1, w, width, count);
    tile.store(c + int64_t(i) * width, width);
  }
}

// C <- the first columns of H_1 ... H_c, of the c reflectors in panel P, in the panel of C that begins in its row.
template <class T>
void begin_with_block(const Panels<T>& V, int P, int count, const PanelFactors<T>& factors, const Panels<T>& C) {
  constexpr int width = Panels<T>::width, tile_rows = Simd<T>::tile_rows;
  constexpr int lanes = Simd<T>::lanes;
  alignas(64) T top[width * width] = {}, w[width * width];  // the first rows of V, transposed
  const int first = P * width, end = (count + tile_rows - 1) / tile_rows * tile_rows;
  T* c = C.panel(P);
  for (int i = 0; i < width && first + i < V.rows; i += lanes)
    for (int j = 0; j < width; j += lanes) {
      Block<T> block;
      block.load(V.at(first + i, first + j));
      block.transpose();
      block.store(top + j * width + i);
    }
  Tile<T, 2> tile;
  for (int i = 0; i < end; i += tile_rows) {
    tile.clear();
    tile.multiply(factors.columns + i, width, top, width, count);
    tile.store(w + i * width, width);
  }
  for (int i = first; i < C.m; i += tile_rows) {
    tile.clear();
    tile.template multiply<-1, width>(V.at(i, first), 1, w, width, count);
    tile.store(c + int64_t(i) * width, width);
  }
  for (int i = 0; i < width && first + i < C.n && first + i < C.m; ++i) *C.at(first + i, first + i) += 1;
}

// LAPACK's choice of pivots: the column whose rest is longest, by norms that each step makes smaller, and computes anew
// where too many digits went with it.
template <class T>
struct Pivots {
  T *now, *then;   // norms of the columns' rests, and when they were computed last: padded to panels
  int64_t* order;  // column j of the result is column order[j] of A

  void start(const Panels<T>& A) const {
    constexpr int width = Panels<T>::width;
    for (int p = 0; p < A.panels(); ++p) {
      Vector<T> squares[2];
      column_squares(A.panel(p), A.m, squares);
      store(now + p * width, squares[0]);
      store(now + p * width + Simd<T>::lanes, squares[1]);
    }
    for (int j = 0; j < A.n; ++j) {
      now[j] = then[j] = strided_norm(A.at(0, j), width, A.m, now[j]);
      order[j] = j;
    }
  }

  // Puts the longest column in place k.
  void choose(const Panels<T>& A, int k) const {
    const int j = int(std::max_element(now + k, now + A.n) - now);
    if (j == k) return;
    T *x = A.at(0, k), *y = A.at(0, j);
    for (int i = 0; i < A.m; ++i) std::swap(x[int64_t(i) * A.width], y[int64_t(i) * A.width]);
    std::swap(now[k], now[j]);
    std::swap(then[k], then[j]);
    std::swap(order[k], order[j]);
  }

  // Takes row k of R off the norms.
  void shorten(const Panels<T>& A, int k) const {
    constexpr int lanes = Simd<T>::lanes;
    constexpr T unit = std::numeric_limits<T>::epsilon() / 2;
    const T limit = std::sqrt(unit);
    const Vector<T> one = broadcast(T(1));
    for (int first = (k + 1) / lanes * lanes; first < A.n; first += lanes) {
      const Vector<T> entry = load(A.at(k, first)), size = load(now + first), last = load(then + first);
      const Vector<T> part = (entry < 0 ? -entry : entry) / (size > 0 ? size : one);
      const Vector<T> rest = one - part * part, left = rest > 0 ? rest : Vector<T>{};
      const Vector<T> ratio = size / (last > 0 ? last : one), kept = left * (ratio * ratio);
      for (int c = 0; c < lanes; ++c) {
        const int j = first + c;
        if (j <= k || j >= A.n || !(size[c] > 0)) continue;
        if (kept[c] <= limit) {
          const T squares = T(strided_squares(A.at(k + 1, j), A.width, A.m - k - 1, 1));
          now[j] = then[j] = strided_norm(A.at(k + 1, j), A.width, A.m - k - 1, squares);
        } else {
          now[j] = size[c] * std::sqrt(left[c]);
        }
      }
    }
  }
};

// The upper triangle in the first `rows` rows of panel p of A, into a contiguous matrix of as many columns as A.
template <class T, class Storage>
void store_triangle(const Panels<T>& A, int p, int rows, Storage* out) {
  constexpr int width = Panels<T>::width;
  const int first = p * width, columns = std::min(width, A.n - first);
  for (int i = 0; i < rows; ++i) {
    const T* from = A.panel(p) + int64_t(i) * width;
    Storage* to = out + int64_t(i) * A.n + first;
    const int zeros = i - first;
    if (columns == width)  // all but the last: the compiler knows the length
      for (int j = 0; j < width; ++j) encode(j < zeros ? T(0) : from[j], to[j]);
    else
      for (int j = 0; j < columns; ++j) encode(j < zeros ? T(0) : from[j], to[j]);
  }
}

// R goes to `out`, `r_rows` rows of it, and the reflectors stay in A, with zeros and ones on and above their diagonal.
// `factors` has a T for each panel of them.
template <class T, class Storage>
void factor(const Team& team, const Panels<T>& A, T* factors, const Pivots<T>* pivots, Storage* out, int r_rows) {
  constexpr int width = Panels<T>::width;
  const int k = std::min(A.m, A.n), panels = (k + width - 1) / width;
  if (pivots) pivots->start(A);
  for (int P = 0; P < panels; ++P) {
    const PanelFactors<T> block = {factors + int64_t(P) * width * width};
    const int first = P * width, count = std::min(width, k - first);
    for (int i = first; i < first + count; ++i) {
      if (pivots) pivots->choose(A, i);
      const T tau = reflect_panel(A, i, block);
      if (!pivots) continue;
      for (int p = P + 1; p < A.panels(); ++p) reflect_other_panel(A, i, tau, p);
      pivots->shorten(A, i);
    }
    store_triangle(A, P, r_rows, out);
    for (int j = 0; j < count; ++j)
      for (int i = 0; i <= j; ++i) *A.at(first + i, first + j) = T(i == j);
    if (pivots) continue;
    team.each([&](int member) {
      for (int p = P + 1 + member; p < A.panels(); p += team.threads)
        reflect_by_block<Order::forward>(A, P, count, block, A, p, first);
    });
  }
  for (int p = panels; p < A.panels(); ++p) store_triangle(A, p, r_rows, out);
}

// Q <- its first columns, from the reflectors that factor() left in V, `k` of them.
template <class T>
void form_q(const Team& team, const Panels<T>& V, int k, const T* factors, const Panels<T>& Q) {
  constexpr int width = Panels<T>::width;
  const int panels = (k + width - 1) / width;
  for (int p = 0; p < Q.panels(); ++p) {
    std::fill(Q.panel(p), Q.panel(p + 1), T(0));
    if (p < panels) continue;
    for (int j = p * width; j < std::min(Q.n, (p + 1) * width); ++j) *Q.at(j, j) = 1;
  }
  for (int P = panels - 1; P >= 0; --P) {
    const PanelFactors<T> block = {const_cast<T*>(factors) + int64_t(P) * width * width};
    const int count = std::min(width, k - P * width);
    team.each([&](int member) {
      for (int p = P + member; p < Q.panels(); p += team.threads) {
        if (p == P)
          begin_with_block(V, P, count, block, Q);
        else
          reflect_by_block<Order::backward>(V, P, count, block, Q, p, (P + 1) * width);
      }
    });
  }
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

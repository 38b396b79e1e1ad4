// Eigenvalues and eigenvectors of a symmetric matrix: Householder's tridiagonal form, then implicit QL steps (Golub and
// Van Loan, Matrix Computations, section 8.3). LAPACK has faster ones for large matrices, but the number of its threads
// shows in its results, and it must not be called inside a parallel region.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/matrix/memory.h"
#include "cpu/matrix/workspace.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

template <class T>
T sum_of_vector(const Vector<T>& x) {
  T sums[Simd<T>::lanes];
  std::memcpy(sums, &x, sizeof x);
  for (int half = Simd<T>::lanes / 2; half > 0; half /= 2)
    for (int c = 0; c < half; ++c) sums[c] += sums[c + half];
  return sums[0];
}

// The tridiagonal matrix is kept in more digits than the computation has: the many QL steps add up their rounding.
template <class T>
struct WideOf;
template <>
struct WideOf<float> {
  using Type = double;
};
template <>
struct WideOf<double> {
#ifdef __x86_64__
  using Type = long double;
#else
  using Type = double;  // elsewhere a long double is slow
#endif
};
template <class T>
using Wide = typename WideOf<T>::Type;

// A matrix stored row after row.
template <class T>
struct Rows {
  int n, stride;
  T* data;

  Rows(T* data, int n) : n(n), stride(int(round_up(n, Simd<T>::lanes))), data(data) {}
  T* row(int i) const { return data + int64_t(i) * stride; }
};

// A = V^T diag(values) V with one eigenvector in each row of V.
template <class T>
struct Eigen {
  Rows<T> V;
  Wide<T>* values;  // in no order
};

// A Householder vector, zero up to index k and one at k + 1, for row k of a symmetric matrix: I - tau v v^T takes what
// is right of the diagonal to (beta, 0, ..., 0).
template <class T>
struct Reflector {
  double tau, beta;

  Reflector(const T* row, int k, int n, T* v) {
    double squares = 0;
    for (int j = k + 2; j < n; ++j) squares += double(row[j]) * row[j];
    const double alpha = row[k + 1];
    const bool none = !(squares > 0);
    beta = none ? alpha : -std::copysign(std::sqrt(alpha * alpha + squares), alpha);
    tau = none ? 0 : (beta - alpha) / beta;
    const double scale = none ? 0 : 1 / (alpha - beta);
    for (int j = 0; j <= k; ++j) v[j] = 0;
    v[k + 1] = 1;
    for (int j = k + 2; j < n; ++j) v[j] = T(row[j] * scale);
  }
};

// The tridiagonal form of M, all of it given: diagonal in d, beside it in e[0..n-2]. Leaves the reflectors in the rows
// of M and their factors in tau. `scratch` holds three vectors.
template <class T, class W>
void tridiagonalise(const Team& team, const Rows<T>& M, W* d, W* e, T* tau, T* scratch) {
  constexpr int lanes = Simd<T>::lanes;
  const int n = M.n, stride = M.stride;
  T *v = scratch, *w = scratch + stride, *next = scratch + 2 * stride;
  for (int j = 0; j < 3 * stride; ++j) scratch[j] = 0;
  // M <- M - v w^T - w v^T of one step and the product with the v of the next one share a pass over the rows.
  const auto update = [&](int i, int first) {
    const Vector<T> left = broadcast(v[i]), right = broadcast(w[i]);
    T* row = M.row(i);
    Vector<T> sum = {};
    for (int j = first; j < stride; j += lanes) {
      const Vector<T> x = load(row + j) - left * load(w + j) - right * load(v + j);
      store(row + j, x);
      sum += x * load(next + j);
    }
    return sum_of_vector<T>(sum);
  };
  for (int k = 0; k + 1 < n; ++k) {
    update(k, k / lanes * lanes);
    d[k] = M.row(k)[k];
    const Reflector<T> reflector(M.row(k), k, n, next);
    e[k] = reflector.beta;
    tau[k] = T(reflector.tau);
    const int first = (k + 1) / lanes * lanes;
    T* product = M.row(k);  // no longer needed
    team.each([&](int member) {
      for (int i = k + 1 + member; i < n; i += team.threads) product[i] = update(i, first);
    });
    double inner = 0;
    for (int i = k + 1; i < n; ++i) inner += double(product[i]) * next[i];
    const T factor = T(reflector.tau), half = T(reflector.tau * reflector.tau * inner / 2);
    for (int i = 0; i <= k; ++i) w[i] = 0;
    for (int i = k + 1; i < n; ++i) w[i] = factor * product[i] - half * next[i];
    for (int i = 0; i < n; ++i) product[i] = v[i] = next[i];
  }
  d[n - 1] = M.row(n - 1)[n - 1] - 2 * W(v[n - 1]) * w[n - 1];
  e[n - 1] = 0;
}

// Rows i, ..., i + count - 1 of V <- themselves times the reflector of row k, which is zero before column k + 1.
template <int count, class T>
void reflect(const Rows<T>& reflectors, int k, T tau, const Rows<T>& V, int i) {
  constexpr int lanes = Simd<T>::lanes;
  const T* v = reflectors.row(k);
  Vector<T> sums[count] = {}, factors[count];
  for (int j = (k + 1) / lanes * lanes; j < V.stride; j += lanes)
    for (int r = 0; r < count; ++r) sums[r] += load(V.row(i + r) + j) * load(v + j);
  for (int r = 0; r < count; ++r) factors[r] = broadcast(tau * sum_of_vector<T>(sums[r]));
  for (int j = (k + 1) / lanes * lanes; j < V.stride; j += lanes)
    for (int r = 0; r < count; ++r) store(V.row(i + r) + j, load(V.row(i + r) + j) - factors[r] * load(v + j));
}

// V <- product of the reflectors, transposed: V_k ends as row k of it. A few rows at a time share what they read.
template <class T>
void accumulate(const Team& team, const Rows<T>& reflectors, const T* tau, const Rows<T>& V) {
  constexpr int block = 4;
  const int n = V.n, blocks = (n + block - 1) / block;
  team.each([&](int member) {
    for (int b = member; b < blocks; b += team.threads) {
      const int first = b * block, end = std::min(n, first + block), shared = end == first + block ? first : 0;
      for (int i = first; i < end; ++i) {
        for (int j = 0; j < V.stride; ++j) V.row(i)[j] = T(i == j);
        // Reflector k leaves the rows up to k of the identity as they are.
        for (int k = i - 1; k >= shared; --k) reflect<1>(reflectors, k, tau[k], V, i);
      }
      for (int k = shared - 1; k >= 0; --k) reflect<block>(reflectors, k, tau[k], V, first);
    }
  });
}

// Rows i + 1 and i of V <- s V_i + c V_i+1 and c V_i - s V_i+1, for i = last - 1, ..., first, in `vectors` vectors from
// column j on.
template <int vectors, class T>
void rotate_columns(const Rows<T>& V, int j, int first, int last, const T* cosines, const T* sines) {
  constexpr int lanes = Simd<T>::lanes;
  Vector<T> below[vectors];
  for (int x = 0; x < vectors; ++x) below[x] = load(V.row(last) + j + x * lanes);
  for (int i = last - 1; i >= first; --i) {
    const Vector<T> c = broadcast(cosines[i]), s = broadcast(sines[i]);
    T* row = V.row(i) + j;
#pragma GCC unroll 4
    for (int x = 0; x < vectors; ++x) {
      const Vector<T> above = load(row + x * lanes);
      store(row + V.stride + x * lanes, s * above + c * below[x]);
      below[x] = c * above - s * below[x];
    }
  }
  for (int x = 0; x < vectors; ++x) store(V.row(first) + j + x * lanes, below[x]);
}

// The rotations of a few QL steps, applied together so that V is read once for all of them.
template <class T>
struct Rotations {
  static constexpr int most = 16;
  const int stride, capacity;
  T* const space;  // 2 stride capacity elements
  int steps = 0, first[most], last[most];

  Rotations(int n, int stride, T* space) : stride(stride), capacity(std::clamp(n / 4, 1, most)), space(space) {}
  T* cosines(int step) const { return space + int64_t(2 * step) * stride; }
  T* sines(int step) const { return cosines(step) + stride; }
};

// A few columns at a time, which stay in the cache.
template <class T>
void rotate(const Team& team, const Rows<T>& V, Rotations<T>& rotations) {
  constexpr int lanes = Simd<T>::lanes, chunk = 4;
  const int vectors = V.stride / lanes, chunks = (vectors + chunk - 1) / chunk;
  const auto apply = [&](auto width, int vector) {
    for (int s = 0; s < rotations.steps; ++s)
      rotate_columns<decltype(width)::value>(V, vector * lanes, rotations.first[s], rotations.last[s],
                                             rotations.cosines(s), rotations.sines(s));
  };
  team.each([&](int member) {
    for (int q = member; q < chunks; q += team.threads) {
      if ((q + 1) * chunk <= vectors) {
        apply(std::integral_constant<int, chunk>{}, q * chunk);
      } else {
        for (int x = q * chunk; x < vectors; ++x) apply(std::integral_constant<int, 1>{}, x);
      }
    }
  });
  rotations.steps = 0;
}

// Implicit QL steps on the tridiagonal matrix (d, e): d becomes its eigenvalues. Returns false if they do not converge.
// `space` holds n vectors.
template <class T>
bool diagonalise(const Team& team, Wide<T>* d, Wide<T>* e, const Rows<T>& V, T* space) {
  using W = Wide<T>;
  const int n = V.n;
  // Entries beside the diagonal that change no eigenvalue of a matrix of norm 1 or 2 by more than rounding are zero.
  // The least of them must be above the rounding of a step, which the largest eigenvalues bring to the smallest ones.
  constexpr W precision = std::numeric_limits<T>::epsilon(), own = std::numeric_limits<W>::epsilon();
  constexpr W relative = std::max(precision / 8, 2 * own),
              least = std::max(precision * precision, std::min(64 * own, precision / 8));
  constexpr int most_steps = 60;
  Rotations<T> rotations(n, V.stride, space);
  for (int first = 0; first < n; ++first) {
    for (int step = 0;; ++step) {
      int last = first;
      while (last + 1 < n && std::fabs(e[last]) > relative * (std::fabs(d[last]) + std::fabs(d[last + 1])) + least)
        ++last;
      if (last == first) break;
      if (step == most_steps) return false;
      const W half = (d[first + 1] - d[first]) / (2 * e[first]);
      W g = d[last] - d[first] + e[first] / (half + std::copysign(std::sqrt(half * half + 1), half));
      W c = 1, s = 1, p = 0;
      int reached = first;
      T *cosines = rotations.cosines(rotations.steps), *sines = rotations.sines(rotations.steps);
      for (int i = last - 1; i >= first; --i) {
        const W f = s * e[i], b = c * e[i], r = std::sqrt(f * f + g * g);
        e[i + 1] = r;
        if (r == 0) {  // the matrix has split
          d[i + 1] -= p;
          e[last] = 0;
          reached = i + 1;
          break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        const W t = (d[i] - g) * s + 2 * c * b;
        p = s * t;
        d[i + 1] = g + p;
        g = c * t - b;
        cosines[i] = T(c);
        sines[i] = T(s);
      }
      rotations.first[rotations.steps] = reached;
      rotations.last[rotations.steps] = last;
      if (++rotations.steps == rotations.capacity) rotate(team, V, rotations);
      if (reached > first) continue;
      d[first] -= p;
      e[first] = g;
      e[last] = 0;
    }
  }
  rotate(team, V, rotations);
  return true;
}

// The eigenvalues and eigenvectors of the A in ws[0], complete and of a norm up to 2: the result lies in ws[4] and
// ws[2], the other matrices are scratch. `values` is nullptr if the iteration does not converge.
//
// The type R of the reduction decides how accurate the eigenvalues near zero are: a root takes an error e of them to
// e^(1/2), and a trace adds that up. The vectors have the rounding of T, which stays as small as it is.
template <class R, class T>
Eigen<T> eigensolve(const Team& team, const Workspace<T>& ws) {
  const int n = ws.n;
  Wide<T>*d = reinterpret_cast<Wide<T>*>(ws[2].data), *e = d + n;
  const Rows<R> M(reinterpret_cast<R*>(ws[3].data), n);  // also in ws[4] if R is wider than T
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < M.stride; ++j) M.row(i)[j] = j < n ? *ws[0].at(i, j) : 0;
  R *scratch = reinterpret_cast<R*>(ws[1].data), *factors = scratch + 3 * M.stride;
  tridiagonalise(team, M, d, e, factors, scratch);
  const Rows<T> V(ws[4].data, n);
  if constexpr (std::is_same<R, T>::value) {
    accumulate(team, M, factors, V);
  } else {
    const Rows<T> reflectors(ws[0].data, n);
    T* tau = ws[1].data;
    for (int i = 0; i + 1 < n; ++i) {
      for (int j = 0; j < V.stride; ++j) reflectors.row(i)[j] = j < n ? T(M.row(i)[j]) : T(0);
      tau[i] = T(factors[i]);
    }
    accumulate(team, reflectors, tau, V);
  }
  if (!diagonalise(team, d, e, V, ws[0].data)) return {V, nullptr};
  return {V, d};
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

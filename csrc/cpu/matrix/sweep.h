// The symmetric sweep of H, or of I + H, in place: one triangle, no pivoting, n^3 flop, the matrix positive definite.
//
// Sweeping row k of a symmetric matrix replaces d = a_kk by -1/d, column k by v = a_k / d and everything else by
// a_ij - a_ik a_kj / d; after all rows minus the inverse stands in the place of the matrix. Here a block of `lanes`
// rows is swept at a time, and the identity of I + H is never added: only pivots notice it, d = 1 + h. What a pivot
// leaves behind decides the result:
//   -1/d         gives -(I + H)^-1, or with pivots d = h the inverse of H itself, negated;
//   1 - 1/d      gives H (I + H)^-1, and h / d is that without the subtraction.
#pragma once

#include <cmath>

#include "cpu/matrix/panel.h"
#include "cpu/matrix/product.h"
#include "cpu/matrix/symmetric.h"
#include "path.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

enum class Swept { minus_inverse, quotient, minus_own_inverse };

// The pivot block I + D (minus_own_inverse: D) as L diag(d) L^T, L unit lower triangular.
template <class T>
struct PivotFactors {
  static constexpr int lanes = Simd<T>::lanes;
  alignas(64) T column[lanes][lanes];  // column[k][i] = L(i, k) for i > k
  T inverse[lanes];                    // 1 / d_k
  bool positive;
};

template <class T>
constexpr int few = Simd<T>::lanes < 4 ? Simd<T>::lanes : 4;

// Sweeps a few rows from `first` on of a lanes x lanes block, with rows a panel's width apart, of which `order` belong
// to the matrix: these among themselves, then all others by them.
template <class T, Swept result>
__attribute__((noinline)) void sweep_few(T* block, int first, int order, PivotFactors<T>& factors) {
  constexpr int lanes = Simd<T>::lanes, width = Simd<T>::panel, few = FASTSQRTM_ISA::few<T>;
  const Vector<T> zero = {}, lane = Simd<T>::lane_index();
  if (first == 0) factors.positive = true;
  // Each pivot waits for the one before. Those of these rows, computed by themselves with the operations of the block,
  // keep the others from waiting.
  T next[few][few], pivots[few], inverses[few];
#pragma GCC unroll 4
  for (int p = 0; p < few; ++p)
#pragma GCC unroll 4
    for (int q = p; q < few; ++q) next[p][q] = block[(first + p) * width + first + q];
#pragma GCC unroll 4
  for (int p = 0; p < few; ++p) {
    pivots[p] = result == Swept::minus_own_inverse ? next[p][p] : 1 + next[p][p];
    inverses[p] = 1 / pivots[p];
#pragma GCC unroll 4
    for (int q = p + 1; q < few; ++q)
#pragma GCC unroll 4
      for (int r = q; r < few; ++r) next[q][r] -= next[p][q] * (next[p][r] * inverses[p]);
  }
  // When row k is swept, the other rows i lose u[i] times `scaled`, with u[i] for their entry in column k.
  alignas(64) T u[few][lanes];
  Vector<T> row[few], others[few];
#pragma GCC unroll 4
  for (int p = 0; p < few; ++p) row[p] = load(block + (first + p) * width);
#pragma GCC unroll 4
  for (int p = 0; p < few; ++p) {
    const int k = first + p;
    const bool belongs = k < order;
    const auto own = lane == T(k) - zero;
    const T inverse = belongs ? inverses[p] : T(0);
    const Vector<T> own_row = belongs ? row[p] : zero;
    store(u[p], own_row);
    // The compiler would take each u[i] out of the register by two shuffles, on one port; loads are free.
    asm("" : "+m"(u[p]));
    const Vector<T> scaled = own ? broadcast(-inverse) : own_row * inverse;
    factors.positive = factors.positive && (pivots[p] > 0 || !belongs);
    factors.inverse[k] = inverse;
    store(factors.column[k], scaled);
    if (belongs) {
#pragma GCC unroll 4
      for (int q = 0; q < few; ++q)
        if (q != p) row[q] = (own ? zero : row[q]) - u[p][first + q] * scaled;
      row[p] = result == Swept::quotient && own ? broadcast(u[p][k] * inverse) : scaled;
    }
    // The columns of these rows are zero in the others until it is their turn.
    others[p] = lane > T(k) - zero && lane < T(first + few) - zero ? zero : scaled;
  }
#pragma GCC unroll 4
  for (int p = 0; p < few; ++p) store(block + (first + p) * width, row[p]);
  const auto own = lane >= T(first) - zero && lane < T(first + few) - zero;
  const auto sweep_rows = [&](int begin, int end) {
    for (int i = begin; i < end; ++i) {
      Vector<T> x = load(block + i * width);
      x = own ? zero : x;
#pragma GCC unroll 4
      for (int p = 0; p < few; ++p) x -= u[p][i] * others[p];
      store(block + i * width, x);
    }
  };
  sweep_rows(0, first);
  sweep_rows(first + few, lanes);
}
// So many rows are swept of a pivot block of which `order` belong to the matrix: at its edge half of them may suffice.
template <class T>
constexpr int swept_rows(int order) {
  constexpr int lanes = Simd<T>::lanes, half = lanes / 2;
  return half >= few<T> && order <= half ? half : lanes;
}
template <class T, Swept result>
void sweep_block(T* block, int order, PivotFactors<T>& factors) {
  for (int first = 0; first < swept_rows<T>(order); first += few<T>) sweep_few<T, result>(block, first, order, factors);
}

// With U one block in the block row of the pivot block M = I + D: `eliminated` is L^-1 U and
// `scaled` is diag(d)^-1 L^-1 U, so that U^T M^-1 U = eliminated^T scaled without the explicit inverse of M, whose
// error would grow with its condition number. Turns U into M^-1 U. M has as many rows as were swept.
template <class T, int rows>
void eliminate(const PivotFactors<T>& factors, Block<T>& U, T* eliminated, T* scaled) {
#pragma GCC unroll 16
  for (int k = 0; k < rows; ++k)
#pragma GCC unroll 16
    for (int i = k + 1; i < rows; ++i) U.row[i] -= factors.column[k][i] * U.row[k];
  U.store(eliminated);
#pragma GCC unroll 16
  for (int k = 0; k < rows; ++k) U.row[k] *= factors.inverse[k];
  U.store(scaled);
#pragma GCC unroll 16
  for (int i = rows - 1; i > 0; --i)
#pragma GCC unroll 16
    for (int k = 0; k < i; ++k) U.row[k] -= factors.column[k][i] * U.row[i];
}

// So many rows are swept before the rest of the matrix is updated, for all of them at once: few updates, because each
// of a large matrix moves it through the caches.
constexpr int rows_of_large_sweep = 64;
constexpr int64_t largest_small_sweep = 256 * 1024;  // bytes; measured: from here on the large sweep is faster
template <class T>
constexpr int swept_together(int n) {
  return int64_t(n) * n * int(sizeof(T)) <= largest_small_sweep ? Simd<T>::lanes : rows_of_large_sweep;
}

// Two strips of as many rows, panel after panel, in the memory of one matrix: a matrix of more than one block has the
// room, and a matrix of one block needs no strips.
template <class T>
struct SweepStrips {
  T *eliminated, *scaled;

  explicit SweepStrips(const Panels<T>& memory)
      : eliminated(memory.data),
        scaled(memory.data + int64_t(swept_together<T>(memory.n)) * memory.width * memory.panels()) {}
};

// P -= eliminated^T scaled for tile_rows rows from row i on and `vectors` blocks from block J on, by `steps` times
// `depth` rows of the strips.
template <class T, int vectors, int most_steps, int depth>
inline void update_tile(const Panels<T>& P, const T* left, const T* right, int steps, int i, int J) {
  T* target = P.at(i, J * P.lanes);
  Tile<T, vectors> tile;
  // Of large matrices the product is summed by itself: its numbers are smaller than those it is taken from, and round
  // less. So the error of an inverse does not grow with the number of pivots, but with that of the updates.
  constexpr bool apart = most_steps > 1;
  if (apart)
    tile.clear();
  else
    tile.load(target, P.width);
  for (int s = 0; s < (most_steps == 1 ? 1 : steps); ++s, left += depth * P.width, right += depth * P.width)
    tile.template multiply<-1>(left, P.width, right, P.width, depth);
  if (apart) tile.add(target, P.width);
  tile.store(target, P.width);
}

struct Blocks {
  int begin, end;
  bool contain(int J) const { return begin <= J && J < end; }
};

template <class T, int rows>
struct SweepSteps {
  static constexpr int lanes = Simd<T>::lanes, width = Simd<T>::panel, tile_rows = Simd<T>::tile_rows,
                       step = rows / lanes;
  const Team& team;
  const SweepStrips<T> strips;

  // Of block column J, what row k of those swept together has left.
  static T* strip_block(T* strip, int J, int k) {
    return strip + ((J / 2) * rows + k * lanes) * width + (J % 2) * lanes;
  }
  // Block J of block row K, of which `depth` rows were swept; right of the diagonal it is read from under the diagonal.
  template <int depth = lanes>
  void eliminate_block(const Panels<T>& P, const PivotFactors<T>& factors, int K, int J, int k) const {
    Block<T> block;
    T* place = J < K ? P.block(K, J) : P.block(J, K);
    block.load(place);
    if (J > K) block.transpose();
    eliminate<T, depth>(factors, block, strip_block(strips.eliminated, J, k), strip_block(strips.scaled, J, k));
    if (J > K) block.transpose();
    block.store(place);
  }
  // Block row I in these block columns, but not right of the diagonal nor in block column `skipped`, for `count` rows
  // blocks from k on of those swept together, of each `depth` rows.
  template <int depth = lanes, class F>
  void update(const Panels<T>& P, int I, Blocks columns, int skipped, int k, int count, F&& between) const {
    const int end = columns.end < I + 1 ? columns.end : I + 1;
    for (int r = 0; r < lanes && I * lanes + r < P.n; r += tile_rows) {
      const T* left = strip_block(strips.eliminated, I, k) + r;
      for (int J = columns.begin; J < end; J += 2) {  // a panel
        const int first = J == skipped ? J + 1 : J, last = J + 1 >= end || J + 1 == skipped ? J : J + 1;
        const T* right = strip_block(strips.scaled, first, k);
        if (first < last)
          update_tile<T, 2, step, depth>(P, left, right, count, I * lanes + r, first);
        else if (first == last)
          update_tile<T, 1, step, depth>(P, left, right, count, I * lanes + r, first);
      }
      between();
    }
  }
  void update(const Panels<T>& P, int I, Blocks columns, int skipped, int k, int count) const {
    update(P, I, columns, skipped, k, count, [] {});
  }
  // Everything but the pivot block K, where the rows swept together are the first `depth` of a block. Sweeps the next
  // pivot block as well, in pieces between the updates, which do not wait for its divisions.
  template <Swept result, int depth>
  void sweep_rest(const Panels<T>& P, const PivotFactors<T>& factors, int K, PivotFactors<T>& next_factors) const {
    const int blocks = P.blocks(), next = K + 1;
    for (int I = 0; I < blocks; ++I)
      if (I != K) eliminate_block<depth>(P, factors, K, I, 0);
    const int order = P.n - next * lanes, end = next < blocks ? swept_rows<T>(order) : 0;
    int first = 0;
    const auto sweep_next = [&] {
      if (first >= end) return;
      sweep_few<T, result>(P.block(next, next), first, order, next_factors);
      first += few<T>;
    };
    if (next < blocks) update<depth>(P, next, {next, blocks}, -1, 0, 1, [] {});
    for (int I = 0; I < blocks; ++I)
      if (I != K) update<depth>(P, I, {0, I == next ? next : blocks}, K, 0, 1, sweep_next);
    while (first < end) sweep_next();
  }
  // Where the rows swept together meet their columns.
  template <Swept result>
  void sweep_square(const Panels<T>& P, Blocks swept, PivotFactors<T>* factors) const {
    for (int K = swept.begin, k = 0; K < swept.end; ++K, ++k) {
      sweep_block<T, result>(P.block(K, K), P.n - K * lanes, factors[k]);
      for (int J = swept.begin; J < swept.end; ++J)
        if (J != K) eliminate_block(P, factors[k], K, J, k);
      for (int I = swept.begin; I < swept.end; ++I)
        if (I != K) update(P, I, swept, K, k, 1);
    }
  }
  // Everything else, for all of the rows swept together at once.
  void sweep_rest(const Panels<T>& P, const PivotFactors<T>* factors, Blocks swept) const {
    const int blocks = P.blocks();
    team.each([&](int member) {
      for (int p = member; 2 * p < blocks; p = team.next(p)) {
        const Blocks own{2 * p, 2 * p + 2 < blocks ? 2 * p + 2 : blocks};
        for (int K = swept.begin, k = 0; K < swept.end; ++K, ++k) {
          for (int I = own.begin; I < own.end; ++I)
            if (!swept.contain(I)) eliminate_block(P, factors[k], K, I, k);
          if (own.begin >= swept.end)
            for (int I = own.begin; I < own.end; ++I) update(P, I, swept, K, k, 1);
          else if (own.end <= swept.begin)
            for (int I = swept.begin; I < swept.end; ++I)
              if (I != K) update(P, I, own, -1, k, 1);
        }
      }
    });
    team.each([&](int member) {
      for (int p = member; 2 * p < blocks; p = team.next(p)) {
        if (swept.contain(2 * p)) continue;
        for (int I = 2 * p; I < blocks; ++I)
          if (!swept.contain(I)) update(P, I, {2 * p, 2 * p + 2}, -1, 0, swept.end - swept.begin);
      }
    });
  }
};

// Adds the logarithms of the pivots to `sum`.
template <class T>
void add_logarithms(const PivotFactors<T>& factors, int order, double* sum) {
  for (int i = 0; sum && i < Simd<T>::lanes && i < order; ++i) *sum -= std::log(double(factors.inverse[i]));
}

// By one thread: threads share only larger matrices.
template <class T, Swept result>
__attribute__((noinline)) bool sweep_small(const Panels<T>& P, const SweepStrips<T>& strips, double* log_determinant) {
  static_assert(largest_small_sweep < smallest_shared_bytes);
  constexpr int lanes = Simd<T>::lanes;
  const Team one;
  const SweepSteps<T, lanes> steps{one, strips};
  PivotFactors<T> factors[2];
  bool positive = true;
  sweep_block<T, result>(P.block(0, 0), P.n, factors[0]);
  for (int K = 0; K < P.blocks(); ++K) {
    const PivotFactors<T>& own = factors[K % 2];
    PivotFactors<T>& next = factors[(K + 1) % 2];
    if (swept_rows<T>(P.n - K * lanes) == lanes)
      steps.template sweep_rest<result, lanes>(P, own, K, next);
    else
      steps.template sweep_rest<result, lanes / 2>(P, own, K, next);
    positive = positive && own.positive;
    add_logarithms(own, P.n - K * lanes, log_determinant);
  }
  return positive;
}

template <class T, Swept result>
__attribute__((noinline)) bool sweep_large(const Team& team, const Panels<T>& P, const SweepStrips<T>& strips,
                                           double* log_determinant) {
  constexpr int step = rows_of_large_sweep / Simd<T>::lanes;
  const SweepSteps<T, rows_of_large_sweep> steps{team, strips};
  const int blocks = P.blocks();
  PivotFactors<T> factors[step];
  bool positive = true;
  for (Blocks swept{0, 0}; swept.begin < blocks; swept.begin = swept.end) {
    swept.end = swept.begin + step < blocks ? swept.begin + step : blocks;
    steps.template sweep_square<result>(P, swept, factors);
    steps.sweep_rest(P, factors, swept);
    for (int K = swept.begin, k = 0; K < swept.end; ++K, ++k) {
      positive = positive && factors[k].positive;
      add_logarithms(factors[k], P.n - K * Simd<T>::lanes, log_determinant);
    }
  }
  return positive;
}

// Sweeps I + P or P, reading and writing only the blocks on and under the diagonal. Returns false if a pivot was not
// positive. Adds the logarithms of the pivots to `log_determinant` unless it is null.
template <class T, Swept result>
bool sweep(const Team& team, const Panels<T>& P, const SweepStrips<T>& strips, double* log_determinant = nullptr) {
  return swept_together<T>(P.n) == Simd<T>::lanes ? sweep_small<T, result>(P, strips, log_determinant)
                                                  : sweep_large<T, result>(team, P, strips, log_determinant);
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

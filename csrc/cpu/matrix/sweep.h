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

// Sweeps a lanes x lanes block of which the first `order` rows belong to the matrix.
template <class T, Swept result>
void sweep_block(Block<T>& block, int order, PivotFactors<T>& factors) {
  constexpr int lanes = Simd<T>::lanes;
  factors = {};
  factors.positive = true;
  Vector<T> row[lanes];
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) row[i] = block.row[i];
  constexpr int ahead = lanes < 4 ? lanes : 4;
  T pivots[ahead], inverses[ahead];
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k) {  // unrolled, so that the block stays in registers
    if (k >= order) break;
    if (k % ahead == 0) {
      // Each pivot waits for the one before. The rows and columns of a few, taken by themselves with the operations of
      // the block, keep the others from waiting.
      alignas(64) T rows[ahead][lanes];
      T next[ahead][ahead];
#pragma GCC unroll 4
      for (int i = 0; i < ahead; ++i) store(rows[i], row[k + i]);
      asm("" : "+m"(rows));
#pragma GCC unroll 4
      for (int i = 0; i < ahead; ++i)
#pragma GCC unroll 4
        for (int j = i; j < ahead; ++j) next[i][j] = rows[i][k + j];
#pragma GCC unroll 4
      for (int p = 0; p < ahead; ++p) {
        pivots[p] = result == Swept::minus_own_inverse ? next[p][p] : 1 + next[p][p];
        inverses[p] = 1 / pivots[p];
#pragma GCC unroll 4
        for (int i = p + 1; i < ahead; ++i)
#pragma GCC unroll 4
          for (int j = i; j < ahead; ++j) next[i][j] -= next[p][i] * (next[p][j] * inverses[p]);
      }
    }
    const auto own = Simd<T>::lane_is(k);
    const Vector<T> column = row[k];
    alignas(64) T u[lanes];
    store(u, column);
    // The compiler would take each u[i] out of the register by two shuffles, on one port; loads are free.
    asm("" : "+m"(u));
    const T d = pivots[k % ahead], inverse = inverses[k % ahead];
    const Vector<T> scaled = own ? broadcast(-inverse) : column * inverse;
    factors.positive = factors.positive && d > 0;
    factors.inverse[k] = inverse;
    store(factors.column[k], scaled);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i)
      if (i != k) row[i] = (own ? Vector<T>{} : row[i]) - u[i] * scaled;
    row[k] = result == Swept::quotient ? (own ? broadcast(u[k] * inverse) : scaled) : scaled;
  }
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) block.row[i] = row[i];
}

// With U one block in the block row of the pivot block M = I + D: `eliminated` is L^-1 U and
// `scaled` is diag(d)^-1 L^-1 U, so that U^T M^-1 U = eliminated^T scaled without the explicit inverse of M, whose
// error would grow with its condition number. Turns U into M^-1 U.
template <class T>
void eliminate(const PivotFactors<T>& factors, Block<T>& U, T* eliminated, T* scaled) {
  constexpr int lanes = Simd<T>::lanes;
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k)
#pragma GCC unroll 16
    for (int i = k + 1; i < lanes; ++i) U.row[i] -= factors.column[k][i] * U.row[k];
  U.store(eliminated);
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k) U.row[k] *= factors.inverse[k];
  U.store(scaled);
#pragma GCC unroll 16
  for (int i = lanes - 1; i > 0; --i)
#pragma GCC unroll 16
    for (int k = 0; k < i; ++k) U.row[k] -= factors.column[k][i] * U.row[i];
}

// So many rows are swept before the rest of the matrix is updated, for all of them at once: few updates, because each
// of a large matrix moves it through the caches.
constexpr int rows_of_large_sweep = 64;
template <class T>
constexpr int swept_together(int n) {
  constexpr int large_bytes = 256 * 1024;  // measured: from here on the large sweep is faster
  return int64_t(n) * n * int(sizeof(T)) <= large_bytes ? Simd<T>::lanes : rows_of_large_sweep;
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

// P -= eliminated^T scaled for tile_rows rows from row i on and `vectors` blocks from block J on.
template <class T, int vectors, int most_steps>
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
  for (int s = 0; s < (most_steps == 1 ? 1 : steps); ++s, left += P.lanes * P.width, right += P.lanes * P.width)
    tile.template multiply<-1>(left, P.width, right, P.width, P.lanes);
  if (apart) tile.add(target, P.width);
  tile.store(target, P.width);
}

struct Blocks {
  int begin, end;
  bool contain(int J) const { return begin <= J && J < end; }
};

template <class T, Swept result, int rows>
__attribute__((noinline)) bool sweep_by(const Team& team, const Panels<T>& P, const SweepStrips<T>& strips,
                                        double* log_determinant) {
  constexpr int lanes = Simd<T>::lanes, width = Simd<T>::panel, tile_rows = Simd<T>::tile_rows, step = rows / lanes;
  const int blocks = P.blocks();
  PivotFactors<T> factors[step];
  // Of block column J, what row K of those swept together has left.
  const auto strip_block = [](T* strip, int J, int k) {
    return strip + ((J / 2) * rows + k * lanes) * width + (J % 2) * lanes;
  };
  // Block J of block row K; right of the diagonal it is read from under the diagonal.
  const auto eliminate_block = [&](int K, int J, int k) {
    Block<T> block;
    T* place = J < K ? P.block(K, J) : P.block(J, K);
    block.load(place);
    if (J > K) block.transpose();
    eliminate(factors[k], block, strip_block(strips.eliminated, J, k), strip_block(strips.scaled, J, k));
    if (J > K) block.transpose();
    block.store(place);
  };
  // Block row I in these block columns, but not right of the diagonal nor in block column `skipped`, for `count` rows
  // from k on of those swept together.
  const auto update = [&](int I, Blocks columns, int skipped, int k, int count) {
    const int end = columns.end < I + 1 ? columns.end : I + 1;
    for (int r = 0; r < lanes && I * lanes + r < P.n; r += tile_rows) {
      const T* left = strip_block(strips.eliminated, I, k) + r;
      for (int J = columns.begin; J < end; J += 2) {  // a panel
        const int first = J == skipped ? J + 1 : J, last = J + 1 >= end || J + 1 == skipped ? J : J + 1;
        const T* right = strip_block(strips.scaled, first, k);
        if (first < last)
          update_tile<T, 2, step>(P, left, right, count, I * lanes + r, first);
        else if (first == last)
          update_tile<T, 1, step>(P, left, right, count, I * lanes + r, first);
      }
    }
  };
  bool positive = true;
  for (Blocks swept{0, 0}; swept.begin < blocks; swept.begin = swept.end) {
    swept.end = swept.begin + step < blocks ? swept.begin + step : blocks;
    // Where the rows swept together meet their columns.
    for (int K = swept.begin, k = 0; K < swept.end; ++K, ++k) {
      Block<T> block;
      block.load(P.block(K, K));
      sweep_block<T, result>(block, P.n - K * lanes, factors[k]);
      block.store(P.block(K, K));
      positive = positive && factors[k].positive;
      for (int i = 0; log_determinant && i < lanes && K * lanes + i < P.n; ++i)
        *log_determinant -= std::log(double(factors[k].inverse[i]));
      if constexpr (step > 1) {
        for (int J = swept.begin; J < swept.end; ++J)
          if (J != K) eliminate_block(K, J, k);
        for (int I = swept.begin; I < swept.end; ++I)
          if (I != K) update(I, swept, K, k, 1);
      }
    }
    // The rest of these rows and columns: a panel needs of the other panels only what is above.
    team.each([&](int member) {
      for (int J = 2 * member; J < blocks; J += 2 * team.threads) {
        const Blocks own{J, J + 2 < blocks ? J + 2 : blocks};
        for (int K = swept.begin, k = 0; K < swept.end; ++K, ++k) {
          for (int I = own.begin; I < own.end; ++I)
            if (!swept.contain(I)) eliminate_block(K, I, k);
          if constexpr (step > 1) {
            if (own.begin >= swept.end)
              for (int I = own.begin; I < own.end; ++I) update(I, swept, K, k, 1);
            else if (own.end <= swept.begin)
              for (int I = swept.begin; I < swept.end; ++I)
                if (I != K) update(I, own, -1, k, 1);
          }
        }
      }
    });
    // Everything else, for all of them at once.
    team.each([&](int member) {
      for (int J = 2 * member; J < blocks; J += 2 * team.threads)
        for (int I = J; I < J + 2 && I < blocks; ++I) {
          if (swept.contain(I)) continue;
          if constexpr (step == 1) {
            update(I, {0, blocks}, swept.begin, 0, 1);
          } else {
            update(I, {0, swept.begin}, -1, 0, swept.end - swept.begin);
            update(I, {swept.end, blocks}, -1, 0, swept.end - swept.begin);
          }
        }
    });
  }
  return positive;
}

// Sweeps I + P or P, reading and writing only the blocks on and under the diagonal. Returns false if a pivot was not
// positive. Adds the logarithms of the pivots to `log_determinant` unless it is null.
template <class T, Swept result>
bool sweep(const Team& team, const Panels<T>& P, const SweepStrips<T>& strips, double* log_determinant = nullptr) {
  return swept_together<T>(P.n) == Simd<T>::lanes
             ? sweep_by<T, result, Simd<T>::lanes>(team, P, strips, log_determinant)
             : sweep_by<T, result, rows_of_large_sweep>(team, P, strips, log_determinant);
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

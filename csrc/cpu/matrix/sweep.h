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
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k) {  // unrolled, so that the block stays in registers
    if (k >= order) break;
    const auto own = Simd<T>::lane_is(k);
    const Vector<T> column = block.row[k];
    alignas(64) T u[lanes];
    store(u, column);
    const T d = result == Swept::minus_own_inverse ? u[k] : 1 + u[k];
    const T inverse = 1 / d;
    const Vector<T> scaled = own ? broadcast(-inverse) : column * inverse;
    factors.positive = factors.positive && d > 0;
    factors.inverse[k] = inverse;
    store(factors.column[k], scaled);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i)
      if (i != k) block.row[i] = (own ? Vector<T>{} : block.row[i]) - u[i] * scaled;
    block.row[k] = result == Swept::quotient ? (own ? broadcast(u[k] * inverse) : scaled) : scaled;
  }
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

// Two strips of `lanes` rows, panel after panel, in the memory of one matrix: a matrix of more than one block has the
// room, and a matrix of one block needs no strips.
template <class T>
struct SweepStrips {
  T *eliminated, *scaled;

  explicit SweepStrips(const Panels<T>& memory)
      : eliminated(memory.data), scaled(memory.data + int64_t(memory.lanes) * memory.width * memory.panels()) {}
};

// P -= eliminated^T scaled for tile_rows rows from row i on and `vectors` blocks from block J on.
template <class T, int vectors>
inline void update_tile(const Panels<T>& P, const T* left, const T* right, int i, int J) {
  T* target = P.at(i, J * P.lanes);
  Tile<T, vectors> tile;
  tile.load(target, P.width);
  tile.template multiply<-1>(left, P.width, right, P.width, P.lanes);
  tile.store(target, P.width);
}

// Sweeps I + P or P, reading and writing only the blocks on and under the diagonal. Returns false if a pivot was not
// positive. Adds the logarithms of the pivots to `log_determinant` unless it is null.
template <class T, Swept result>
bool sweep(const Team& team, const Panels<T>& P, const SweepStrips<T>& strips, double* log_determinant = nullptr) {
  constexpr int lanes = Simd<T>::lanes, width = Simd<T>::panel, tile_rows = Simd<T>::tile_rows;
  const int blocks = P.blocks();
  const auto strip_block = [](T* strip, int J) { return strip + (J / 2) * lanes * width + (J % 2) * lanes; };
  bool positive = true;
  for (int K = 0; K < blocks; ++K) {
    Block<T> block;
    PivotFactors<T> factors;
    block.load(P.block(K, K));
    sweep_block<T, result>(block, P.n - K * lanes, factors);
    block.store(P.block(K, K));
    positive = positive && factors.positive;
    for (int k = 0; log_determinant && k < lanes && K * lanes + k < P.n; ++k)
      *log_determinant -= std::log(double(factors.inverse[k]));
    // Block row K; its part right of the diagonal is read from under the diagonal.
    for (int J = 0; J < blocks; ++J) {
      if (J == K) continue;
      T* place = J < K ? P.block(K, J) : P.block(J, K);
      block.load(place);
      if (J > K) block.transpose();
      eliminate(factors, block, strip_block(strips.eliminated, J), strip_block(strips.scaled, J));
      if (J > K) block.transpose();
      block.store(place);
    }
    // Everything else, on and under the diagonal.
    team.each([&](int member) {
      for (int I = member; I < blocks; I += team.threads) {
        if (I == K) continue;
        for (int r = 0; r < lanes && I * lanes + r < P.n; r += tile_rows) {
          const T* left = strip_block(strips.eliminated, I) + r;
          for (int J = 0; J <= I; J += 2) {  // a panel, without block column K and blocks right of the diagonal
            const int first = J == K ? J + 1 : J, last = J + 1 > I || J + 1 == K ? J : J + 1;
            const T* right = strip_block(strips.scaled, first);
            if (first < last)
              update_tile<T, 2>(P, left, right, I * lanes + r, first);
            else if (first == last)
              update_tile<T, 1>(P, left, right, I * lanes + r, first);
          }
        }
      }
    });
  }
  return positive;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

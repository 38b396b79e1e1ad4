// Symmetric positive definite systems of equations, one a lane.
#pragma once

#include "cpu/matrix/lanes_algebra.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// `count` equations: row after row the triangle of their matrix and, as one more row, their right side, whose last
// number is zero.
template <class T, int count>
struct EliminatedSystem {
  Vector<T> entry[(count + 1) * (count + 2) / 2];

  FASTSQRTM_LANE Vector<T>* row(int i) { return entry + i * (i + 1) / 2; }

  // The unknowns x, four at a time, or all at once where there are few.
  FASTSQRTM_LANE void solve(Vector<T> (&x)[count + 1]) {
    eliminate_from<0>();
    constexpr int block = count <= most ? count : 4, rest = count % block;
    for (int first = count - block; first >= 0; first -= block) substitute<block>(first, x);
    if constexpr (rest > 0) substitute<rest>(0, x);
  }

 private:
  static constexpr int most = 6;

  template <int first>
  FASTSQRTM_LANE void eliminate_from() {
    if constexpr (first < count) {
      constexpr int p = count - first <= most ? count - first : 4;
      eliminate<first, p>();
      eliminate_from<first + p>();
    }
  }

  // p columns of the factor of L D L^T, in the place of the matrix; what is right of them subtracts their products. In
  // the row of the right side this is the solution with L D.
  template <int first, int p>
  FASTSQRTM_LANE void eliminate() {
    constexpr int after = first + p;
    Vector<T> own[p][p], factor[p][p], inverse[p], right[p][count + 1];
    FASTSQRTM_UNROLLED (6, int s = 0; s < p; ++s)
      FASTSQRTM_UNROLLED (6, int t = 0; t <= s; ++t) own[s][t] = row(first + s)[first + t];
    FASTSQRTM_UNROLLED (6, int k = 0; k < p; ++k) {
      inverse[k] = T(1) / own[k][k];
      FASTSQRTM_UNROLLED (6, int s = k + 1; s < p; ++s) {
        row(first + s)[first + k] = factor[s][k] = own[s][k] * inverse[k];
        FASTSQRTM_UNROLLED (6, int t = k + 1; t <= s; ++t) own[s][t] -= own[s][k] * factor[t][k];
      }
    }
    each_rows_beside(0, after, count + 1, [&](int i, auto some) {
      constexpr int rows = decltype(some)::value;
      Vector<T>* to[rows];
      Vector<T> left[rows][p];
      const Vector<T>*from[rows], *above[p];
      FASTSQRTM_UNROLLED (6, int k = 0; k < p; ++k) above[k] = right[k];
      FASTSQRTM_UNROLLED (4, int r = 0; r < rows; ++r) {
        from[r] = to[r] = row(i + r);
        FASTSQRTM_UNROLLED (6, int k = 0; k < p; ++k) left[r][k] = to[r][first + k];
        FASTSQRTM_UNROLLED (6, int k = 0; k < p; ++k) {
          FASTSQRTM_UNROLLED (6, int s = k + 1; s < p; ++s) left[r][s] -= left[r][k] * factor[s][k];
          to[r][first + k] = right[k][i + r] = left[r][k] * inverse[k];
        }
      }
      subtract_products(to, from, left, above, after, i + 1);
      FASTSQRTM_UNROLLED (4, int r = 1; r < rows; ++r)
        FASTSQRTM_UNROLLED (4, int j = i + 1; j <= i + r; ++j)
          FASTSQRTM_UNROLLED (6, int k = 0; k < p; ++k) to[r][j] -= left[r][k] * right[k][j];
    });
  }

  // x[first], ..., x[first + p - 1] from those behind, by L^T.
  template <int p>
  FASTSQRTM_LANE void substitute(int first, Vector<T> (&x)[count + 1]) {
    Vector<T> sum[p], other[p] = {};  // every other term, as a sum waits for its last one
    FASTSQRTM_UNROLLED (6, int k = 0; k < p; ++k) sum[k] = row(count)[first + k];
    int i = first + p;
    for (; i + 1 < count; i += 2)
      FASTSQRTM_UNROLLED (6, int k = 0; k < p; ++k) {
        sum[k] -= row(i)[first + k] * x[i];
        other[k] -= row(i + 1)[first + k] * x[i + 1];
      }
    if (i < count)
      FASTSQRTM_UNROLLED (6, int k = 0; k < p; ++k) sum[k] -= row(i)[first + k] * x[i];
    FASTSQRTM_UNROLLED (6, int k = p - 1; k >= 0; --k) {
      sum[k] += other[k];
      FASTSQRTM_UNROLLED (6, int s = k + 1; s < p; ++s) sum[k] -= row(first + s)[first + k] * sum[s];
      x[first + k] = sum[k];
    }
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// Q, R, G, H -> the gradient X = (G + Q sym_lower(R H^T - G^T Q)) R^-T of A = Q R: docs/guide/qr.md. Small matrices lie
// side by side in the lanes of vectors, larger ones take a thread each. A matrix with NaN or Inf gives NaN.
#pragma once

#include <limits>
#include <type_traits>

#include "cpu/matrix/columns_in_lanes.h"
#include "cpu/matrix/product.h"
#include "cpu/matrix/symmetric.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// sums[x] += sum_l a_l b_lx for neighbouring x; `step` from one l to the next.
template <int columns, class S>
inline void add_products(const VectorOf<S>* a, int a_step, const VectorOf<S>* b, int b_step, int b_next, int count,
                         VectorOf<S>* sums) {
  for (int l = 0; l < count; ++l) {
    const VectorOf<S> left = a[int64_t(l) * a_step];
#pragma GCC unroll 8
    for (int x = 0; x < columns; ++x) sums[x] += left * b[int64_t(l) * b_step + x * b_next];
  }
}

// Calls f(columns, first), where `columns` is a constant, for groups of neighbours that together are 0, ..., end - 1.
template <class F>
inline void in_groups(int end, F&& f) {
  int j = 0;
  for (; j + 8 <= end; j += 8) f(std::integral_constant<int, 8>(), j);
  for (; j + 4 <= end; j += 4) f(std::integral_constant<int, 4>(), j);
  for (; j + 2 <= end; j += 2) f(std::integral_constant<int, 2>(), j);
  for (; j < end; ++j) f(std::integral_constant<int, 1>(), j);
}

// P^T
template <class T>
void transpose_panels(const Panels<T>& P, const Panels<T>& transposed) {
  constexpr int lanes = Simd<T>::lanes;
  for (int J = 0; J < P.blocks(); ++J)
    for (int I = 0; I * lanes < P.rows; ++I) {
      Block<T> block;
      block.load(P.block(I, J));
      block.transpose();
      block.store(transposed.block(J, I));
    }
}

struct QrBackward {
  using Arguments = passes::QrBackward;
  static constexpr int matrices = 0;  // see demand
  static constexpr bool adds_to_output = false;

  static bool are_small(int m, int n) {
    return n <= 16 && lanes_workspace(m, n) * FASTSQRTM_VECTOR_BYTES <= 256 * 1024;
  }
  static int64_t lanes_workspace(int m, int n) { return int64_t(2) * m * n + 3 * n * n; }  // in vectors

  template <class T>
  static Demand demand(int m, int n, const Arguments&) {
    if (are_small(m, n)) return {Simd<T>::lanes, lanes_workspace(m, n) * FASTSQRTM_VECTOR_BYTES};
    const int64_t elements = 2 * Panels<T>::size(m, n) + 2 * Panels<T>::size(n, m) + 3 * Panels<T>::size(n);
    return {1, elements * int64_t(sizeof(T))};
  }

  template <class T, class Storage>
  static void run(const Task* tasks, int count, const Arguments&, void* workspace, const Team& team) {
    if (!are_small(tasks->m, tasks->n)) {
      for (int i = 0; i < count; ++i) run_panels<T, Storage>(tasks[i], static_cast<T*>(workspace), team);
      return;
    }
    constexpr int narrow = 16;  // as in Qr
    if (count * int(sizeof(T)) <= narrow)
      run_lanes<Simd<T, narrow>, Storage>(tasks, count, workspace);
    else
      run_lanes<Simd<T>, Storage>(tasks, count, workspace);
  }

 private:
  template <class S, class Storage>
  static void run_lanes(const Task* tasks, int count, void* workspace) {
    using V = VectorOf<S>;
    const int m = tasks->m, n = tasks->n;
    const ColumnsInLanes<S> Q = {static_cast<V*>(workspace), m}, X = {Q.column(n), m}, R = {X.column(n), n},
                            H = {R.column(n), n}, W = {H.column(n), n};
    const ColumnsInLanes<S> inputs[] = {Q, R, X, H};
    for (int k = 0; k < 4; ++k) {
      MatrixIn in[S::lanes] = {};
      for (int l = 0; l < count; ++l) in[l] = tasks[l].in[k];
      load_lanes<S, Storage>(in, count, n, inputs[k]);
    }
    V nothing = {};  // zero, or NaN
    for (const V* x = Q.data; x < W.data; ++x) nothing += *x - *x;
    // W = R H^T - G^T Q on and under the diagonal, mirrored.
    for (int i = 0; i < n; ++i)
      in_groups(i + 1, [&](auto columns, int j) {
        V sums[columns] = {};
        add_products<columns, S>(X.column(i), 1, Q.column(j), 1, m, m, sums);
        for (int x = 0; x < columns; ++x) sums[x] = -sums[x];
        add_products<columns, S>(R.column(i) + i, n, H.column(i) + j, n, 1, n - i, sums);
        for (int x = 0; x < columns; ++x) W.column(j + x)[i] = W.column(i)[j + x] = sums[x];
      });
    for (int r = 0; r < m; ++r)
      in_groups(n, [&](auto columns, int i) {
        V sums[columns];
        for (int x = 0; x < columns; ++x) sums[x] = X.column(i + x)[r];
        add_products<columns, S>(Q.data + r, m, W.column(i), 1, n, n, sums);
        for (int x = 0; x < columns; ++x) X.column(i + x)[r] = sums[x];
      });
    for (int j = n - 1; j >= 0; --j)
      in_groups(m, [&](auto rows, int r) {
        V sums[rows] = {};
        add_products<rows, S>(R.column(j + 1) + j, n, X.column(j + 1) + r, m, 1, n - 1 - j, sums);
        for (int x = 0; x < rows; ++x) X.column(j)[r + x] = (X.column(j)[r + x] - sums[x]) / R.column(j)[j];
      });
    void* out[S::lanes] = {};
    for (int l = 0; l < count; ++l) out[l] = tasks[l].out[0];
    store_lanes<S, Storage>(out, count, m, n, [&](int i, int j) { return X.column(j)[i] + nothing; });
  }

  template <class T, class Storage>
  static void run_panels(const Task& task, T* memory, const Team& team) {
    constexpr int width = Panels<T>::width, tile_rows = Simd<T>::tile_rows;
    const int m = task.m, n = task.n;
    const auto take = [&](int rows, int columns) {
      const Panels<T> P(memory, rows, columns);
      memory += Panels<T>::size(rows, columns);
      return P;
    };
    const Panels<T> Q = take(m, n), G = take(m, n), QT = take(n, m), XT = take(n, m), RT = take(n, n), HT = take(n, n),
                    W = take(n, n);
    Vector<T> nothing[2] = {};  // zero, or NaN
    const auto load_input = [&](int k, const Panels<T>& P) {
      const MatrixIn& in = task.in[k];
      load_matrix(team, static_cast<const Storage*>(in.data), in.row_stride, in.column_stride, P);
      for (const T* x = P.data; x < P.panel(P.panels()); x += width)
        for (int v = 0; v < 2; ++v) nothing[v] += load(x + v * Simd<T>::lanes) - load(x + v * Simd<T>::lanes);
    };
    load_input(0, Q);
    load_input(2, G);
    load_input(3, W);
    transpose_panels(W, HT);
    load_input(1, W);
    Storage* out = static_cast<Storage*>(task.out[0]);
    if (any(nothing[0] + nothing[1] != 0)) {
      for (int64_t i = 0; i < int64_t(m) * n; ++i) encode(std::numeric_limits<T>::quiet_NaN(), out[i]);
      return;
    }
    for (int i = 0; i < n; ++i)  // nothing else under the diagonal is read
      for (int j = i / tile_rows * tile_rows; j < i; ++j) *W.at(i, j) = 0;
    transpose_panels(W, RT);
    transpose_panels(Q, QT);
    transpose_panels(G, XT);
    team.each([&](int member) {
      for (int i = member * tile_rows; i < n; i += team.threads * tile_rows) first_rows_of_sum(Q, G, RT, HT, W, i);
    });
    mirror_lower(W);
    team.each([&](int member) {
      for (int p = member; p < XT.panels(); p = team.next(p))
        for (int i = (n - 1) / tile_rows * tile_rows; i >= 0; i -= tile_rows) solve_rows(QT, RT, W, XT, i, p);
    });
    transpose_panels(XT, Q);
    store_matrix(team, Q, 1, out);
  }

  // Rows i, ... of W = R H^T - G^T Q, as many as a tile has, on and left of the diagonal.
  template <class T>
  static void first_rows_of_sum(const Panels<T>& Q, const Panels<T>& G, const Panels<T>& RT, const Panels<T>& HT,
                                const Panels<T>& W, int i) {
    constexpr int width = Panels<T>::width;
    constexpr int k_block = 24 * 1024 / int(width * sizeof(T));  // rows of Q that stay in L1
    for (int p = 0; p * width <= i; ++p) {
      Tile<T, 2> tile;
      tile.clear();
      tile.multiply(RT.at(i, i), width, HT.at(i, p * width), width, W.n - i);
      for (int k = 0; k < Q.m; k += k_block)
        tile.template multiply<-1>(G.at(k, i), width, Q.at(k, p * width), width, std::min(k_block, Q.m - k));
      tile.store(W.at(i, p * width), width);
    }
  }

  // The part above the diagonal from the part under it.
  template <class T>
  static void mirror_lower(const Panels<T>& W) {
    constexpr int lanes = Simd<T>::lanes;
    for (int I = 0; I < W.blocks(); ++I) {
      for (int J = 0; J < I; ++J) {
        Block<T> block;
        block.load(W.block(I, J));
        block.transpose();
        block.store(W.block(J, I));
      }
      T* diagonal = W.block(I, I);
      for (int i = 0; i < lanes; ++i)
        for (int j = 0; j < i; ++j) diagonal[j * W.width + i] = diagonal[i * W.width + j];
    }
  }

  // Rows i, ... of X^T from R X^T = G^T + W Q^T, as many as a tile has, in panel p; those below are known.
  template <class T>
  static void solve_rows(const Panels<T>& QT, const Panels<T>& RT, const Panels<T>& W, const Panels<T>& XT, int i,
                         int p) {
    constexpr int width = Panels<T>::width, tile_rows = Simd<T>::tile_rows;
    const int n = W.n, count = std::min(tile_rows, n - i), below = i + count;
    Tile<T, 2> tile;
    tile.load(XT.at(i, p * width), width);
    tile.multiply(W.at(0, i), width, QT.at(0, p * width), width, n);
    if (below < n) tile.template multiply<-1>(RT.at(below, i), width, XT.at(below, p * width), width, n - below);
    for (int c = count - 1; c >= 0; --c)
      for (int v = 0; v < 2; ++v) {
        tile.sum[c][v] /= *RT.at(i + c, i + c);
        for (int b = 0; b < c; ++b) tile.sum[b][v] -= *RT.at(i + c, i + b) * tile.sum[c][v];
      }
    tile.store(XT.at(i, p * width), width);
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// A -> Q, R and, with pivots, the order of the columns. Small matrices lie side by side in the lanes of vectors, larger
// ones take a thread each. A matrix with NaN or Inf gives NaN, and leaves its columns in order.
#pragma once

#include "cpu/steps/householder.h"
#include "cpu/steps/householder_lanes.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

struct Qr {
  using Arguments = passes::Qr;
  static constexpr int matrices = 0;  // see demand
  static constexpr bool adds_to_output = false;

  // The sizes of one matrix and its results.
  struct Sizes {
    int m, n, k, q_columns, r_rows;

    Sizes(int m, int n, const Arguments& arguments)
        : m(m), n(n), k(std::min(m, n)), q_columns(arguments.complete ? m : k), r_rows(arguments.complete ? m : k) {}
    // Whether a group costs no more than one matrix would take otherwise, or little more.
    bool are_small() const {
      return k <= 32 && int64_t(m) * std::max(n, q_columns) * FASTSQRTM_VECTOR_BYTES <= 128 * 1024;
    }
    // In elements; of a group, in vectors.
    template <class T>
    int64_t panel_factors() const {
      return round_up(k, Panels<T>::width) * Panels<T>::width;
    }
    template <class T>
    int64_t workspace() const {
      const int64_t norms = 2 * round_up(n, Panels<T>::width);
      return Panels<T>::size(m, n) + Panels<T>::size(m, q_columns) + panel_factors<T>() + norms;
    }
    int64_t lanes_workspace() const { return int64_t(m) * std::max(n, q_columns) + k + 3 * n; }
  };

  template <class T>
  static Demand demand(int m, int n, const Arguments& arguments) {
    const Sizes sizes(m, n, arguments);
    if (sizes.are_small()) return {Simd<T>::lanes, sizes.lanes_workspace() * FASTSQRTM_VECTOR_BYTES};
    return {1, sizes.workspace<T>() * int64_t(sizeof(T)) + int64_t(sizeof(int64_t)) * n};
  }

  template <class T, class Storage>
  static void run(const Task* tasks, int count, const Arguments& arguments, void* workspace, const Team& team) {
    const Sizes sizes(tasks->m, tasks->n, arguments);
    // Few matrices need no wide vectors, in which a single one would take several times as long.
    constexpr int narrow = 16;
    if (sizes.are_small() && count * int(sizeof(T)) <= narrow)
      return run_lanes<Simd<T, narrow>, Storage>(tasks, count, sizes, arguments.pivots, workspace);
    if (sizes.are_small()) return run_lanes<Simd<T>, Storage>(tasks, count, sizes, arguments.pivots, workspace);
    for (int i = 0; i < count; ++i) run_panels<T, Storage>(tasks[i], sizes, arguments.pivots, workspace, team);
  }

 private:
  template <class S, class Storage>
  static void run_lanes(const Task* tasks, int count, const Sizes& sizes, bool with_pivots, void* workspace) {
    constexpr int lanes = S::lanes;
    const int m = sizes.m, n = sizes.n;
    const ColumnsInLanes<S> A = {static_cast<VectorOf<S>*>(workspace), m};
    VectorOf<S>* tau = A.column(std::max(n, sizes.q_columns));
    LanesPivots<S> pivots = {tau + sizes.k, tau + sizes.k + n, reinterpret_cast<MaskOf<S>*>(tau + sizes.k + 2 * n)};
    MatrixIn in[lanes];
    void *q[lanes], *r[lanes];
    for (int l = 0; l < count; ++l) {
      in[l] = tasks[l].in[0];
      q[l] = tasks[l].out[0];
      r[l] = tasks[l].out[1];
    }
    load_lanes<S, Storage>(in, count, n, A);
    VectorOf<S> differences = {};
    for (int i = 0; i < m * n; ++i) differences += A.data[i] - A.data[i];
    const MaskOf<S> bad = differences != 0;  // NaN, which may not slow the others down either
    const bool any_bad = any(bad);
    if (any_bad)
      for (int i = 0; i < m * n; ++i) A.data[i] = bad ? VectorOf<S>{} : A.data[i];
    factor<S>(A, n, tau, with_pivots ? &pivots : nullptr);
    store_lanes<S, Storage>(r, count, sizes.r_rows, n,
                            [&](int i, int j) { return i <= j ? A.column(j)[i] : VectorOf<S>{}; });
    form_q<S>(A, sizes.k, sizes.q_columns, tau);
    store_lanes<S, Storage>(q, count, m, sizes.q_columns, [&](int i, int j) { return A.column(j)[i]; });
    for (int l = 0; l < count; ++l) {
      int64_t* order = with_pivots ? static_cast<int64_t*>(tasks[l].out[2]) : nullptr;
      if (order)
        for (int j = 0; j < n; ++j) order[j] = pivots.order[j][l];
      if (any_bad && bad[l]) refuse<typename S::Scalar, Storage>(tasks[l], sizes);
    }
  }

  template <class T, class Storage>
  static void run_panels(const Task& task, const Sizes& sizes, bool with_pivots, void* workspace, const Team& team) {
    T* memory = static_cast<T*>(workspace);
    const Panels<T> A(memory, sizes.m, sizes.n);
    const Panels<T> Q(memory += Panels<T>::size(sizes.m, sizes.n), sizes.m, sizes.q_columns);
    T* factors = memory += Panels<T>::size(sizes.m, sizes.q_columns);
    T* now = memory += sizes.panel_factors<T>();
    T* then = memory += round_up(sizes.n, Panels<T>::width);
    int64_t* order = reinterpret_cast<int64_t*>(memory + round_up(sizes.n, Panels<T>::width));
    const Pivots<T> pivots = {now, then, order};
    load_matrix(team, static_cast<const Storage*>(task.in[0].data), task.in[0].row_stride, task.in[0].column_stride, A);
    Vector<T> differences = {};
    for (const T *x = A.data, *end = A.panel(A.panels()); x < end; x += Simd<T>::lanes)
      differences += load(x) - load(x);
    if (any(differences != 0)) return refuse<T, Storage>(task, sizes);
    Storage *q = static_cast<Storage*>(task.out[0]), *r = static_cast<Storage*>(task.out[1]);
    factor(team, A, factors, with_pivots ? &pivots : nullptr, r, sizes.r_rows);
    form_q(team, A, sizes.k, factors, Q);
    store_matrix(team, Q, 1, q);
    if (with_pivots) std::memcpy(task.out[2], order, sizeof(int64_t) * sizes.n);
  }

  template <class T, class Storage>
  static void refuse(const Task& task, const Sizes& sizes) {
    constexpr T nan = std::numeric_limits<T>::quiet_NaN();
    Storage *q = static_cast<Storage*>(task.out[0]), *r = static_cast<Storage*>(task.out[1]);
    for (int64_t i = 0; i < int64_t(sizes.m) * sizes.q_columns; ++i) encode(nan, q[i]);
    for (int64_t i = 0; i < int64_t(sizes.r_rows) * sizes.n; ++i) encode(nan, r[i]);
    for (int j = 0; task.out[2] && j < sizes.n; ++j) static_cast<int64_t*>(task.out[2])[j] = j;
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

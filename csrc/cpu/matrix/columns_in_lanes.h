// Matrices of any shape side by side, one in each lane of the vectors, with their columns in memory: those of lanes.h
// are square and so small that they lie in registers. What one matrix needs, all of them get with the same
// instructions, and no sum runs across a vector.
#pragma once

#include <cstring>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/matrix/lanes.h"
#include "cpu/matrix/memory.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// S is Simd or, for fewer matrices, a narrower one, which gives the same bits.
template <class S>
using VectorOf = typename S::Vector;

// Lanes of integers, as comparisons give them: all ones where true.
template <class S>
using MaskOf = decltype(VectorOf<S>{} < VectorOf<S>{});

template <class S>
VectorOf<S> broadcast_to(typename S::Scalar x) {
  return x - VectorOf<S>{};
}

// Element (i, j) of all matrices is column(j)[i].
template <class S>
struct ColumnsInLanes {
  VectorOf<S>* data;
  int m;

  VectorOf<S>* column(int j) const { return data + int64_t(j) * m; }
};

// The elements of `count` matrices; the other lanes are zero.
template <class S, class Storage>
void load_lanes(const MatrixIn* matrices, int count, int n, const ColumnsInLanes<S>& A) {
  constexpr int lanes = S::lanes;
  const int64_t row_stride = matrices[0].row_stride, column_stride = matrices[0].column_stride;
  const bool by_columns = row_stride == 1 && column_stride != 1;
  const int inner = by_columns ? A.m : n, total = A.m * n;
  const bool in_one_run = std::is_same_v<typename S::Scalar, Storage> &&
                          (by_columns ? column_stride == inner : column_stride == 1 && row_stride == inner);
  int i = 0, j = 0;
  for (int first = 0; first < total; first += lanes) {
    const int length = total - first < lanes ? total - first : lanes;
    int64_t from[lanes];
    VectorOf<S>* to[lanes];
    for (int c = 0; c < length; ++c) {
      from[c] = i * row_stride + j * column_stride;
      to[c] = A.column(j) + i;
      int &fast = by_columns ? i : j, &slow = by_columns ? j : i;
      if (++fast == inner) {
        fast = 0;
        ++slow;
      }
    }
    VectorOf<S> block[lanes] = {};
    for (int l = 0; l < count; ++l) {
      const Storage* data = static_cast<const Storage*>(matrices[l].data);
      if (in_one_run && length == lanes) {
        std::memcpy(&block[l], data + first, sizeof block[l]);
      } else {
        typename S::Scalar row[lanes] = {};
        for (int c = 0; c < length; ++c) row[c] = decode(data[from[c]]);
        std::memcpy(&block[l], row, sizeof row);
      }
    }
    transpose<S>(block);
    for (int c = 0; c < length; ++c) *to[c] = block[c];
  }
}

// Writes `count` contiguous m x n matrices; element(i, j) is a vector.
template <class S, class Storage, class F>
void store_lanes(void* const* targets, int count, int m, int n, F&& element) {
  constexpr int lanes = S::lanes;
  const int total = m * n;
  int i = 0, j = 0;
  for (int first = 0; first < total; first += lanes) {
    const int length = total - first < lanes ? total - first : lanes;
    VectorOf<S> block[lanes] = {};
    for (int c = 0; c < length; ++c) {
      block[c] = element(i, j);
      if (++j == n) {
        j = 0;
        ++i;
      }
    }
    transpose<S>(block);
    for (int l = 0; l < count; ++l) {
      Storage* out = static_cast<Storage*>(targets[l]) + first;
      if (std::is_same_v<typename S::Scalar, Storage> && length == lanes) {
        std::memcpy(out, &block[l], sizeof block[l]);
      } else {
        typename S::Scalar row[lanes];
        std::memcpy(row, &block[l], sizeof row);
        for (int c = 0; c < length; ++c) encode(row[c], out[c]);
      }
    }
  }
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// The layout of a matrix in the workspace: column panels two vectors wide, each panel contiguous, row after row.
//
//   element (i, j) is data[(j / panel) * rows * panel + i * panel + j % panel]
//
// It is at once the packed form of both operands of a product: the right operand streams down a panel, and the left
// operand, symmetric, is read along its rows. So nothing is ever packed after the load. Rows and columns are padded to
// a whole block of lanes x lanes; the padding is zero after the load and never mixes with the matrix.
#pragma once

#include "cpu/matrix/simd.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

template <class T>
struct Panels {
  using S = Simd<T>;
  static constexpr int lanes = S::lanes, width = S::panel;

  T* data;
  int m, n;  // rows and columns of the matrix
  int rows;  // m padded to whole blocks and tiles

  static int64_t size(int m, int n) { return panel_elements(m, n, FASTSQRTM_VECTOR_BYTES, sizeof(T)); }
  static int64_t size(int n) { return size(n, n); }

  Panels(T* data, int m, int n) : data(data), m(m), n(n), rows(int(panel_rows(m, FASTSQRTM_VECTOR_BYTES, sizeof(T)))) {}
  Panels(T* data, int n) : Panels(data, n, n) {}

  T* panel(int p) const { return data + int64_t(p) * rows * width; }
  T* at(int i, int j) const { return panel(j / width) + i * width + j % width; }
  // Block (I, J) of lanes x lanes; its rows are `width` apart.
  T* block(int I, int J) const { return at(I * lanes, J * lanes); }
  int panels() const { return (n + width - 1) / width; }
  int blocks() const { return (n + lanes - 1) / lanes; }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// Sizes of the CPU workspace as functions of the vector length: used by the kernels, which know it at compile time, and
// by the plan, which knows it at run time. Internal linkage on purpose: kernels.cpp is compiled for several instruction
// sets, and the linker must not mix their copies.
#pragma once

#include <cstdint>

namespace fastsqrtm {
namespace {

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A register tile is tile_rows x 2 vectors: 16 of the 32 registers of AVX-512, 8 of 16 elsewhere. Either hides the
// latency of two multiply-adds a cycle. It never crosses a block.
constexpr int tile_rows(int vector_bytes, int element_bytes) {
  const int lanes = vector_bytes / element_bytes, rows = vector_bytes == 64 ? 8 : 4;
  return rows < lanes ? rows : lanes;
}

// Rows of a matrix in panel layout (matrix/panel.h) are padded to whole blocks, columns to whole panels of two.
constexpr int64_t panel_rows(int64_t m, int vector_bytes, int element_bytes) {
  return round_up(m, vector_bytes / element_bytes);
}
constexpr int64_t panel_elements(int64_t m, int64_t n, int vector_bytes, int element_bytes) {
  return panel_rows(m, vector_bytes, element_bytes) * round_up(n, 2 * vector_bytes / element_bytes);
}
// Bytes of one thread's workspace for square matrices. The strips of a sweep (matrix/sweep.h) lie in a matrix that is
// free at the time.
constexpr int64_t workspace_bytes(int64_t n, int matrices, int vector_bytes, int element_bytes) {
  return element_bytes * matrices * panel_elements(n, n, vector_bytes, element_bytes);
}

}  // namespace
}  // namespace fastsqrtm

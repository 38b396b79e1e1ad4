// The fused kernels' variants and the choice between them: pure C++, testable without a GPU.
//
// A variant fixes the padded size of the matrix, the register tile and the threads that share one matrix (a team). It
// is chosen from n, the element size and the shared memory of the chip alone, never from the batch, so that a matrix
// gives the same bits in any batch. What may follow the batch, because it changes no bit, is how many teams a block
// holds.
#pragma once

#include <cstddef>
#include <cstdint>

#include "scalars/coefficients.h"

namespace fastsqrtm {
namespace cuda {

enum class Fused {
  mpa,
  mtp,
  ns,
  sqrtm_lya_backward,
  inv_sqrtm_lya_backward,
  lyapunov,
  mpa_backward,
  mtp_backward,
  ns_backward,
  accurate_roots,
  accurate_backward,
  lyapunov_newton
};
constexpr int fused_count = 12;

// A matrix is padded to `padded` and cut into square tiles. A tile of a product is shared by `split` lanes, each of
// which takes 1/split of the inner dimension and ends with 1/split of the tile's rows: large tiles spare shared-memory
// loads (two runs of `tile` values feed tile^2 multiply-adds), splitting keeps all lanes of the team at work.
struct Shape {
  int padded;
  int tile;
  int threads;          // of one team
  int split_full;       // lanes per tile in a full product
  int split_symmetric;  // lanes per tile under the diagonal in a symmetric product
  int split_sweep;      // lanes per tile under the diagonal in the sweep

  // Lanes that exchange values by shuffles: a warp, or the whole team where several teams share a warp.
  FASTSQRTM_HOST_DEVICE constexpr int width() const { return threads < 32 ? threads : 32; }
  FASTSQRTM_HOST_DEVICE constexpr int tiles() const { return padded / tile; }
  FASTSQRTM_HOST_DEVICE constexpr int tiles_under_diagonal() const { return tiles() * (tiles() - 1) / 2; }
  // Lanes from the first to the last that hold a tile, whole warps.
  FASTSQRTM_HOST_DEVICE constexpr int lanes(int tile_count, int split) const {
    const int per_warp = width() / split;
    return (tile_count + per_warp - 1) / per_warp * width();
  }
  FASTSQRTM_HOST_DEVICE constexpr int lanes_under_diagonal(int split) const {
    return lanes(tiles_under_diagonal(), split);
  }
  // A tile on the diagonal is always shared by `tile` lanes, one row each.
  FASTSQRTM_HOST_DEVICE constexpr int lanes_on_diagonal() const { return lanes(tiles(), tile); }
  // Tiles of a full product per lane.
  FASTSQRTM_HOST_DEVICE constexpr int full_rounds() const {
    return (lanes(tiles() * tiles(), split_full) + threads - 1) / threads;
  }
  FASTSQRTM_HOST_DEVICE constexpr int matrix_elements() const { return padded * padded; }
  // One triangle, packed by lanes.
  FASTSQRTM_HOST_DEVICE constexpr int triangle_elements(int split) const {
    return lanes_under_diagonal(split) * (tile / split) * tile + lanes_on_diagonal() * tile;
  }
  // Two pivot panels, the solved panel and the inverse of the pivot block.
  FASTSQRTM_HOST_DEVICE constexpr int panel_elements() const { return 3 * tile * padded + tile * tile; }
  // One value per warp for each of the two reductions of a norm, rounded up to keep 16-byte alignment.
  FASTSQRTM_HOST_DEVICE constexpr int scratch_elements() const { return 2 * ((threads + 127) / 128 * 4); }
  FASTSQRTM_HOST_DEVICE constexpr bool valid() const {
    return padded % tile == 0 && threads % width() == 0 && lanes_under_diagonal(split_symmetric) <= threads &&
           lanes_under_diagonal(split_sweep) <= threads && lanes_on_diagonal() <= threads;
  }
};

constexpr Shape float_shapes[] = {
    {8, 2, 16, 1, 2, 2},   {16, 4, 16, 1, 2, 2},  {32, 4, 64, 1, 2, 2},   {48, 4, 160, 1, 2, 2},  {64, 8, 128, 2, 4, 2},
    {80, 8, 224, 2, 4, 2}, {96, 8, 288, 2, 4, 2}, {112, 8, 224, 1, 2, 2}, {128, 8, 256, 1, 2, 2},
};
constexpr Shape double_shapes[] = {
    {8, 2, 16, 1, 2, 2},   {16, 4, 16, 1, 2, 2},  {32, 4, 64, 1, 2, 2},  {48, 4, 160, 1, 2, 2},
    {64, 4, 256, 1, 2, 2}, {80, 4, 224, 1, 1, 1}, {96, 4, 288, 1, 1, 1},
};
constexpr int float_shape_count = sizeof(float_shapes) / sizeof(Shape);
constexpr int double_shape_count = sizeof(double_shapes) / sizeof(Shape);

FASTSQRTM_HOST_DEVICE constexpr int larger(int a, int b) { return a > b ? a : b; }
FASTSQRTM_HOST_DEVICE constexpr int smaller(int a, int b) { return a < b ? a : b; }

// Room for a Norm in either precision, which waits there for the end of the Newton steps.
constexpr int newton_norm_elements = 8;

// Shared memory of one matrix, in elements. `groups` teams work on one matrix, each on its own shift or inverse.
FASTSQRTM_HOST_DEVICE constexpr int shared_elements(Fused op, const Shape& s, int groups) {
  switch (op) {
    case Fused::mpa: {
      // The input as it was loaded, then X and Y as packed triangles, then the output.
      const int work = larger(s.matrix_elements(), 2 * s.triangle_elements(s.split_sweep));
      const int swept = groups > 1 ? groups * s.triangle_elements(s.split_sweep) : 0;
      return work + swept + groups * (s.panel_elements() + s.scratch_elements());
    }
    case Fused::mtp:
      // Two factors of a product, and the powers W and W^2 as packed triangles.
      return 2 * s.matrix_elements() + 2 * s.triangle_elements(s.split_symmetric) + s.scratch_elements();
    case Fused::accurate_roots:
      // The triangles of A, which each inverse of a Newton step replaces, X and Y; input and output lie over them. Of
      // several teams each has one more, for the inverse of its pole.
      return (3 + (groups > 1 ? groups : 0)) * s.triangle_elements(s.split_sweep) +
             groups * (s.panel_elements() + s.scratch_elements());
    case Fused::accurate_backward:
    case Fused::lyapunov_newton:
      // B^-1 and one work matrix, which the panels of the sweep share; B and C wait as packed triangles.
      return 2 * s.matrix_elements() + s.triangle_elements(s.split_symmetric) + s.triangle_elements(s.split_sweep) +
             s.scratch_elements() + newton_norm_elements;
    default:
      // B, C and one work matrix: the fourth, U or M, is held in registers until its place is free. Newton-Schulz and
      // the exact gradients need three as well; what they hold besides is in registers or in kept_elements.
      return 3 * s.matrix_elements() + s.scratch_elements();
  }
}

// Global memory that an exact gradient has beside its result, in elements of one matrix: two (MPA) or four (MTP,
// Newton-Schulz) triangles where the registers are too few, as in teams of nine warps, which have 168 of them a thread.
FASTSQRTM_HOST_DEVICE constexpr int kept_elements(Fused op, const Shape& s) {
  const bool nine_warps = s.threads > 256;
  if (op == Fused::mpa_backward && nine_warps) {
    return s.triangle_elements(s.split_sweep) + s.triangle_elements(s.split_symmetric);
  }
  const bool four_rows_a_lane = s.tile / s.split_symmetric > 2;
  const bool four_triangles = op == Fused::mtp_backward || op == Fused::ns_backward;
  if (four_triangles && (nine_warps || four_rows_a_lane)) return 4 * s.triangle_elements(s.split_symmetric);
  return 0;
}

// The most threads a block of this variant is launched with; the compiler bounds the registers by it.
FASTSQRTM_HOST_DEVICE constexpr int max_threads(Fused op, const Shape& s) {
  if (s.threads <= 64) return 256;
  // Several teams a matrix as far as the registers of their tiles allow.
  if (op == Fused::accurate_roots) return s.threads == 128 ? 384 : s.threads == 160 ? 320 : s.threads;
  if (op != Fused::mpa) return s.threads;
  if (s.threads == 128) return 640;
  return s.threads <= (s.tile == 8 ? 256 : 160) ? 2 * s.threads : s.threads;
}

// Whether several teams of the accurate roots may work on one matrix. Then it has its block for itself.
FASTSQRTM_HOST_DEVICE constexpr bool teams_join(Fused op, const Shape& s) {
  return op == Fused::accurate_roots && s.threads >= 32 && max_threads(op, s) >= 2 * s.threads;
}

struct DeviceLimits {
  std::size_t shared_per_block;  // cudaDevAttrMaxSharedMemoryPerBlockOptin
  int multiprocessors;
};

struct FusedPlan {
  int variant;  // index into the table of shapes; -1: no variant fits, take the path for large matrices
  int groups;   // teams per matrix
  int matrices_per_block;
  int64_t blocks;
  std::size_t shared_bytes;  // of one block
};

// `terms`: shifts or poles.
inline FusedPlan plan_fused(Fused op, int64_t batch, int64_t n, int element_bytes, int terms,
                            const DeviceLimits& device) {
  FusedPlan plan{-1, 1, 1, 0, 0};
  const Shape* shapes = element_bytes == 8 ? double_shapes : float_shapes;
  const int count = element_bytes == 8 ? double_shape_count : float_shape_count;
  int index = 0;
  while (index < count && shapes[index].padded < n) ++index;
  if (index == count) return plan;
  const Shape& shape = shapes[index];
  const auto bytes = [&](int groups) {
    return static_cast<std::size_t>(shared_elements(op, shape, groups)) * element_bytes;
  };
  // A team smaller than a warp never runs alone in it.
  const int least = 32 / shape.width();
  if (bytes(1) * least > device.shared_per_block) return plan;
  plan.variant = index;
  plan.matrices_per_block = least;
  // Teams of the accurate roots need so many registers that a multiprocessor has room for one matrix of three.
  if (op == Fused::mpa || (teams_join(op, shape) && batch <= device.multiprocessors)) {
    // The shifts of one matrix are independent, and so are the inverses of X and Y. While the batch leaves
    // multiprocessors short of threads, several teams share a matrix; 1024 threads are what a multiprocessor needs to
    // hide the latency of the pivots.
    const int64_t wanted =
        static_cast<int64_t>(device.multiprocessors) * 1024 / (larger(1, shape.threads) * (batch + 1));
    int groups = static_cast<int>(wanted < terms ? wanted : terms);
    groups = smaller(groups, smaller(15, max_threads(op, shape) / (shape.threads * least)));
    while (groups > 1 && bytes(groups) * least > device.shared_per_block) --groups;
    groups = larger(1, groups);
    const int rounds = (terms + groups - 1) / groups;
    plan.groups = (terms + rounds - 1) / rounds;  // as few as take as many rounds
  }
  if (shape.threads < 32) {
    // As many matrices a block as still give every multiprocessor a block.
    while (2 * plan.matrices_per_block * plan.groups * shape.threads <= 128 &&
           2 * plan.matrices_per_block * static_cast<int64_t>(device.multiprocessors) <= batch &&
           2 * plan.matrices_per_block * bytes(plan.groups) <= device.shared_per_block) {
      plan.matrices_per_block *= 2;
    }
  }
  plan.shared_bytes = plan.matrices_per_block * bytes(plan.groups);
  plan.blocks = (batch + plan.matrices_per_block - 1) / plan.matrices_per_block;
  return plan;
}

// The shape with the numbers the kernels need as compile-time constants.
template <typename T, int Index>
struct Variant {
  using scalar = T;
  static constexpr Shape shape = sizeof(T) == 8 ? double_shapes[sizeof(T) == 8 ? Index : 0] : float_shapes[Index];
  static_assert(shape.valid(), "the team is too small for its tiles");
  static constexpr int padded = shape.padded;
  static constexpr int tile = shape.tile;
  static constexpr int threads = shape.threads;
  static constexpr int width = shape.width();
  static constexpr int tiles = shape.tiles();
  static constexpr int full_rounds = shape.full_rounds();
  static constexpr int split_full = shape.split_full;
  static constexpr int split_symmetric = shape.split_symmetric;
  static constexpr int split_sweep = shape.split_sweep;
  static constexpr int matrix_elements = shape.matrix_elements();
  static constexpr int panel_elements = shape.panel_elements();
  static constexpr int scratch_elements = shape.scratch_elements();
  static constexpr int lanes_on_diagonal = shape.lanes_on_diagonal();
  static constexpr int first_on_diagonal = threads - lanes_on_diagonal;
};

}  // namespace cuda
}  // namespace fastsqrtm

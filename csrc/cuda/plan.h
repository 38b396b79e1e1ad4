// How a pass is computed: the path, the variants of its kernel and the choice between them. Pure C++, testable without
// a GPU; called by launch.cuh and, for fastsqrtm.plan, by bindings.cpp.
//
// A variant fixes the padded size of the matrix, the register tile and the threads that share one matrix (a team). It
// is chosen from n, the element size and the shared memory of the chip alone, never from the batch, so that a matrix
// gives the same bits in any batch. Only the number of teams in a block may follow the batch, because it changes no
// bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "path.h"
#include "scalars/coefficients.h"

namespace fastsqrtm {
namespace cuda {

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

// Shared memory of the passes that keep three matrices there and the rest in registers.
FASTSQRTM_HOST_DEVICE constexpr int three_matrices(const Shape& s) {
  return 3 * s.matrix_elements() + s.scratch_elements();
}

// Shared memory of the Newton steps of a Lyapunov equation: B^-1 and one work matrix, which the panels of the sweep
// share; B and C wait as packed triangles, and a Norm in either precision for the end of the steps.
constexpr int newton_norm_elements = 8;
FASTSQRTM_HOST_DEVICE constexpr int newton_memory(const Shape& s) {
  return 2 * s.matrix_elements() + s.triangle_elements(s.split_symmetric) + s.triangle_elements(s.split_sweep) +
         s.scratch_elements() + newton_norm_elements;
}

// Global memory of the exact gradients of MTP and Newton-Schulz in addition to their result: four triangles where the
// registers are too few, as in teams of nine warps, which have 168 of them a thread.
FASTSQRTM_HOST_DEVICE constexpr int four_kept_triangles(const Shape& s) {
  const bool four_rows_a_lane = s.tile / s.split_symmetric > 2;
  return s.threads > 256 || four_rows_a_lane ? 4 * s.triangle_elements(s.split_symmetric) : 0;
}

// Largest number of threads of a block in which every team has a matrix of its own. Small teams share a block.
FASTSQRTM_HOST_DEVICE constexpr int threads_of_single_teams(const Shape& s) {
  return s.threads <= 64 ? 256 : s.threads;
}

// Registers of a thread, allocated eight at a time, that a kernel launched with at most `threads` threads may have.
constexpr int multiprocessor_registers = 65536;
FASTSQRTM_HOST_DEVICE constexpr int registers_within(int threads) {
  return smaller(255, multiprocessor_registers / threads / 8 * 8);
}

// The tiny path: a thread has a matrix in its registers, and a place in shared memory for each operand of its pass. The
// numbers from one place to the next are odd, so that threads do not meet in a bank.
FASTSQRTM_HOST_DEVICE constexpr int tiny_threads(int element_bytes) { return element_bytes == 8 ? 64 : 128; }
FASTSQRTM_HOST_DEVICE constexpr int tiny_pitch(int n) { return n * n | 1; }

struct DeviceLimits {
  std::size_t shared_per_block;  // cudaDevAttrMaxSharedMemoryPerBlockOptin
  int multiprocessors;
};

struct Plan {
  Path path = Path::library;
  int variant = 0;  // of Path::block: index into the table of shapes; of Path::tiny: n
  int teams = 1;    // that share one matrix
  int matrices_per_block = 1;
  int64_t blocks = 0;
  std::size_t shared_bytes = 0;  // of one block
};

inline const Shape& shape_of(const Plan& plan, int element_bytes) {
  return (element_bytes == 8 ? double_shapes : float_shapes)[plan.variant];
}

// The plan of a pass (cuda/pass.h). `n`: the pass's order(problem); `element_bytes`: of the computation, 4 or 8;
// `terms`: shifts or poles of the pass.
template <class Pass>
Plan plan_pass(int64_t batch, int64_t n, int element_bytes, int terms, const DeviceLimits& device) {
  Plan plan;
  if (n >= 1 && n <= Pass::largest_tiny_order) {
    plan.path = Path::tiny;
    plan.variant = static_cast<int>(n);
    plan.matrices_per_block = tiny_threads(element_bytes);
    plan.shared_bytes = static_cast<std::size_t>(Pass::tiny_operands) * plan.matrices_per_block *
                        tiny_pitch(plan.variant) * element_bytes;
    plan.blocks = (batch + plan.matrices_per_block - 1) / plan.matrices_per_block;
    return plan;
  }
  const Shape* shapes = element_bytes == 8 ? double_shapes : float_shapes;
  const int count = element_bytes == 8 ? double_shape_count : float_shape_count;
  // A team smaller than a warp never runs alone in it.
  const auto least_of = [](const Shape& s) { return 32 / s.width(); };
  const auto bytes_of = [&](const Shape& s, int teams) {
    return static_cast<std::size_t>(Pass::shared_elements(s, teams)) * element_bytes;
  };
  const auto fits = [&](const Shape& s) { return bytes_of(s, 1) * least_of(s) <= device.shared_per_block; };
  int index = 0;
  while (index < count && shapes[index].padded < n) ++index;
  while (Pass::takes_any_size && (index == count || !fits(shapes[index]))) --index;
  if (index == count || !fits(shapes[index])) return plan;
  const Shape& shape = shapes[index];
  const int least = least_of(shape);
  const auto bytes = [&](int teams) { return bytes_of(shape, teams); };
  plan.path = Path::block;
  plan.variant = index;
  plan.matrices_per_block = least;
  // The fewest of those teams with which the waves of blocks take the least time. Pivots wait for each other, so the
  // matrices that share a multiprocessor hardly slow each other down.
  int64_t least_time = 0;
  for (int teams = 1; teams <= smaller(terms, larger(1, Pass::most_teams(shape) / least)); ++teams) {
    if (bytes(teams) * least > device.shared_per_block) break;
    const int64_t by_registers = multiprocessor_registers / (Pass::registers(shape) * shape.threads * teams);
    // A multiprocessor has a kilobyte more than a block may have, and takes as much for each block.
    const int64_t by_shared = (device.shared_per_block + 1024) / (bytes(teams) + 1024);
    const int64_t together = device.multiprocessors * (by_registers < by_shared ? by_registers : by_shared);
    const int64_t time = (batch + together - 1) / together * Pass::half_sweeps(terms, teams);
    if (teams > 1 && time >= least_time) continue;
    plan.teams = teams;
    least_time = time;
  }
  if (shape.threads < 32) {
    // As many matrices a block as leave a block for every multiprocessor.
    while (2 * plan.matrices_per_block * plan.teams * shape.threads <= 128 &&
           2 * plan.matrices_per_block * static_cast<int64_t>(device.multiprocessors) <= batch &&
           2 * plan.matrices_per_block * bytes(plan.teams) <= device.shared_per_block) {
      plan.matrices_per_block *= 2;
    }
  }
  plan.shared_bytes = plan.matrices_per_block * bytes(plan.teams);
  plan.blocks = (batch + plan.matrices_per_block - 1) / plan.matrices_per_block;
  return plan;
}

template <typename T>
constexpr Shape shape_at(int index) {
  return sizeof(T) == 8 ? double_shapes[index] : float_shapes[index];
}

// The shape with the numbers the kernels need as compile-time constants. `most_teams_`: that may share a matrix.
template <typename T, int index, int most_teams_>
struct Variant {
  using scalar = T;
  static constexpr int most_teams = most_teams_;
  static constexpr Shape shape = shape_at<T>(index);
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

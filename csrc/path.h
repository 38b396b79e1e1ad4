// How a batch is computed, on either device: the first thing that a plan says.
#pragma once

#include <cstdint>

namespace fastsqrtm {

// tiny: many matrices side by side, in the lanes of a vector; on CUDA one a thread.
// block: one matrix at a time in the cache of a core or in the shared memory of a block.
// library: by library calls, for matrices that do not fit a block.
enum class Path { tiny, block, library };

// Up to this order square matrices take Path::tiny on the CPU. Measured on a Zen 5 up to here, where it still gains;
// the matrices that a pass has of a much larger group would leave the L2.
constexpr int largest_tiny_order = 64;

// Up to this order the code for them has loops of constant length.
constexpr int largest_unrolled_order = 8;

// So few larger ones take less time one by one than side by side, which costs the same however many there are.
constexpr int few_matrices(int lanes, int n) { return n > largest_unrolled_order ? (lanes + 2) * (n + 16) / 160 : 0; }

// From this order on the sums over a matrix have parts, which threads of the CPU can share.
constexpr int smallest_order_in_parts = 192;

// From this size on, threads that would be idle help with one matrix. Of a smaller one they would wait longer for what
// the others wrote than it takes to compute it.
constexpr int64_t smallest_shared_bytes = 300 * 1024;

constexpr const char* path_name(Path path) {
  switch (path) {
    case Path::tiny:
      return "tiny";
    case Path::block:
      return "block";
    case Path::library:
      return "library";
  }
  return nullptr;
}

}  // namespace fastsqrtm

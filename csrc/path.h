// How a batch is computed, on either device: the first thing that a plan says.
#pragma once

namespace fastsqrtm {

// tiny: many matrices side by side, in the lanes of a vector; on CUDA one a thread.
// block: one matrix at a time in the cache of a core or in the shared memory of a block.
// library: by library calls, for matrices that do not fit a block.
enum class Path { tiny, block, library };

// Up to this order square matrices take Path::tiny on the CPU.
constexpr int largest_tiny_order = 28;

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

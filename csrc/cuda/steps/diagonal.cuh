// Roots of diagonal matrices, entry by entry, so that the root of I is I: the part that both kernels of Roots share.
#pragma once

#include "cuda/tile/norm.cuh"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace cuda {

// Whether entries off the diagonal are not 0 and, if all are, whether one on it is too far below 0 for a rounding.
enum class Entries { many, diagonal, indefinite_diagonal };

// One lane's part of the decision: the largest of all lanes counts.
template <typename T>
__device__ __forceinline__ T rank_of_entries(bool any_off_diagonal, bool any_negative) {
  return any_off_diagonal ? T(2) : any_negative ? T(1) : T(0);
}
template <typename T>
__device__ __forceinline__ Entries entries_of_rank(T largest) {
  return largest == T(2) ? Entries::many : largest == T(1) ? Entries::indefinite_diagonal : Entries::diagonal;
}

// The root or inverse root of an entry of a diagonal matrix A with nu = bound ||A||_F. Scaled by a power of two alone.
template <typename T>
__device__ __forceinline__ T root_of_entry(T entry, const Norm<T>& norm, T bound, bool inverse) {
  constexpr T least_normal = static_cast<T>(sizeof(T) == 8 ? 0x1p-1022 : 0x1p-126);
  const T scaled = entry * norm.down, floor = machine_epsilon<T>() * norm.ratio * bound;
  const T root = square_root(inverse && scaled < floor ? floor : scaled);
  if (inverse) return reciprocal(root) * power_of_two<T>(-norm.exponent / 2);
  return scaled < least_normal ? T(0) : root * power_of_two<T>(norm.exponent / 2);
}

}  // namespace cuda
}  // namespace fastsqrtm

// The Frobenius norm of a fragment, scaled by its largest element so that neither 1e-30 nor 1e30 leaves the range.
#pragma once

#include "cuda/tile/fragment.cuh"

namespace fastsqrtm {
namespace cuda {

// Reduces the values of all lanes of the team by f; every lane gets the same bits. `scratch` holds one value per warp
// and must not be in use.
template <class V, class F, typename T>
__device__ __forceinline__ T reduce_team(T value, T* scratch, F f) {
#pragma unroll
  for (int step = V::width / 2; step >= 1; step /= 2) {
    value = f(value, __shfl_xor_sync(all_lanes, value, step, V::width));
  }
  if constexpr (V::threads > 32) {
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    sync_team<V>();
    value = scratch[0];
#pragma unroll
    for (int warp = 1; warp < V::threads / 32; ++warp) value = f(value, scratch[warp]);
  }
  return value;
}

// True if any team in this warp still has steps to do.
template <class V>
__device__ __forceinline__ bool any_team(bool own) {
  if constexpr (V::threads >= 32) {
    return own;
  } else {
    static_assert(V::threads == 16, "two teams share a warp");
    return __shfl_xor_sync(all_lanes, static_cast<int>(own), 16, 32) != 0 || own;
  }
}

// Every lane gets the same bits, so that all lanes take the same decisions. Memory that was read before the call may be
// overwritten after it.
template <class V, typename T>
__device__ __forceinline__ T team_sum(T value, T* scratch) {
  sync_team<V>();
  return reduce_team<V>(value, scratch, [](T a, T b) { return a + b; });
}
template <class V, typename T>
__device__ __forceinline__ T team_max(T value, T* scratch) {
  sync_team<V>();
  return reduce_team<V>(value, scratch, [](T a, T b) { return max_or_nan(a, b); });
}

// The even exponent near a number >= 0, within the range of power_of_two in either sign.
template <typename T>
__device__ __forceinline__ int even_exponent(T largest) {
  constexpr int limit = sizeof(T) == 8 ? 1022 : 126;
  const int exponent = largest < infinity<T>() ? exponent_of(largest) / 2 * 2 : 0;
  return exponent > limit ? limit : exponent < -limit ? -limit : exponent;
}

// nu = ratio * 2^exponent, with an even exponent near that of the largest element. Scaling by a power of two is exact
// and needs no division.
template <typename T>
struct Norm {
  T ratio;
  T inverse_ratio;
  T down;  // 2^-exponent
  int exponent;
  bool is_zero;

  // From the largest element and the sum of the squares of all elements times 2^-exponent. A matrix with an infinite
  // element gets NaN, so that none of it looks like a result.
  __device__ __forceinline__ void finish(T largest, T sum) {
    is_zero = largest == T(0);
    if (is_zero) exponent = 0;  // keeps in range a matrix scaled by the norm of another, as C by that of B
    down = power_of_two<T>(-exponent);
    ratio = is_zero ? T(0) : largest < infinity<T>() ? square_root(sum) : not_a_number<T>();
    inverse_ratio = is_zero ? T(0) : reciprocal(ratio);
  }
  // The norm 1, which leaves a matrix as it is, but makes one that is not finite NaN.
  __device__ __forceinline__ Norm as_one() const {
    const T one = ratio == ratio ? T(1) : not_a_number<T>();
    return {one, one, T(1), 0, false};
  }
  __device__ __forceinline__ T root() const {
    return is_zero ? T(0) : power_of_two<T>(exponent / 2) * square_root(ratio);
  }
  __device__ __forceinline__ T inverse_root() const {
    return is_zero ? T(0) : power_of_two<T>(-exponent / 2) * reciprocal(square_root(ratio));
  }
  // x / nu, or 0 for a zero matrix.
  __device__ __forceinline__ T normalise(T x) const { return x * down * inverse_ratio; }
  // x nu
  __device__ __forceinline__ T restore(T x) const { return x * ratio * power_of_two<T>(exponent); }
};

// This lane's part of the sum of the squares of scale f. An element under the diagonal stands for two.
template <class V, int split, typename T>
__device__ __forceinline__ T sum_of_squares(const Fragment<V, split>& f, T scale) {
  T sum = 0;
#pragma unroll
  for (int c = 0; c < V::tile; ++c) {
    const T x = f.diagonal[c] * scale;
    sum += x * x;
  }
#pragma unroll
  for (int r = 0; r < f.rows; ++r) {
#pragma unroll
    for (int c = 0; c < V::tile; ++c) {
      const T x = f.under[r][c] * scale;
      sum += T(2) * (x * x);
    }
  }
  return sum;
}

template <class V, int split, typename T>
__device__ __forceinline__ Norm<T> frobenius_norm(const Fragment<V, split>& f, T* scratch) {
  T largest = 0;
#pragma unroll
  for (int c = 0; c < V::tile; ++c) largest = max_or_nan(largest, std::fabs(f.diagonal[c]));
#pragma unroll
  for (int r = 0; r < f.rows; ++r) {
#pragma unroll
    for (int c = 0; c < V::tile; ++c) largest = max_or_nan(largest, std::fabs(f.under[r][c]));
  }
  largest = reduce_team<V>(largest, scratch, [](T a, T b) { return max_or_nan(a, b); });

  Norm<T> norm;
  norm.exponent = even_exponent(largest);
  const T sum = reduce_team<V>(sum_of_squares(f, power_of_two<T>(-norm.exponent)), scratch + V::scratch_elements / 2,
                               [](T a, T b) { return a + b; });
  norm.finish(largest, sum);
  return norm;
}

// The factor with which the root of a matrix has the sum of squares `trace`, because the error of a design is largest
// at the largest eigenvalue and always to the same side. 1 where the root has other errors.
template <typename T>
__device__ __forceinline__ T unbiased(T trace, T squares, T error) {
  const T factor = square_root(trace * reciprocal(squares));
  return std::fabs(factor - T(1)) <= T(2) * error ? factor : T(1);
}

// Factor from y to the result: sqrt(nu) for the root, 1 / sqrt(nu) for the inverse root, 0 for that of the zero matrix.
template <typename T>
__device__ __forceinline__ T result_scale(const Norm<T>& norm, bool inverse) {
  return inverse ? norm.inverse_root() : norm.root();
}

// The inverse root of the zero matrix is infinite on the diagonal and 0 elsewhere.
template <class V, int split, typename T>
__device__ __forceinline__ void scale_result(Fragment<V, split>& f, const Owner<V, split>& owner, T scale,
                                             bool inverse) {
  f.apply([scale](T y) { return y * scale; });
  if (inverse && scale == T(0)) f.add_to_diagonal(owner, infinity<T>());
}

}  // namespace cuda
}  // namespace fastsqrtm

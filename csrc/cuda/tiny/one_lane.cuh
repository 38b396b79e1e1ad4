// A vector of one lane: the number of one matrix, of which a thread has all. With it the functions for small matrices
// in csrc/cpu, where the lanes of a vector are matrices, compile as the code of a CUDA thread. It takes the place of
// csrc/cpu/matrix/simd.h and of what works on the bits of vectors elsewhere.
#pragma once

#include "cuda/tile/platform.cuh"
#include "scalars/limits.h"

#define FASTSQRTM_ONE_LANE
#define FASTSQRTM_ISA one_lane
#define FASTSQRTM_VECTOR_BYTES 16
#define FASTSQRTM_LANE __device__
#define FASTSQRTM_LANE_APART __device__
#define FASTSQRTM_CONVERT(vector, Type) Type()
#ifdef __CUDACC__
#define FASTSQRTM_UNROLLED(count, ...) _Pragma("unroll") for (__VA_ARGS__)
#else
#define FASTSQRTM_UNROLLED(count, ...) for (__VA_ARGS__)
#endif

#ifdef __CUDACC__
#pragma nv_diag_suppress 1675  // the functions for one large matrix, which no thread runs, unroll in GCC's words
#endif

namespace fastsqrtm {
namespace one_lane {

struct LaneMask {
  bool set;

  FASTSQRTM_LANE explicit operator bool() const { return set; }
  FASTSQRTM_LANE friend LaneMask operator&(LaneMask a, LaneMask b) { return {a.set && b.set}; }
  FASTSQRTM_LANE friend LaneMask operator|(LaneMask a, LaneMask b) { return {a.set || b.set}; }
  FASTSQRTM_LANE friend LaneMask operator~(LaneMask a) { return {!a.set}; }
  FASTSQRTM_LANE LaneMask& operator&=(LaneMask b) { return *this = *this & b; }
  FASTSQRTM_LANE LaneMask& operator|=(LaneMask b) { return *this = *this | b; }
};

template <class T>
struct Lane {
  T x;

  Lane() = default;
  FASTSQRTM_LANE constexpr Lane(T x) : x(x) {}
  FASTSQRTM_LANE T operator[](int) const { return x; }

  FASTSQRTM_LANE friend Lane operator+(Lane a, Lane b) { return a.x + b.x; }
  FASTSQRTM_LANE friend Lane operator-(Lane a, Lane b) { return a.x - b.x; }
  FASTSQRTM_LANE friend Lane operator*(Lane a, Lane b) { return a.x * b.x; }
  // NaN where b is 0 or infinite.
  FASTSQRTM_LANE friend Lane operator/(Lane a, Lane b) { return a.x * cuda::reciprocal(b.x); }
  FASTSQRTM_LANE friend Lane operator-(Lane a) { return -a.x; }
  FASTSQRTM_LANE Lane& operator+=(Lane b) { return *this = *this + b; }
  FASTSQRTM_LANE Lane& operator-=(Lane b) { return *this = *this - b; }
  FASTSQRTM_LANE Lane& operator*=(Lane b) { return *this = *this * b; }
  FASTSQRTM_LANE Lane& operator/=(Lane b) { return *this = *this / b; }
  FASTSQRTM_LANE friend LaneMask operator<(Lane a, Lane b) { return {a.x < b.x}; }
  FASTSQRTM_LANE friend LaneMask operator>(Lane a, Lane b) { return {a.x > b.x}; }
  FASTSQRTM_LANE friend LaneMask operator<=(Lane a, Lane b) { return {a.x <= b.x}; }
  FASTSQRTM_LANE friend LaneMask operator>=(Lane a, Lane b) { return {a.x >= b.x}; }
  FASTSQRTM_LANE friend LaneMask operator==(Lane a, Lane b) { return {a.x == b.x}; }
  FASTSQRTM_LANE friend LaneMask operator!=(Lane a, Lane b) { return {a.x != b.x}; }
};

template <class T, int bytes = 0>
struct Simd {
  using Vector = Lane<T>;
  using Numbers = Lane<T>;
  using Scalar = T;
  static constexpr int lanes = 1, tile_rows = 1, panel = 2;
};
template <class T>
struct DoubleLanes {
  using Vector = Lane<double>;
};
template <class T>
using Vector = Lane<T>;
template <class T>
using Numbers = Lane<T>;

template <class T>
FASTSQRTM_LANE Lane<T> broadcast(T x) {
  return x;
}
template <class T>
FASTSQRTM_LANE Lane<T> absolute(Lane<T> x) {
  return std::fabs(x.x);
}
template <class T>
FASTSQRTM_LANE Lane<T> square_root(Lane<T> x) {
  return x.x > 0 ? cuda::square_root(x.x) : x.x == 0 ? T(0) : cuda::not_a_number<T>();
}
template <class T>
FASTSQRTM_LANE Lane<T> with_sign(const Lane<T>& x, const Lane<T>& y) {
  return std::copysign(x.x, y.x);
}
FASTSQRTM_LANE inline bool any(const LaneMask& mask) { return mask.set; }

// What the functions for one large matrix name, which no thread runs.
template <class T>
Lane<T> load(const T* p) {
  return *p;
}
template <class T>
void store(T* p, Lane<T> v) {
  *p = v.x;
}
template <class S, int h, int rows>
FASTSQRTM_LANE void transpose_stages(typename S::Vector*) {}
template <class S>
FASTSQRTM_LANE void transpose(typename S::Vector*) {}
template <class T>
FASTSQRTM_LANE void load_columns(const T*, int, Lane<T> (&)[4]) {}

template <class T>
struct PowerOfFour {
  Lane<T> value, inverse, root, inverse_root;

  FASTSQRTM_LANE explicit PowerOfFour(Lane<T> x) {
    const int limit = sizeof(T) == 8 ? 511 : 63, k = (cuda::exponent_of(x.x) - 1) >> 1;
    const int bounded = k > limit ? limit : k < -limit ? -limit : k;
    value = cuda::power_of_two<T>(2 * bounded);
    inverse = cuda::power_of_two<T>(-2 * bounded);
    root = cuda::power_of_two<T>(bounded);
    inverse_root = cuda::power_of_two<T>(-bounded);
  }
};

}  // namespace one_lane
}  // namespace fastsqrtm

// The vector type of the instruction set this file is compiled for (GCC and Clang vector extensions, so the same code
// is AVX-512, AVX2, SSE2 or NEON). Everything lives in a namespace named after the instruction set: kernels.cpp is
// compiled once for each, and no inline function of one may be linked into another.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/matrix/layout.h"
#include "scalars/limits.h"

// The functions for small matrices, one a lane, also compile as CUDA, where a thread is a vector of one lane: then
// csrc/cuda/tiny/one_lane.cuh takes the place of this file.
#ifndef FASTSQRTM_ONE_LANE
#define FASTSQRTM_LANE
#define FASTSQRTM_LANE_APART __attribute__((noinline))
#define FASTSQRTM_CONVERT(vector, Type) __builtin_convertvector(vector, Type)
#define FASTSQRTM_PRAGMA(text) _Pragma(#text)
// A loop of constant length, without its jumps.
#define FASTSQRTM_UNROLLED(count, ...) FASTSQRTM_PRAGMA(GCC unroll count) for (__VA_ARGS__)

#ifndef FASTSQRTM_ISA
#error "FASTSQRTM_ISA names the instruction set: baseline, avx2 or avx512"
#endif

#if defined(__AVX512F__)
#define FASTSQRTM_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define FASTSQRTM_VECTOR_BYTES 32
#else
#define FASTSQRTM_VECTOR_BYTES 16
#endif

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

template <class T, int bytes = FASTSQRTM_VECTOR_BYTES>
struct Simd {
  typedef T Vector __attribute__((vector_size(bytes), may_alias));
  // The same in memory that holds nothing but T: to the compiler a store of it changes no pointer.
  typedef T Numbers __attribute__((vector_size(bytes)));
  using Scalar = T;
  static constexpr int lanes = bytes / int(sizeof(T));
  static constexpr int tile_rows = fastsqrtm::tile_rows(FASTSQRTM_VECTOR_BYTES, sizeof(T));
  static constexpr int panel = 2 * lanes;

  static Vector lane_index() {
    Vector index;
    for (int c = 0; c < lanes; ++c) index[c] = T(c);
    return index;
  }
  // Lane c is all ones where c == k.
  static auto lane_is(int k) { return lane_index() == T(k) - Vector{}; }
};

// As many doubles as Vector<T> has lanes.
template <class T>
struct DoubleLanes;
template <>
struct DoubleLanes<float> {
  typedef double Vector __attribute__((vector_size(2 * FASTSQRTM_VECTOR_BYTES)));
};
template <>
struct DoubleLanes<double> {
  typedef double Vector __attribute__((vector_size(FASTSQRTM_VECTOR_BYTES)));
};

template <class T>
using Vector = typename Simd<T>::Vector;
template <class T>
using Numbers = typename Simd<T>::Numbers;

template <class T>
inline Vector<T> load(const T* p) {
  return *reinterpret_cast<const Vector<T>*>(p);
}

template <class T>
inline void store(T* p, Vector<T> v) {
  *reinterpret_cast<Vector<T>*>(p) = v;
}

template <class T>
inline Vector<T> broadcast(T x) {
  return x - Vector<T>{};  // not 0 + x, which the compiler must compute for the sake of -0
}

template <class V>
inline V absolute(const V& x) {
  using M = decltype(x < x);
  return reinterpret_cast<V>(reinterpret_cast<M>(x) & ~reinterpret_cast<M>(-V{}));
}

// One exchange of the transpose: rows r and r + h trade the lanes whose bit h differs.
template <class S, int h, int... lane>
inline void exchange(typename S::Vector& low, typename S::Vector& high, std::integer_sequence<int, lane...>) {
  constexpr int n = S::lanes;
  const typename S::Vector a = low, b = high;
  low = __builtin_shufflevector(a, b, ((lane & h) ? n + lane - h : lane)...);
  high = __builtin_shufflevector(a, b, ((lane & h) ? n + lane : lane + h)...);
}

// Those with the bits from h on of `rows` rows, a power of two: all rows transpose each rows x rows block.
template <class S, int h, int rows>
inline void transpose_stages(typename S::Vector* row) {
  if constexpr (h < rows) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
      if (!(r & h)) exchange<S, h>(row[r], row[r + h], std::make_integer_sequence<int, S::lanes>{});
    transpose_stages<S, 2 * h, rows>(row);
  }
}

// row: a lanes x 4 block, row after row; column: its columns.
template <class S, int... lane>
inline void transpose_four(const typename S::Vector (&row)[4], typename S::Vector (&column)[4],
                           std::integer_sequence<int, lane...>) {
  constexpr int half = S::lanes / 2;
#pragma GCC unroll 2
  for (int pair = 0; pair < 2; ++pair) {
    const auto two_columns = [&](int q) {
      return pair == 0 ? __builtin_shufflevector(row[q], row[q + 1], (lane % half * 4 + lane / half)...)
                       : __builtin_shufflevector(row[q], row[q + 1], (lane % half * 4 + lane / half + 2)...);
    };
    const typename S::Vector low = two_columns(0), high = two_columns(2);
    column[2 * pair] = __builtin_shufflevector(low, high, (lane < half ? lane : lane + half)...);
    column[2 * pair + 1] = __builtin_shufflevector(low, high, (lane < half ? lane + half : lane + 2 * half)...);
  }
}

// `count` rows of four numbers, one after the other in a vector.
template <class Half, int... lane>
inline auto concatenated(const Half& low, const Half& high, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(low, high, lane...);
}
template <class T, int count>
inline auto load_fours(const T* at, int stride) {
  if constexpr (count == 1) {
    typename Simd<T, 4 * sizeof(T)>::Vector x;
    std::memcpy(&x, at, sizeof x);
    return x;
  } else {
    return concatenated(load_fours<T, count / 2>(at, stride), load_fours<T, count / 2>(at + count / 2 * stride, stride),
                        std::make_integer_sequence<int, 4 * count>{});
  }
}

// Four columns of as many rows as a vector has lanes.
template <class T>
inline void load_columns(const T* at, int stride, Vector<T> (&column)[4]) {
  constexpr int lanes = Simd<T>::lanes, each = lanes / 4;
  Vector<T> row[4];
  for (int q = 0; q < 4; ++q) row[q] = load_fours<T, each>(at + q * each * stride, stride);
  transpose_four<Simd<T>>(row, column, std::make_integer_sequence<int, lanes>{});
}

// lanes x lanes block, one vector a row, in registers.
template <class S>
inline void transpose(typename S::Vector* row) {
  transpose_stages<S, 1, S::lanes>(row);
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm
#endif

// Many small matrices side by side: a vector holds one number of each, so that the lanes are matrices. Up to order 8
// loops over rows and columns have a constant length and are unrolled; larger matrices share one type. What a lane
// computes depends on no other lane.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#if defined(__x86_64__) && !defined(FASTSQRTM_ONE_LANE)
#include <immintrin.h>
#endif

#include "cpu/matrix/simd.h"
#include "cpu/matrix/slots.h"
#include "passes.h"
#include "path.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// All ones where a condition holds.
template <class T>
using Mask = decltype(Vector<T>{} < Vector<T>{});

template <class M>
FASTSQRTM_LANE bool any(const M& mask) {
  uint64_t words[sizeof(M) / 8], found = 0;
  std::memcpy(words, &mask, sizeof mask);
  for (const uint64_t word : words) found |= word;
  return found != 0;
}

template <class T>
FASTSQRTM_LANE constexpr Mask<T> all_lanes() {
  return Vector<T>{} == Vector<T>{};
}

// |x| with the sign of y.
template <class V>
FASTSQRTM_LANE inline V with_sign(const V& x, const V& y) {
  using M = decltype(x < x);
  const M sign = reinterpret_cast<M>(-V{});
  return reinterpret_cast<V>((reinterpret_cast<M>(x) & ~sign) | (reinterpret_cast<M>(y) & sign));
}
template <class V>
FASTSQRTM_LANE inline V larger(const V& x, const V& y) {
  return x > y ? x : y;  // y where x is NaN
}
template <class V>
FASTSQRTM_LANE inline V smaller(const V& x, const V& y) {
  return x < y ? x : y;
}

#ifndef FASTSQRTM_ONE_LANE
// Of a shorter vector than those below.
template <class V>
FASTSQRTM_LANE inline V square_root(V x) {
  for (unsigned c = 0; c < sizeof x / sizeof x[0]; ++c) x[c] = std::sqrt(x[c]);
  return x;
}
FASTSQRTM_LANE inline Vector<float> square_root(Vector<float> x) {
#if FASTSQRTM_VECTOR_BYTES == 64
  return _mm512_maskz_sqrt_ps(0xffff, x);
#elif FASTSQRTM_VECTOR_BYTES == 32
  return _mm256_sqrt_ps(x);
#elif defined(__x86_64__)
  return _mm_sqrt_ps(x);
#else
  for (int c = 0; c < Simd<float>::lanes; ++c) x[c] = std::sqrt(x[c]);
  return x;
#endif
}
FASTSQRTM_LANE inline Vector<double> square_root(Vector<double> x) {
#if FASTSQRTM_VECTOR_BYTES == 64
  return _mm512_maskz_sqrt_pd(0xff, x);
#elif FASTSQRTM_VECTOR_BYTES == 32
  return _mm256_sqrt_pd(x);
#elif defined(__x86_64__)
  return _mm_sqrt_pd(x);
#else
  for (int c = 0; c < Simd<double>::lanes; ++c) x[c] = std::sqrt(x[c]);
  return x;
#endif
}
#endif

// Up to this order matrices stay in registers.
constexpr int largest_order_in_registers = 4;

// F::run(args...), inlined up to the order `largest`. The code for larger matrices is long: it is shared by all
// callers.
template <class F, class... Args>
FASTSQRTM_LANE_APART void run_apart(Args&... args) {
  F::run(args...);
}
template <class F, int n, int largest = largest_order_in_registers, class... Args>
FASTSQRTM_LANE inline void run_by_order(Args&... args) {
  if constexpr (n <= largest)
    F::run(args...);
  else
    run_apart<F>(args...);
}

// As an argument `n` of a template: all orders above those that are unrolled, known at run time. `alone` is one such
// matrix by itself: see alone.h.
constexpr int any_order = largest_tiny_order, alone = any_order + 1;
// So many matrices a group holds.
template <class T, int n>
constexpr int matrices_of_group = n == alone ? 1 : Simd<T>::lanes;

template <int n>
struct Size {
  static constexpr int order = n, entries = n * (n + 1) / 2;
  FASTSQRTM_LANE void set_order(int) {}
};
template <>
struct Size<any_order> {
  int order = 0, entries = 0;
  FASTSQRTM_LANE void set_order(int n) {
    order = n;
    entries = n * (n + 1) / 2;
  }
};

// The numbers of n x n matrices, row after row: all of them, or the triangle under the diagonal.
template <class T, int n, bool all>
struct Entries : Size<n> {
  Numbers<T> entry[all ? n * n : n * (n + 1) / 2];
};
#ifndef FASTSQRTM_ONE_LANE
// Of an order known at run time, in a slot. Without an order it counts as zero.
template <class T, bool all>
struct Entries<T, any_order, all> : Size<any_order>, Slot<Numbers<T>> {
  using Slot<Numbers<T>>::entry;

  Entries() = default;
  Entries(Entries&&) = default;
  Entries& operator=(Entries&&) = default;
  Entries(const Entries& A) : Entries() { *this = A; }
  Entries& operator=(const Entries& A) {
    set_order(A.order);
    for (int i = 0; i < (all ? order * order : entries); ++i) entry[i] = A.entry[i];
    return *this;
  }
};
#endif

template <class T, int n>
struct Symmetric : Entries<T, n, false> {
  FASTSQRTM_LANE static constexpr int place(int i, int j) { return i >= j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i; }
  FASTSQRTM_LANE Numbers<T>& operator()(int i, int j) { return this->entry[place(i, j)]; }
  FASTSQRTM_LANE const Numbers<T>& operator()(int i, int j) const { return this->entry[place(i, j)]; }

  FASTSQRTM_LANE Symmetric& operator*=(Vector<T> factor) {
    for (int i = 0; i < this->entries; ++i) this->entry[i] *= factor;
    return *this;
  }
};

template <class T, int n>
struct Square : Entries<T, n, true> {
  FASTSQRTM_LANE int size() const { return this->order * this->order; }

  FASTSQRTM_LANE Numbers<T>& operator()(int i, int j) { return this->entry[i * this->order + j]; }
  FASTSQRTM_LANE const Numbers<T>& operator()(int i, int j) const { return this->entry[i * this->order + j]; }
};

// A matrix read transposed.
template <class M>
struct Transposed {
  const M& matrix;
  int order = matrix.order;
  FASTSQRTM_LANE const auto& operator()(int i, int j) const { return matrix(j, i); }
};

// A group of as many matrices as a vector has lanes lies in memory one after the other, with room for a vector behind.
// Where their n^2 numbers divide a vector, each vector holds some whole matrices, and the lanes take them in the order
// of matrix_of_lane.
template <class T, int n>
struct Group {
  static constexpr int lanes = Simd<T>::lanes, numbers = n * n;
  static constexpr bool divides = lanes % numbers == 0;
  static constexpr int blocks = divides ? 1 : (numbers + lanes - 1) / lanes, rows = divides ? numbers : lanes;
  static constexpr bool exact = divides || numbers % lanes == 0;  // no row reaches behind the group
  static constexpr int size = lanes * numbers + lanes;

  FASTSQRTM_LANE static constexpr int matrix_of_lane(int lane) {
    return divides ? lane % rows * (lanes / rows) + lane / rows : lane;
  }

  Vector<T> number[divides ? numbers : blocks * lanes];  // number[i * n + j] are the entries (i, j)

  FASTSQRTM_LANE void clear_behind(int) {
    FASTSQRTM_UNROLLED (16, int i = numbers; i < (divides ? numbers : blocks * lanes); ++i) number[i] = Vector<T>{};
  }

  FASTSQRTM_LANE void load(const T* matrices, int) {
    FASTSQRTM_UNROLLED (8, int b = 0; b < blocks; ++b) {
      FASTSQRTM_UNROLLED (16, int r = 0; r < rows; ++r)
        std::memcpy(number + b * lanes + r, matrices + r * (divides ? lanes : numbers) + b * lanes, sizeof(Vector<T>));
      transpose_stages<Simd<T>, 1, rows>(number + b * lanes);
    }
  }
  // The last block of a row reaches into the next row, which is written later.
  FASTSQRTM_LANE void store(T* matrices, int) {
    FASTSQRTM_UNROLLED (8, int b = blocks - 1; b >= 0; --b) {
      transpose_stages<Simd<T>, 1, rows>(number + b * lanes);
      FASTSQRTM_UNROLLED (16, int r = 0; r < rows; ++r)
        std::memcpy(matrices + r * (divides ? lanes : numbers) + b * lanes, number + b * lanes + r, sizeof(Vector<T>));
    }
  }
};

template <class T>
struct Group<T, alone> {
  static constexpr int matrix_of_lane(int lane) { return lane; }
};
#ifndef FASTSQRTM_ONE_LANE
template <class T>
struct Group<T, any_order> {
  static constexpr int lanes = Simd<T>::lanes;
  static constexpr int matrix_of_lane(int lane) { return lane; }

  // So many vectors at most: of the numbers of a matrix in whole vectors, or of a group in memory.
  static constexpr int vectors(int order) { return (order * order + lanes - 1) / lanes * lanes + 1; }
  const Slot<Numbers<T>> slot;
  Numbers<T>* const number = slot.entry;

  void clear_behind(int order) {
    for (int i = order * order; i % lanes != 0; ++i) number[i] = Vector<T>{};
  }

  void load(const T* matrices, int order) {
    const int numbers = order * order;
    for (int at = 0; at < numbers; at += lanes) {
      FASTSQRTM_UNROLLED (16, int r = 0; r < lanes; ++r)
        std::memcpy(number + at + r, matrices + r * numbers + at, sizeof(Vector<T>));
      transpose<Simd<T>>(number + at);
    }
  }
  void store(T* matrices, int order) {
    const int numbers = order * order;
    for (int at = (numbers - 1) / lanes * lanes; at >= 0; at -= lanes) {
      transpose<Simd<T>>(number + at);
      FASTSQRTM_UNROLLED (16, int r = 0; r < lanes; ++r)
        std::memcpy(matrices + r * numbers + at, number + at + r, sizeof(Vector<T>));
    }
  }
};
#endif

// Where the matrices of a group lie.
template <class T>
struct GroupIn {
  const T* matrices;
  int order;
  FASTSQRTM_LANE explicit operator bool() const { return matrices != nullptr; }
};

// The groups that a pass reads and writes; nullptr stands for an absent tensor.
template <class T>
struct Lanes {
  GroupIn<T> in[max_inputs];
  T* out[max_outputs];
  T ridge_unit;  // of vectors with one lane, see add_ridge
};

struct LoadSymmetric {
  template <class T, int n>
  FASTSQRTM_LANE static inline void run(const GroupIn<T>& in, Symmetric<T, n>& A) {
    A.set_order(in.order);
    const int order = A.order;
    Group<T, n> group;
    group.load(in.matrices, order);
    FASTSQRTM_UNROLLED (8, int i = 0; i < order; ++i) {
      A(i, i) = group.number[i * order + i];
      FASTSQRTM_UNROLLED (8, int j = 0; j < i; ++j)
        A(i, j) = T(0.5) * group.number[i * order + j] + T(0.5) * group.number[j * order + i];
    }
  }
};
// The symmetric parts of a group.
template <class T, int n>
FASTSQRTM_LANE Symmetric<T, n> load_symmetric(const GroupIn<T>& in) {
  Symmetric<T, n> A;
  if constexpr (n == alone) {
    load_rows(in, A);
    make_symmetric(A);
  } else {
    run_by_order<LoadSymmetric, n>(in, A);
  }
  return A;
}

struct StoreMatrices {
  template <class T, template <class, int> class Matrix, int n>
  FASTSQRTM_LANE static inline void run(const Matrix<T, n>& A, T*& matrices) {
    const int order = A.order;
    Group<T, n> group;
    group.clear_behind(order);
    FASTSQRTM_UNROLLED (8, int i = 0; i < order; ++i)
      FASTSQRTM_UNROLLED (8, int j = 0; j < order; ++j) group.number[i * order + j] = A(i, j);
    group.store(matrices, order);
  }
};
template <class T, template <class, int> class Matrix, int n>
FASTSQRTM_LANE void store_matrices(const Matrix<T, n>& A, T* matrices) {
  if constexpr (n == alone)
    store_rows(A, matrices);
  else
    run_by_order<StoreMatrices, n>(A, matrices);
}

template <class T, int n>
FASTSQRTM_LANE Square<T, n> load_square(const GroupIn<T>& in) {
  Square<T, n> A;
  if constexpr (n == alone) {
    load_rows(in, A);
  } else {
    A.set_order(in.order);
    const int order = A.order;
    Group<T, n> group;
    group.load(in.matrices, order);
    FASTSQRTM_UNROLLED (8, int i = 0; i < order; ++i)
      FASTSQRTM_UNROLLED (8, int j = 0; j < order; ++j) A(i, j) = group.number[i * order + j];
  }
  return A;
}

// (A + sign A^T)/2, sign = +-1
template <class T, int n>
FASTSQRTM_LANE Square<T, n> load_part(const GroupIn<T>& in, T sign) {
  Square<T, n> A = load_square<T, n>(in);
  for (int i = 0; i < A.order; ++i)
    for (int j = 0; j <= i; ++j) {
      A(i, j) = T(0.5) * A(i, j) + sign * T(0.5) * A(j, i);
      A(j, i) = sign * A(i, j);
    }
  return A;
}

template <class T, int n>
FASTSQRTM_LANE Mask<T> is_zero(const Square<T, n>& A) {
  Mask<T> found = all_lanes<T>();
  for (int i = 0; i < A.size(); ++i) found &= A.entry[i] == 0;
  return found;
}

// Calls body(i) for constants i, as types.
template <class F, int... i>
FASTSQRTM_LANE inline void each_constant(std::integer_sequence<int, i...>, F&& body) {
  (body(std::integral_constant<int, i>()), ...);
}

// Calls body(i, chain) for i = 0, ..., count - 1, where the order does not matter. A step waits for the one before it
// in its chain, so many steps have four chains.
template <int n, class F>
FASTSQRTM_LANE inline void each_in_chains(int count, F&& body) {
  int i = 0;
  if constexpr (n > largest_order_in_registers)
    for (; i + 4 <= count; i += 4)
      FASTSQRTM_UNROLLED (4, int c = 0; c < 4; ++c) body(i + c, c);
  for (; i < count; ++i) body(i, 0);
}

template <class T, int n>
FASTSQRTM_LANE Vector<T> largest_entry(const Symmetric<T, n>& A) {
  Vector<T> largest[4] = {};
  each_in_chains<n>(A.entries, [&](int i, int c) { largest[c] = larger(absolute(A.entry[i]), largest[c]); });
  return larger(larger(largest[0], largest[1]), larger(largest[2], largest[3]));
}

#ifndef FASTSQRTM_ONE_LANE
// 4^k with 1 <= x/4^k < 4, for normal numbers x: dividing by it rounds nothing, and its root is a power of two as well.
template <class T>
struct PowerOfFour {
  Vector<T> value, inverse, root, inverse_root;

  FASTSQRTM_LANE explicit PowerOfFour(Vector<T> x) {
    constexpr int digits = std::numeric_limits<T>::digits - 1, bias = std::numeric_limits<T>::max_exponent - 1;
    const Mask<T> k = ((reinterpret_cast<Mask<T>>(x) >> digits) - bias) >> 1;
    const auto power = [](Mask<T> exponent) { return reinterpret_cast<Vector<T>>((exponent + bias) << digits); };
    value = power(2 * k);
    inverse = power(-2 * k);
    root = power(k);
    inverse_root = power(-k);
  }
};
#endif

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// Transfers between memory and panels: inputs with any strides and element type, contiguous outputs, and results that
// are known without computation.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/matrix/panel.h"
#include "cpu/matrix/symmetric.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// Storage-only types: bits on the way in and out, float in between. Conversions round to nearest, ties to even.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float decode(float x) { return x; }
inline double decode(double x) { return x; }
inline float decode(BFloat16 x) { return float_of(uint32_t(x.bits) << 16); }
inline float decode(Half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
  if (magnitude >= 0x7c00) return float_of(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);  // Inf, NaN
  // The half's exponent field read as float's is 112 too small; the multiplication also normalises subnormals.
  return float_of(sign | bits_of(float_of(magnitude << 13) * float_of((254 - 15) << 23)));
}

inline void encode(float x, float& out) { out = x; }
inline void encode(double x, double& out) { out = x; }
inline void encode(float x, BFloat16& out) {
  const uint32_t bits = bits_of(x);
  if (x != x)
    out.bits = 0x7fc0;
  else
    out.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline void encode(float x, Half& out) {
  const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) {
    out.bits = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // rounds to 2^16 or more
    out.bits = uint16_t(sign | 0x7c00);
  } else if (magnitude < 0x38800000) {  // subnormal half: adding 0.5 leaves its 10 bits at the end, rounded
    out.bits = uint16_t(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000));
  } else {
    out.bits = uint16_t(sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13));
  }
}

// Calls body(p) for every panel p.
template <class T, class F>
void each_panel(const Team& team, const Panels<T>& P, const F& body) {
  team.each([&](int member) {
    const F own = body;
    for (int p = member; p < P.panels(); p = team.next(p)) own(p);
  });
}

// Source of element (i, j): data[i * row_stride + j * column_stride].
template <class T, class Storage>
void load_matrix(const Team& team, const Storage* data, int64_t row_stride, int64_t column_stride, const Panels<T>& P) {
  constexpr int width = Panels<T>::width;
  each_panel(team, P, [=](int p) {
    const int columns = P.n - p * width < width ? P.n - p * width : width;
    T* out = P.panel(p);
    for (int i = 0; i < P.m; ++i, out += width) {
      const Storage* in = data + i * row_stride + p * width * column_stride;
      if (column_stride == 1 && columns == width)  // all but the last panel: the compiler knows the length
        for (int j = 0; j < width; ++j) out[j] = decode(in[j]);
      else if (column_stride == 1)
        for (int j = 0; j < columns; ++j) out[j] = decode(in[j]);
      else
        for (int j = 0; j < columns; ++j) out[j] = decode(in[j * column_stride]);
      for (int j = columns; j < width; ++j) out[j] = 0;
    }
    std::memset(out, 0, sizeof(T) * width * (P.rows - P.m));
  });
}

// out <- scale P, or out + scale P. A scale outside the range of T is two factors: the result may still be in range.
template <class T, class Storage>
void store_matrix(const Team& team, const Panels<T>& P, double scale, Storage* out, bool accumulate = false) {
  constexpr int width = Panels<T>::width;
  using Limits = std::numeric_limits<T>;
  const double size = std::fabs(scale);
  const bool beyond = size > Limits::max() || (size < Limits::min() && size > 0);
  const T first = beyond && size < std::numeric_limits<double>::infinity() ? T(std::sqrt(size)) : T(1);
  const T second = T(scale / first);
  each_panel(team, P, [=](int p) {
    const int columns = P.n - p * width < width ? P.n - p * width : width;
    const T* in = P.panel(p);
    for (int i = 0; i < P.m; ++i, in += width) {
      Storage* row = out + int64_t(i) * P.n + p * width;
      if (accumulate)
        for (int j = 0; j < columns; ++j) encode(decode(row[j]) + second * (first * in[j]), row[j]);
      else if (columns == width)
        for (int j = 0; j < width; ++j) encode(second * (first * in[j]), row[j]);
      else
        for (int j = 0; j < columns; ++j) encode(second * (first * in[j]), row[j]);
    }
  });
}

// (M + sign M^T) / 2, sign = +-1
template <class T, class Storage>
void load_part(const Team& team, const MatrixIn& in, T sign, const Panels<T>& P) {
  load_matrix(team, static_cast<const Storage*>(in.data), in.row_stride, in.column_stride, P);
  with_transpose(team, P,
                 [=](Vector<T> own, Vector<T> transposed) { return T(0.5) * own + sign * T(0.5) * transposed; });
}

template <class T, class Storage>
void load_symmetric(const Team& team, MatrixIn in, const Panels<T>& P) {
  if (in.column_stride != 1 && in.row_stride == 1) std::swap(in.row_stride, in.column_stride);
  load_part<T, Storage>(team, in, T(1), P);
}

template <class T, class Storage>
void fill(int n, T diagonal, T off_diagonal, Storage* out) {
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) encode(i == j ? diagonal : off_diagonal, *out++);
}

// The inverse root of the zero matrix is +inf on the diagonal and 0 elsewhere. Its gradient is defined as zero.
template <class T>
bool is_infinite_root(const Panels<T>& Z) {
  for (int i = 0; i < Z.n; ++i)
    for (int j = 0; j < Z.n; ++j)
      if (*Z.at(i, j) != (i == j ? std::numeric_limits<T>::infinity() : T(0))) return false;
  return true;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// The ridges of zolotarev.h and their unit, for the kernels of both devices, which cannot index a host array.
#pragma once

#include "element.h"
#include "scalars/coefficients.h"
#include "scalars/zolotarev.h"

namespace fastsqrtm {

constexpr int ridge_count = 5;
FASTSQRTM_HOST_DEVICE constexpr int ridge_of(int attempt) {
  return attempt == 0 ? 0 : attempt == 1 ? 1 : attempt == 2 ? 8 : attempt == 3 ? 64 : 1024;
}
static_assert(sizeof(ridges) / sizeof(double) == ridge_count && ridges[1] == ridge_of(1) && ridges[2] == ridge_of(2) &&
              ridges[3] == ridge_of(3) && last_ridge == ridge_of(4));

// The distance from 1 to the next number of the type in which a matrix is computed.
template <typename T>
FASTSQRTM_HOST_DEVICE constexpr T machine_epsilon() {
  return static_cast<T>(sizeof(T) == 8 ? 0x1p-52 : 0x1p-23);
}

// Unit of the ridges tried when a root is inverted. For half-precision storage the last ridge must cover the rounding
// of the entries, which alone can make the matrix indefinite. A matrix whose root is taken enlarges only its last
// ridge.
template <typename T>
FASTSQRTM_HOST_DEVICE constexpr T ridge_unit(Element element) {
  return element == Element::bfloat16  ? T(0x1p-8 / last_ridge)
         : element == Element::float16 ? T(0x1p-11 / last_ridge)
                                       : machine_epsilon<T>();
}

// The last ridge of the matrix whose root is taken.
inline double last_ridge_of(Element element) {
  return last_ridge * (element == Element::float64 ? ridge_unit<double>(element) : ridge_unit<float>(element));
}

}  // namespace fastsqrtm

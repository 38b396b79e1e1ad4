// What the kernels of both devices add to a matrix or take for rounding: the ridges of zolotarev.h, which a kernel
// cannot index as a host array, their unit, and the limit for negative eigenvalues.
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
// of the entries, which alone can make the matrix indefinite.
template <typename T>
FASTSQRTM_HOST_DEVICE constexpr T ridge_unit(Element element) {
  return element == Element::bfloat16  ? T(0x1p-8 / last_ridge)
         : element == Element::float16 ? T(0x1p-11 / last_ridge)
                                       : machine_epsilon<T>();
}

// A matrix whose root is taken may have eigenvalues down to minus this part of the largest: they count as 0. It covers
// the rounding of its entries in any type of elements.
constexpr double largest_negative = 0x1p-6;

// The gradient of a root divides by sums of two eigenvalues of the root. One below a quarter of `root_floor` of the
// norm counts as singular, and its eigenvalues b become b + root_floor^2 / (b + root_floor), at least root_floor: the
// square root of the machine epsilon, to which a root is determined at an eigenvalue 0.
template <typename T>
FASTSQRTM_HOST_DEVICE constexpr T root_floor() {
  return static_cast<T>(sizeof(T) == 8 ? 0x1p-26 : 0x1.6a09e6p-12);
}

}  // namespace fastsqrtm

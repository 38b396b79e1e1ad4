// Inverses of symmetric positive definite matrices by the sweep, with the ridges of csrc/scalars/zolotarev.h.
#pragma once

#include <limits>
#include <type_traits>

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/memory.h"
#include "cpu/matrix/sweep.h"
#include "cpu/matrix/symmetric.h"
#include "scalars/zolotarev.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// W <- -P^-1, on and under the diagonal. Returns false if a pivot was not positive.
template <class T>
bool minus_inverse(const Team& team, const Panels<T>& P, const Panels<T>& W, const SweepStrips<T>& strips) {
  combine(team, T(1), P, T(0), W);
  return sweep<T, Swept::minus_own_inverse>(team, W, strips);
}

// The unit of the ridges that are tried when a root is inverted. For half-precision storage the largest ridge must
// cover the rounding of the entries, which alone can make the matrix indefinite. The roots enlarge only their last
// ridge.
template <class T, class Storage>
constexpr double ridge_unit() {
  return std::is_same<Storage, BFloat16>::value ? 0x1p-8 / last_ridge
         : std::is_same<Storage, Half>::value   ? 0x1p-11 / last_ridge
                                                : std::numeric_limits<T>::epsilon();
}

// W <- B^-1, complete. Adds a ridge to B if needed, in units of `unit` of its norm. Returns false if B is indefinite.
template <class T>
bool invert(const Team& team, double unit, const Panels<T>& B, const Panels<T>& W, const SweepStrips<T>& strips) {
  const double norm = one_norm(B);
  for (const double ridge : ridges) {
    add_identity(B, T(ridge * unit * norm));
    if (!minus_inverse(team, B, W, strips)) continue;
    mirror(team, W, T(-1));
    return true;
  }
  return false;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// Inverses of symmetric positive definite matrices by the sweep, with the ridges of csrc/scalars/ridges.h.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/memory.h"
#include "cpu/matrix/sweep.h"
#include "cpu/matrix/symmetric.h"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// W <- -P^-1, on and under the diagonal. Returns false if a pivot was not positive.
template <class T>
bool minus_inverse(const Team& team, const Panels<T>& P, const Panels<T>& W, const SweepStrips<T>& strips) {
  combine(team, T(1), P, T(0), W);
  return sweep<T, Swept::minus_own_inverse>(team, W, strips);
}

template <class Storage>
constexpr Element element_of = std::is_same<Storage, double>::value     ? Element::float64
                               : std::is_same<Storage, float>::value    ? Element::float32
                               : std::is_same<Storage, BFloat16>::value ? Element::bfloat16
                                                                        : Element::float16;

// W <- B^-1, complete. Adds a ridge to B if needed, in units of `unit` of its norm. Returns false if B is indefinite.
template <class T>
bool invert(const Team& team, double unit, const Panels<T>& B, const Panels<T>& W, const SweepStrips<T>& strips) {
  const double norm = one_norm(team, B);
  for (const double ridge : ridges) {
    add_identity(B, T(ridge * unit * norm));
    if (!minus_inverse(team, B, W, strips)) continue;
    mirror(team, W, T(-1));
    return true;
  }
  return false;
}

// The same for a root B of Frobenius norm 1, which is singular where null directions were clamped to zero: one with an
// eigenvalue below d, where d^2 is the precision in units of ||B||, is first replaced by B + d^2 (B + d I)^-1. That
// takes an eigenvalue 0 to d and changes the others by d^2 or less.
template <class T>
bool invert_root(const Team& team, double unit, const Panels<T>& B, const Panels<T>& W, const SweepStrips<T>& strips) {
  const double precision = std::numeric_limits<T>::epsilon();
  const bool definite = minus_inverse(team, B, W, strips);
  if (definite) {
    mirror(team, W, T(-1));
    if (inner_product(team, W, W) * precision <= 1) return true;
  }
  const double least = std::sqrt(precision) * spectral_estimate(B, 4, strips.eliminated);
  if (definite && spectral_estimate(W, 4, strips.eliminated) * least <= 1) return true;
  const double norm = one_norm(team, B);
  for (const double ridge : ridges) {
    add_identity(B, T(ridge * unit * norm));
    combine(team, T(1), B, T(0), W);
    add_identity(W, T(least));
    if (!sweep<T, Swept::minus_own_inverse>(team, W, strips)) continue;
    mirror(team, W, T(-1));
    combine_full(team, T(least * least), W, T(1), B);
    return invert(team, unit, B, W, strips);
  }
  return false;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

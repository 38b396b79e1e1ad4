// Rational functions given by partial fractions, and their exact gradient: the kernels of the Pade approximant without
// a normaliser. Counterparts: csrc/cpu/passes/rational.h and fastsqrtm/_reference/powers.py.
#pragma once

#include "cuda/passes/mpa.cuh"
#include "cuda/passes/mpa_backward.cuh"

namespace fastsqrtm {
namespace cuda {

struct Rational : Mpa {
  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments) {
    Mpa::run<V, false>(arguments);
  }
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
    Mpa::run_large<Large, false>(large, arguments);
  }
};

struct RationalBackward : MpaBackward {
  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments) {
    MpaBackward::run<V, false>(arguments);
  }
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
    MpaBackward::run_large<Large, false>(large, arguments);
  }
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/rational.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<Rational> : TinyGradient<one_lane::Rational> {
  template <typename T>
  using Numbers = FractionsNumbers<T>;
};
template <>
struct TinyPass<RationalBackward> : TinyGradient<one_lane::RationalBackward> {
  template <typename T>
  using Numbers = FractionsNumbers<T>;
};

}  // namespace cuda
}  // namespace fastsqrtm

#endif

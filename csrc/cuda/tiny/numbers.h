// The scalars of the passes in the type of the computation, for kernels in which every thread reads them for a matrix
// of its own: a conversion from double would take as long as many multiply-adds. They have the names that the functions
// in csrc/cpu/steps read.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

template <typename T>
struct DesignNumbers {
  int poles, newton_steps;
  T constant, error, largest;
  T weights[max_poles] = {}, inverse_shifts[max_poles] = {}, weights_over_shifts[max_poles] = {};
  T half_scales[max_newton_steps] = {};

  explicit DesignNumbers(const RootDesign& design)
      : poles(design.poles),
        newton_steps(design.newton_steps),
        constant(T(design.constant)),
        error(T(design.error)),
        largest(T(largest_regular_inverse(design, sizeof(T)))) {
    for (int j = 0; j < poles; ++j) {
      weights[j] = T(design.weights[j]);
      inverse_shifts[j] = T(design.inverse_shift(j));
      weights_over_shifts[j] = T(design.weight_over_shift(j));
    }
    for (int k = 0; k < newton_steps; ++k) half_scales[k] = T(design.half_scale(k));
  }
  FASTSQRTM_DEVICE T inverse_shift(int j) const { return inverse_shifts[j]; }
  FASTSQRTM_DEVICE T weight_over_shift(int j) const { return weights_over_shifts[j]; }
  FASTSQRTM_DEVICE T half_scale(int k) const { return half_scales[k]; }
};
template <typename T>
FASTSQRTM_DEVICE T largest_regular_inverse(const DesignNumbers<T>& design, int) {
  return design.largest;
}

// Each is made from its pass.
template <typename T>
struct RootsNumbers {
  DesignNumbers<T> design;

  explicit RootsNumbers(const passes::Roots& pass) : design(pass.design) {}
};

template <typename T>
struct FractionsNumbers {
  int count;
  bool quotient;
  T constant;
  T scales[max_fractions] = {}, weights[max_fractions] = {}, slopes[max_fractions] = {};

  explicit FractionsNumbers(const PartialFractions& series)
      : count(series.count), quotient(series.quotient), constant(T(series.constant)) {
    for (int j = 0; j < count; ++j) {
      scales[j] = T(series.scales[j]);
      weights[j] = T(series.weights[j]);
      slopes[j] = T(series.slope(j));
    }
  }
  FASTSQRTM_DEVICE T slope(int j) const { return slopes[j]; }
};

template <typename T>
struct MpaNumbers : FractionsNumbers<T> {
  Power power;

  explicit MpaNumbers(const passes::Mpa& pass) : FractionsNumbers<T>(pass), power(pass.power) {}
};

template <typename T>
struct MtpNumbers {
  Power power;
  int degree;
  T coefficients[max_taylor_degree + 1] = {};

  explicit MtpNumbers(const passes::Mtp& pass) : power(pass.power), degree(pass.degree) {
    for (int k = 0; k <= degree; ++k) coefficients[k] = T(pass.coefficients[k]);
  }
};

}  // namespace cuda
}  // namespace fastsqrtm

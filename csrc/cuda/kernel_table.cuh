// Every instantiation of every fused kernel, by the variant's index in the tables of variants.h.
#pragma once

#include <utility>

#include "cuda/passes/lya_backward.cuh"
#include "cuda/passes/lyapunov.cuh"
#include "cuda/passes/lyapunov_newton.cuh"
#include "cuda/passes/mpa.cuh"
#include "cuda/passes/mpa_backward.cuh"
#include "cuda/passes/mtp.cuh"
#include "cuda/passes/mtp_backward.cuh"
#include "cuda/passes/ns.cuh"
#include "cuda/passes/ns_backward.cuh"
#include "cuda/passes/roots.cuh"
#include "cuda/passes/roots_backward.cuh"

namespace fastsqrtm {
namespace cuda {

template <typename T>
using VariantIndices = std::make_integer_sequence<int, sizeof(T) == 8 ? double_shape_count : float_shape_count>;

template <class Arguments>
using Kernel = void (*)(Arguments);

template <typename T, int... index>
Kernel<MpaArguments<T>> mpa_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<MpaArguments<T>> table[] = {mpa_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<MtpArguments<T>> mtp_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<MtpArguments<T>> table[] = {mtp_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<NewtonSchulzArguments> ns_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<NewtonSchulzArguments> table[] = {ns_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<SqrtmLyaBackwardArguments> sqrtm_lya_backward_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<SqrtmLyaBackwardArguments> table[] = {sqrtm_lya_backward_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<InvSqrtmLyaBackwardArguments> inv_sqrtm_lya_backward_kernel_of(int variant,
                                                                      std::integer_sequence<int, index...>) {
  static constexpr Kernel<InvSqrtmLyaBackwardArguments> table[] = {inv_sqrtm_lya_backward_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<LyapunovArguments> lyapunov_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<LyapunovArguments> table[] = {lyapunov_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<MpaBackwardArguments<T>> mpa_backward_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<MpaBackwardArguments<T>> table[] = {mpa_backward_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<MtpBackwardArguments<T>> mtp_backward_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<MtpBackwardArguments<T>> table[] = {mtp_backward_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<NewtonSchulzBackwardArguments> ns_backward_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<NewtonSchulzBackwardArguments> table[] = {ns_backward_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<AccurateRootsArguments<T>> accurate_roots_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<AccurateRootsArguments<T>> table[] = {accurate_roots_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<AccurateBackwardArguments> accurate_backward_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<AccurateBackwardArguments> table[] = {accurate_backward_kernel<Variant<T, index>>...};
  return table[variant];
}

template <typename T, int... index>
Kernel<LyapunovNewtonArguments> lyapunov_newton_kernel_of(int variant, std::integer_sequence<int, index...>) {
  static constexpr Kernel<LyapunovNewtonArguments> table[] = {lyapunov_newton_kernel<Variant<T, index>>...};
  return table[variant];
}

}  // namespace cuda
}  // namespace fastsqrtm

#include "run_kernels.h"

#include "cuda/kernel_table.cuh"

namespace emulation {
namespace {

template <class Arguments>
void start(Kernel<Arguments> kernel, const Arguments& arguments, int threads, const FusedPlan& plan) {
  launch(plan.blocks, threads, plan.groups * plan.matrices_per_block, plan.shared_bytes, [&] { kernel(arguments); });
}

template <typename T>
void run_typed(Fused op, const Operands& o, const FusedPlan& plan) {
  const VariantIndices<T> all;
  const int threads = (sizeof(T) == 8 ? double_shapes : float_shapes)[plan.variant].threads;
  switch (op) {
    case Fused::mpa:
      return start(mpa_kernel_of<T>(plan.variant, all), mpa_arguments<T>(o.problem, o.first, o.degree, o.inverse, plan),
                   threads, plan);
    case Fused::mtp:
      return start(mtp_kernel_of<T>(plan.variant, all), mtp_arguments<T>(o.problem, o.first, o.degree, o.inverse),
                   threads, plan);
    case Fused::ns:
      return start(ns_kernel_of<T>(plan.variant, all),
                   NewtonSchulzArguments{o.problem, o.first, o.iterations, o.inverse}, threads, plan);
    case Fused::sqrtm_lya_backward:
      return start(sqrtm_lya_backward_kernel_of<T>(plan.variant, all),
                   SqrtmLyaBackwardArguments{o.problem, o.first, o.second, o.third, o.iterations}, threads, plan);
    case Fused::inv_sqrtm_lya_backward:
      return start(inv_sqrtm_lya_backward_kernel_of<T>(plan.variant, all),
                   InvSqrtmLyaBackwardArguments{o.problem, o.first, o.second, o.iterations}, threads, plan);
    case Fused::lyapunov:
      return start(lyapunov_kernel_of<T>(plan.variant, all),
                   LyapunovArguments{o.problem, o.first, o.second, o.iterations, o.kept}, threads, plan);
    case Fused::mpa_backward:
      return start(mpa_backward_kernel_of<T>(plan.variant, all),
                   MpaBackwardArguments<T>{mpa_arguments<T>(o.problem, o.first, o.degree, o.inverse, plan), o.second,
                                           static_cast<T*>(o.kept)},
                   threads, plan);
    case Fused::mtp_backward:
      return start(mtp_backward_kernel_of<T>(plan.variant, all),
                   MtpBackwardArguments<T>{mtp_arguments<T>(o.problem, o.first, o.degree, o.inverse), o.second,
                                           static_cast<T*>(o.kept)},
                   threads, plan);
    case Fused::ns_backward:
      return start(ns_backward_kernel_of<T>(plan.variant, all),
                   NewtonSchulzBackwardArguments{{o.problem, o.first, o.iterations, o.inverse}, o.second, o.kept},
                   threads, plan);
    case Fused::accurate_roots:
      return start(accurate_roots_kernel_of<T>(plan.variant, all),
                   accurate_roots_arguments<T>(o.problem, o.first, o.both || !o.inverse, o.both || o.inverse,
                                               design_of(o), plan.groups),
                   threads, plan);
    case Fused::accurate_backward:
      return start(accurate_backward_kernel_of<T>(plan.variant, all), backward_arguments(o), threads, plan);
    case Fused::lyapunov_newton:
      return start(lyapunov_newton_kernel_of<T>(plan.variant, all),
                   LyapunovNewtonArguments{o.problem, o.first, o.second, tolerance_of(o), o.kept}, threads, plan);
  }
}

}  // namespace

void run(Fused op, const Operands& operands, const FusedPlan& plan) {
  if (operands.problem.storage == Storage::float64) {
    run_typed<double>(op, operands, plan);
  } else {
    run_typed<float>(op, operands, plan);
  }
}

}  // namespace emulation

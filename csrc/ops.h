// Every op, the same on every device: it checks its arguments, allocates its results and runs a pass. A device is a
// type with
//   template <class Pass> static void run(const Pass&, Inputs, Outputs)
// that runs a pass of csrc/passes.h on every matrix of nonempty tensors, in the order of the comments there; nullptr
// stands for an absent tensor. A line of ops.def without a function here does not compile.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <initializer_list>
#include <optional>
#include <tuple>

#include "check.h"
#include "passes.h"

namespace fastsqrtm {

using Inputs = std::initializer_list<const Tensor*>;
using Outputs = std::initializer_list<Tensor*>;

// The checked arguments and the allocated results of one call of an op.
class Call {
 public:
  template <class... Args>
  explicit Call(const Signature& op, const Args&... args) : op_(op) {
    (take(args), ...);
    for (std::size_t i = 0; i < op.result_count; ++i) {
      results_[i] = empty(dimensions_.shape(op.results[i].dimensions), op.results[i].is_index);
      if (is_empty()) torch::stable::zero_(*results_[i]);  // such as the determinants of 0 x 0 matrices
    }
  }
  Tensor& operator[](std::size_t i) { return *results_[i]; }
  bool is_empty() const { return first_->numel() == 0; }
  int compute_bytes() const { return fastsqrtm::compute_bytes(element_of(*first_)); }

 private:
  // torch::stable::empty asks the dispatcher for the op of that name, which takes a microsecond more.
  Tensor empty(const std::vector<int64_t>& sizes, bool is_index) const {
    std::vector<int64_t> strides(sizes.size());
    int64_t stride = 1;
    for (std::size_t i = sizes.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= std::max<int64_t>(sizes[i], 1);
    }
    int32_t dtype = aoti_torch_dtype_int64(), device = 0;
    if (!is_index) TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(first_->get(), &dtype));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(first_->get(), &device));
    AtenTensorHandle made = nullptr;
    if (aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype, device,
                                 first_->get_device_index(), &made) != AOTI_TORCH_SUCCESS)
      fail(op_.name, "the result for " + shape_name(*first_) + " must fit into the memory of " + device_name(*first_),
           "no memory");
    return Tensor(made);
  }
  void take(const Tensor& A) {
    const Argument& argument = op_.arguments[taken_++];
    if (first_ == nullptr) {
      first_ = &A;
      check_first(op_.name, argument, A, dimensions_);
    } else {
      check_other(op_.name, argument, A, op_.arguments[0], *first_, dimensions_);
    }
  }
  void take(int64_t number) { check_number(op_.name, op_.arguments[taken_++], number); }
  void take(double number) { check_number(op_.name, op_.arguments[taken_++], number); }

  const Signature& op_;
  std::size_t taken_ = 0;
  const Tensor* first_ = nullptr;
  Dimensions dimensions_;
  std::array<std::optional<Tensor>, 4> results_;  // absent ones are cheaper than undefined tensors
};

template <class Device>
struct Ops {
  static constexpr Power half = Power::half, minus_half = Power::minus_half;

  static Tensor sqrtm(const Tensor& A, double rtol) {
    Call call(signatures::sqrtm, A, rtol);
    return run(call, passes::Roots(rtol, call.compute_bytes()), {&A}, {&call[0], nullptr});
  }
  static Tensor inv_sqrtm(const Tensor& A, double rtol) {
    Call call(signatures::inv_sqrtm, A, rtol);
    return run(call, passes::Roots(rtol, call.compute_bytes()), {&A}, {nullptr, &call[0]});
  }
  static std::tuple<Tensor, Tensor> sqrtm_and_inv(const Tensor& A, double rtol) {
    Call call(signatures::sqrtm_and_inv, A, rtol);
    run(call, passes::Roots(rtol, call.compute_bytes()), {&A}, {&call[0], &call[1]});
    return {call[0], call[1]};
  }
  static Tensor sqrtm_backward(const Tensor& S, const Tensor& G, double rtol) {
    Call call(signatures::sqrtm_backward, S, G, rtol);
    return run(call, passes::RootsBackward(rtol, call.compute_bytes()), {&S, nullptr, &G, nullptr});
  }
  static Tensor inv_sqrtm_backward(const Tensor& Z, const Tensor& G, double rtol) {
    Call call(signatures::inv_sqrtm_backward, Z, G, rtol);
    return run(call, passes::RootsBackward(rtol, call.compute_bytes()), {nullptr, &Z, nullptr, &G});
  }
  static Tensor sqrtm_and_inv_backward(const Tensor& S, const Tensor& Z, const Tensor& G, const Tensor& H,
                                       double rtol) {
    Call call(signatures::sqrtm_and_inv_backward, S, Z, G, H, rtol);
    return run(call, passes::RootsBackward(rtol, call.compute_bytes()), {&S, &Z, &G, &H});
  }
  static Tensor inv(const Tensor& A) {
    Call call(signatures::inv, A);
    return run(call, passes::Inverse(), {&A}, {&call[0], nullptr});
  }
  static std::tuple<Tensor, Tensor> inv_and_logdet(const Tensor& A) {
    Call call(signatures::inv_and_logdet, A);
    run(call, passes::Inverse(), {&A}, {&call[0], &call[1]});
    return {call[0], call[1]};
  }
  static Tensor inv_backward(const Tensor& Z, const Tensor& G) {
    Call call(signatures::inv_backward, Z, G);
    return run(call, passes::InverseBackward(), {&Z, &G});
  }
  static std::tuple<Tensor, Tensor> qr(const Tensor& A) {
    return run_qr(Call(signatures::qr, A), passes::Qr(false, false), A);
  }
  static std::tuple<Tensor, Tensor> qr_complete(const Tensor& A) {
    return run_qr(Call(signatures::qr_complete, A), passes::Qr(false, true), A);
  }
  static std::tuple<Tensor, Tensor, Tensor> qr_pivoted(const Tensor& A) {
    return run_qr_pivoted(Call(signatures::qr_pivoted, A), passes::Qr(true, false), A);
  }
  static std::tuple<Tensor, Tensor, Tensor> qr_pivoted_complete(const Tensor& A) {
    return run_qr_pivoted(Call(signatures::qr_pivoted_complete, A), passes::Qr(true, true), A);
  }
  static Tensor qr_backward(const Tensor& Q, const Tensor& R, const Tensor& G, const Tensor& H) {
    Call call(signatures::qr_backward, Q, R, G, H);
    return run(call, passes::QrBackward(), {&Q, &R, &G, &H});
  }
  static Tensor lyapunov(const Tensor& B, const Tensor& C, int64_t iterations) {
    Call call(signatures::lyapunov, B, C, iterations);
    return run(call, passes::Lyapunov(iterations), {&B, &C});
  }
  static Tensor lyapunov_newton(const Tensor& B, const Tensor& C, double rtol) {
    Call call(signatures::lyapunov_newton, B, C, rtol);
    return run(call, passes::LyapunovNewton(rtol, call.compute_bytes()), {&B, &C});
  }
  static Tensor rational_power(const Tensor& A, double exponent, double lowest, int64_t poles) {
    Call call(signatures::rational_power, A, exponent, lowest, poles);
    return run(call, passes::Rational(fractions_of_power(exponent, lowest, int(poles))), {&A});
  }
  static Tensor rational_power_backward(const Tensor& A, const Tensor& G, double exponent, double lowest,
                                        int64_t poles) {
    Call call(signatures::rational_power_backward, A, G, exponent, lowest, poles);
    return run(call, passes::RationalBackward(fractions_of_power(exponent, lowest, int(poles))), {&A, &G});
  }
  static Tensor rational_log(const Tensor& A, double lowest, int64_t poles) {
    Call call(signatures::rational_log, A, lowest, poles);
    return run(call, passes::Rational(fractions_of_logarithm(lowest, int(poles))), {&A});
  }
  static Tensor rational_log_backward(const Tensor& A, const Tensor& G, double lowest, int64_t poles) {
    Call call(signatures::rational_log_backward, A, G, lowest, poles);
    return run(call, passes::RationalBackward(fractions_of_logarithm(lowest, int(poles))), {&A, &G});
  }

  // Only the backward pass uses `iterations`.
  static Tensor mpa_lya(const Tensor& A, int64_t degree, int64_t iterations) {
    Call call(signatures::mpa_lya, A, degree, iterations);
    return run(call, passes::Mpa(half, degree), {&A});
  }
  static Tensor mtp_lya(const Tensor& A, int64_t degree, int64_t iterations) {
    Call call(signatures::mtp_lya, A, degree, iterations);
    return run(call, passes::Mtp(half, degree), {&A});
  }
  static Tensor mpa_lya_inv(const Tensor& A, int64_t degree, int64_t iterations) {
    Call call(signatures::mpa_lya_inv, A, degree, iterations);
    return run(call, passes::Mpa(minus_half, degree), {&A});
  }
  static Tensor mtp_lya_inv(const Tensor& A, int64_t degree, int64_t iterations) {
    Call call(signatures::mtp_lya_inv, A, degree, iterations);
    return run(call, passes::Mtp(minus_half, degree), {&A});
  }
  static Tensor sqrtm_lya_backward(const Tensor& A, const Tensor& S, const Tensor& G, int64_t iterations) {
    Call call(signatures::sqrtm_lya_backward, A, S, G, iterations);
    return run(call, passes::SqrtmLyaBackward(iterations), {&A, &S, &G});
  }
  static Tensor inv_sqrtm_lya_backward(const Tensor& Z, const Tensor& G, int64_t iterations) {
    Call call(signatures::inv_sqrtm_lya_backward, Z, G, iterations);
    return run(call, passes::InvSqrtmLyaBackward(iterations), {&Z, &G});
  }

  static Tensor mpa(const Tensor& A, int64_t degree) {
    Call call(signatures::mpa, A, degree);
    return run(call, passes::Mpa(half, degree), {&A});
  }
  static Tensor mtp(const Tensor& A, int64_t degree) {
    Call call(signatures::mtp, A, degree);
    return run(call, passes::Mtp(half, degree), {&A});
  }
  static Tensor ns(const Tensor& A, int64_t iterations) {
    Call call(signatures::ns, A, iterations);
    return run(call, passes::Ns(half, iterations), {&A});
  }
  static Tensor mpa_inv(const Tensor& A, int64_t degree) {
    Call call(signatures::mpa_inv, A, degree);
    return run(call, passes::Mpa(minus_half, degree), {&A});
  }
  static Tensor mtp_inv(const Tensor& A, int64_t degree) {
    Call call(signatures::mtp_inv, A, degree);
    return run(call, passes::Mtp(minus_half, degree), {&A});
  }
  static Tensor ns_inv(const Tensor& A, int64_t iterations) {
    Call call(signatures::ns_inv, A, iterations);
    return run(call, passes::Ns(minus_half, iterations), {&A});
  }
  static Tensor mpa_backward(const Tensor& A, const Tensor& G, int64_t degree) {
    Call call(signatures::mpa_backward, A, G, degree);
    return run(call, passes::MpaBackward(half, degree), {&A, &G});
  }
  static Tensor mtp_backward(const Tensor& A, const Tensor& G, int64_t degree) {
    Call call(signatures::mtp_backward, A, G, degree);
    return run(call, passes::MtpBackward(half, degree), {&A, &G});
  }
  static Tensor ns_backward(const Tensor& A, const Tensor& G, int64_t iterations) {
    Call call(signatures::ns_backward, A, G, iterations);
    return run(call, passes::NsBackward(half, iterations), {&A, &G});
  }
  static Tensor mpa_inv_backward(const Tensor& A, const Tensor& G, int64_t degree) {
    Call call(signatures::mpa_inv_backward, A, G, degree);
    return run(call, passes::MpaBackward(minus_half, degree), {&A, &G});
  }
  static Tensor mtp_inv_backward(const Tensor& A, const Tensor& G, int64_t degree) {
    Call call(signatures::mtp_inv_backward, A, G, degree);
    return run(call, passes::MtpBackward(minus_half, degree), {&A, &G});
  }
  static Tensor ns_inv_backward(const Tensor& A, const Tensor& G, int64_t iterations) {
    Call call(signatures::ns_inv_backward, A, G, iterations);
    return run(call, passes::NsBackward(minus_half, iterations), {&A, &G});
  }

 private:
  template <class Pass>
  static Tensor run(Call& call, const Pass& pass, Inputs in, Outputs out) {
    if (!call.is_empty()) Device::run(pass, in, out);
    return call[0];
  }
  static std::tuple<Tensor, Tensor> run_qr(Call call, const passes::Qr& pass, const Tensor& A) {
    run(call, pass, {&A}, {&call[0], &call[1], nullptr});
    return {call[0], call[1]};
  }
  static std::tuple<Tensor, Tensor, Tensor> run_qr_pivoted(Call call, const passes::Qr& pass, const Tensor& A) {
    run(call, pass, {&A}, {&call[0], &call[1], &call[2]});
    return {call[0], call[1], call[2]};
  }
  // The same for a pass with one result.
  template <class Pass>
  static Tensor run(Call& call, const Pass& pass, Inputs in) {
    return run(call, pass, in, {&call[0]});
  }
};

}  // namespace fastsqrtm

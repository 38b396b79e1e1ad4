// QR without pivots by torch's own, on either device, for the shapes where that is faster. It has threads of its own,
// so it is called outside of any parallel region.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "check.h"

namespace fastsqrtm {

inline std::pair<Tensor, Tensor> torch_qr(const Tensor& A, const std::string& mode) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 2> stack{from(A), from(mode)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::linalg_qr", "", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

// Writes Q and R. A matrix that is not finite gives NaN.
inline void qr_by_torch(const Tensor& A, bool complete, Tensor& Q, Tensor& R) {
  const bool is_half = A.element_size() == 2;
  const Tensor wide = is_half ? torch::stable::to(A, ScalarType::Float) : A;
  auto [q, r] = torch_qr(wide, complete ? "complete" : "reduced");
  // The question costs less than the answer, but the host must not wait for a GPU.
  const auto sum = [&] { return torch::stable::sum(wide, std::nullopt, false, ScalarType::Double); };
  if (!A.is_cpu() || !std::isfinite(*static_cast<const double*>(sum().const_data_ptr()))) {
    const int64_t both[] = {-2, -1};
    const Tensor nothing = torch::stable::sum(torch::stable::subtract(wide, wide), both, true);  // zero or NaN
    q = torch::stable::subtract(q, nothing);
    r = torch::stable::subtract(r, nothing);
  }
  torch::stable::copy_(Q, q);
  torch::stable::copy_(R, r);
}

}  // namespace fastsqrtm

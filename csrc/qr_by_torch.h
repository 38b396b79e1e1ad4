// QR without pivots by torch's own, on either device, for the shapes where that is faster. It has threads of its own,
// so it is called outside of any parallel region.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <array>
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
  const int64_t both[] = {-2, -1};
  const Tensor nothing = torch::stable::sum(torch::stable::subtract(wide, wide), both, true);  // zero or NaN
  const auto [q, r] = torch_qr(wide, complete ? "complete" : "reduced");
  torch::stable::copy_(Q, torch::stable::subtract(q, nothing));
  torch::stable::copy_(R, torch::stable::subtract(r, nothing));
}

}  // namespace fastsqrtm

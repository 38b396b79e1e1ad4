// QR without pivots by torch's own, and its gradient by torch's products, on either device, for the shapes where that
// is faster. They have threads of their own, so they are called outside of any parallel region.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "check.h"

namespace fastsqrtm {

// Whether m x n matrices on the CPU are long enough. Their few columns fill a panel only in part, and most of the work
// is in the panel. Short ones lie side by side in vectors. The number of matrices does not count: each has the same
// bits in any batch. The gradient is a dozen operations of torch, which take their time for small matrices.
inline bool torch_is_faster(int64_t m, int64_t n) { return m * n > 2048 && m / (m < 512 ? 24 : 8) > n; }
inline bool torch_is_faster_backward(int64_t m, int64_t n) { return m * n > 8192 && m / 8 > n; }

inline std::pair<Tensor, Tensor> torch_qr(const Tensor& A, const std::string& mode) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 2> stack{from(A), from(mode)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::linalg_qr", "", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

// out <- q, a batch of matrices whose columns are contiguous, as LAPACK leaves them: torch's copy takes three times as
// long as the factorisation of a long matrix with few columns.
template <class Bits>
void copy_columns_to_rows(const Tensor& q, Tensor& out) {
  const int64_t m = q.size(-2), n = q.size(-1), pitch = q.stride(-1);
  const int64_t rows = std::max<int64_t>(16, 1024 / n);  // at least a cache line of each column at a time
  const int64_t parts = (m + rows - 1) / rows, count = q.numel() / (m * n);
  const Bits* from = static_cast<const Bits*>(q.const_data_ptr());
  Bits* to = static_cast<Bits*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, count * parts, 16, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t matrix = part / parts, first = part % parts * rows, last = std::min(first + rows, m);
      const Bits* source = from + matrix * pitch * n;
      Bits* target = to + matrix * m * n;
      for (int64_t j = 0; j < n; ++j)
        for (int64_t i = first; i < last; ++i) target[i * n + j] = source[j * pitch + i];
    }
  });
}

// Whether no number of a tensor without gaps on the CPU is NaN or infinite.
template <class T>
bool is_finite(const Tensor& A) {
  const T* data = static_cast<const T*>(A.const_data_ptr());
  T sum = 0;  // of zeros, or NaN
  for (int64_t i = 0; i < A.numel(); ++i) sum += data[i] - data[i];
  return sum == 0;
}

// Writes Q and R. A matrix that is not finite gives NaN.
inline void qr_by_torch(const Tensor& A, bool complete, Tensor& Q, Tensor& R) {
  const Tensor wide = A.element_size() == 2 ? torch::stable::to(A, ScalarType::Float) : A;
  auto [q, r] = torch_qr(wide, complete ? "complete" : "reduced");
  // What is not finite in a column is in R as well, which is smaller; but the host must not wait for a GPU.
  if (!A.is_cpu() || !(r.element_size() == 8 ? is_finite<double>(r) : is_finite<float>(r))) {
    const int64_t both[] = {-2, -1};
    const Tensor nothing = torch::stable::sum(torch::stable::subtract(wide, wide), both, true);  // zero or NaN
    q = torch::stable::subtract(q, nothing);
    r = torch::stable::subtract(r, nothing);
  }
  const bool by_columns =
      A.is_cpu() && q.scalar_type() == Q.scalar_type() && torch::stable::transpose(q, -2, -1).is_contiguous();
  if (by_columns && Q.element_size() == 4)
    copy_columns_to_rows<uint32_t>(q, Q);
  else if (by_columns)
    copy_columns_to_rows<uint64_t>(q, Q);
  else
    torch::stable::copy_(Q, q);
  torch::stable::copy_(R, r);
}

// The signs of LAPACK for A = Q R with orthonormal columns in Q, from its first n rows B: those that make each pivot of
// B - diag(signs) the larger one (Ballard and others, J. Parallel Distrib. Comput. 85, 2015). They go to `signs`;
// B is overwritten. False where LAPACK might have found a column already reduced, and would leave its sign alone.
template <class T>
bool signs_of_lapack(T* B, int64_t n, T* signs) {
  for (int64_t j = 0; j < n; ++j) {
    const T first = B[j * n + j];
    if (std::fabs(first) > 1 - 16 * std::numeric_limits<T>::epsilon()) return false;
    signs[j] = first < 0 ? T(1) : T(-1);
    for (int64_t i = j + 1; i < n; ++i) {
      const T factor = B[i * n + j] / (first - signs[j]);
      for (int64_t l = j + 1; l < n; ++l) B[i * n + l] -= factor * B[j * n + l];
    }
  }
  return true;
}

// Q <- Q diag(signs), R <- diag(signs) R for the n x n factors of each R of a long matrix whose first n rows of Q are
// those of `top`. False where the signs are not known.
template <class T>
bool take_signs_of_lapack(Tensor& top, Tensor& Q, Tensor& R) {
  const int64_t n = Q.size(-1);
  T *b = static_cast<T*>(top.mutable_data_ptr()), *q = static_cast<T*>(Q.mutable_data_ptr()),
    *r = static_cast<T*>(R.mutable_data_ptr());
  std::vector<T> signs(n);
  for (int64_t at = 0; at < Q.numel(); at += n * n) {
    if (!signs_of_lapack(b + at, n, signs.data())) return false;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        q[at + i * n + j] *= signs[j];
        r[at + i * n + j] *= signs[i];
      }
  }
  return true;
}

// X = (G + Q sym_lower(R H^T - G^T Q)) R^-T for the inputs Q, R, G and H. A matrix that is not finite gives NaN.
inline void qr_backward_by_torch(std::initializer_list<const Tensor*> inputs, Tensor& X) {
  using torch::stable::matmul;
  using torch::stable::subtract;
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  const auto transposed = [](const Tensor& x) { return torch::stable::transpose(x, -2, -1); };
  const auto lower = [](const Tensor& x, int64_t diagonal) {
    std::array<StableIValue, 2> stack{from(x), from(diagonal)};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::tril", "", stack.data(), TORCH_ABI_VERSION));
    return to<Tensor>(stack[0]);
  };
  const auto sum = [](const Tensor& x, const Tensor& y) { return subtract(x, y, -1); };
  Tensor wide[4];
  std::transform(inputs.begin(), inputs.end(), wide, [](const Tensor* input) {
    return input->element_size() == 2 ? torch::stable::to(*input, ScalarType::Float) : *input;
  });
  const auto& [Q, R, G, H] = wide;
  const Tensor RT = lower(transposed(R), 0), HT = lower(transposed(H), 0);
  const Tensor W = subtract(matmul(transposed(RT), HT), matmul(transposed(G), Q));
  // What is not finite in Q or G is in W as well, which is smaller. Zero or NaN:
  const int64_t both[] = {-2, -1};
  const Tensor nothing = torch::stable::sum(sum(subtract(W, W), sum(subtract(R, R), subtract(H, H))), both, true);
  const Tensor S = sum(sum(lower(W, 0), transposed(lower(W, -1))), nothing);
  // R X^T = G^T + S Q^T, whose right side has its columns contiguous, as LAPACK wants them.
  const Tensor right = transposed(sum(G, matmul(Q, S)));
  Tensor found = X.scalar_type() == G.scalar_type() ? X : torch::stable::empty_like(G);
  std::array<StableIValue, 6> stack{from(transposed(RT)), from(right), from(true),
                                    from(true),           from(false), from(transposed(found))};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::linalg_solve_triangular", "out", stack.data(), TORCH_ABI_VERSION));
  to<Tensor>(stack[0]);  // another handle of `found`
  if (X.scalar_type() != G.scalar_type()) torch::stable::copy_(X, found);
}

}  // namespace fastsqrtm

// The CPU kernels as tensor ops: check, plan, spread the batch over torch's threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "../check.h"
#include "../plan.h"
#include "kernels.h"

namespace fastsqrtm {
namespace {

const Kernels& kernels() {
#ifdef FASTSQRTM_HAVE_X86_ISAS
  if (cpu_capability().vector_bytes == 64) return avx512::kernels;
  if (cpu_capability().vector_bytes == 32) return avx2::kernels;
#endif
  return baseline::kernels;
}

// The matrices of a tensor (..., n, n) with any strides, by their number in row-major order of the leading dimensions.
class Matrices {
 public:
  explicit Matrices(const Tensor& A)
      : data_(static_cast<const char*>(A.const_data_ptr())),
        element_size_(int64_t(A.element_size())),
        row_stride_(A.stride(-2)),
        column_stride_(A.stride(-1)) {
    for (int64_t i = A.dim() - 3; i >= 0; --i) leading_.push_back({A.size(i), A.stride(i)});
  }

  MatrixIn operator[](int64_t index) const {
    int64_t offset = 0;
    for (const auto& [size, stride] : leading_) {
      offset += index % size * stride;
      index /= size;
    }
    return {data_ + offset * element_size_, row_stride_, column_stride_};
  }

 private:
  struct Leading {
    int64_t size, stride;
  };
  const char* data_;
  int64_t element_size_, row_stride_, column_stride_;
  std::vector<Leading> leading_;  // innermost first
};

Element element_of(const Tensor& A) {
  switch (A.scalar_type()) {
    case ScalarType::Half:
      return Element::float16;
    case ScalarType::BFloat16:
      return Element::bfloat16;
    case ScalarType::Double:
      return Element::float64;
    default:
      return Element::float32;
  }
}

void parallel(int items, void (*body)(void*, int), void* context) {
  torch::stable::parallel_for(0, items, 1, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(context, int(i));
  });
}

// An output like A, filled by pass(matrix number, output matrix, workspace, team) for every matrix.
template <class Pass>
Tensor for_each_matrix(const Tensor& A, const Pass& pass) {
  Tensor out = torch::stable::empty(A.sizes(), A.scalar_type(), std::nullopt, A.device());
  if (A.numel() == 0) return out;
  const int64_t n = A.size(-1), batch = A.numel() / (n * n);
  const int64_t matrix_bytes = n * n * int64_t(A.element_size());
  const CpuPlan plan =
      plan_cpu(batch, n, A.scalar_type() == ScalarType::Double ? 8 : 4, int(torch::stable::get_num_threads()));
  const std::unique_ptr<void, decltype(&std::free)> buffer(std::aligned_alloc(64, plan.workspace_bytes), &std::free);
  if (!buffer) throw std::bad_alloc();
  const int64_t own_bytes = plan.workspace_bytes / plan.workers;
  char* target = static_cast<char*>(out.mutable_data_ptr());
  char* workspace = static_cast<char*>(buffer.get());

  torch::stable::parallel_for(0, plan.workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      char* own = workspace + worker * own_bytes;
      std::memset(own, 0, own_bytes);
      for (int64_t i = plan.alone * worker / plan.workers; i < plan.alone * (worker + 1) / plan.workers; ++i)
        pass(i, target + i * matrix_bytes, own, Team());
    }
  });
  for (int64_t i = plan.alone; i < batch; ++i)
    pass(i, target + i * matrix_bytes, workspace, Team{plan.threads, parallel});
  return out;
}

Tensor root(const char* op, const Tensor& A, const RootMethod& method, int64_t iterations) {
  check_iterations(op, iterations);
  const Matrices matrices(A);
  return for_each_matrix(
      A, [&, n = int(A.size(-1)), element = element_of(A)](int64_t i, void* out, void* workspace, const Team& team) {
        kernels().root(element, n, method, matrices[i], out, workspace, team);
      });
}

Tensor pade_root(const char* op, const Tensor& A, int64_t degree, int64_t iterations, bool inverse) {
  check_matrices(op, "A", A);
  check_count(op, "degree", degree, max_pade_degree);
  double shifts[max_pade_degree], weights[max_pade_degree];
  for (int j = 0; j < degree; ++j) {
    const PadeTerm term = pade_term(int(degree), j + 1);
    shifts[j] = term.shift;
    weights[j] = term.weight;
  }
  return root(op, A, {RootMethod::Kind::pade, inverse, int(degree), shifts, weights, nullptr}, iterations);
}

Tensor taylor_root(const char* op, const Tensor& A, int64_t degree, int64_t iterations, bool inverse) {
  check_matrices(op, "A", A);
  check_count(op, "degree", degree, max_taylor_degree);
  double coefficients[max_taylor_degree + 1] = {1};
  for (int k = 1; k <= degree; ++k) coefficients[k] = taylor_next(coefficients[k - 1], k, inverse ? -0.5 : 0.5);
  return root(op, A, {RootMethod::Kind::taylor, inverse, int(degree), nullptr, nullptr, coefficients}, iterations);
}

Tensor mpa_lya(const Tensor& A, int64_t degree, int64_t iterations) {
  return pade_root("mpa_lya", A, degree, iterations, false);
}

Tensor mtp_lya(const Tensor& A, int64_t degree, int64_t iterations) {
  return taylor_root("mtp_lya", A, degree, iterations, false);
}

Tensor mpa_lya_inv(const Tensor& A, int64_t degree, int64_t iterations) {
  return pade_root("mpa_lya_inv", A, degree, iterations, true);
}

Tensor mtp_lya_inv(const Tensor& A, int64_t degree, int64_t iterations) {
  return taylor_root("mtp_lya_inv", A, degree, iterations, true);
}

Tensor lyapunov(const Tensor& B, const Tensor& C, int64_t iterations) {
  check_matrices("lyapunov", "B", B);
  check_like("lyapunov", "C", C, "B", B);
  check_iterations("lyapunov", iterations);
  if (B.element_size() == 2) {  // the sum of two solutions, to be rounded once
    const Tensor X =
        lyapunov(torch::stable::to(B, ScalarType::Float), torch::stable::to(C, ScalarType::Float), iterations);
    return torch::stable::to(X, B.scalar_type());
  }
  const Matrices b(B), c(C);
  return for_each_matrix(
      B, [&, n = int(B.size(-1)), element = element_of(B)](int64_t i, void* out, void* workspace, const Team& team) {
        kernels().lyapunov(element, n, int(iterations), b[i], c[i], out, workspace, team);
      });
}

Tensor sqrtm_lya_backward(const Tensor& A, const Tensor& S, const Tensor& G, int64_t iterations) {
  check_matrices("sqrtm_lya_backward", "A", A);
  check_like("sqrtm_lya_backward", "S", S, "A", A);
  check_like("sqrtm_lya_backward", "G", G, "A", A);
  check_iterations("sqrtm_lya_backward", iterations);
  const Matrices a(A), s(S), g(G);
  return for_each_matrix(
      A, [&, n = int(A.size(-1)), element = element_of(A)](int64_t i, void* out, void* workspace, const Team& team) {
        kernels().sqrtm_lya_backward(element, n, int(iterations), a[i], s[i], g[i], out, workspace, team);
      });
}

Tensor inv_sqrtm_lya_backward(const Tensor& Z, const Tensor& G, int64_t iterations) {
  check_matrices("inv_sqrtm_lya_backward", "Z", Z);
  check_like("inv_sqrtm_lya_backward", "G", G, "Z", Z);
  check_iterations("inv_sqrtm_lya_backward", iterations);
  const Matrices z(Z), g(G);
  return for_each_matrix(
      Z, [&, n = int(Z.size(-1)), element = element_of(Z)](int64_t i, void* out, void* workspace, const Team& team) {
        kernels().inv_sqrtm_lya_backward(element, n, int(iterations), z[i], g[i], out, workspace, team);
      });
}

}  // namespace
}  // namespace fastsqrtm

STABLE_TORCH_LIBRARY_IMPL(fastsqrtm, CPU, m) {
  using namespace fastsqrtm;
  m.impl("mpa_lya", TORCH_BOX(&mpa_lya));
  m.impl("mtp_lya", TORCH_BOX(&mtp_lya));
  m.impl("mpa_lya_inv", TORCH_BOX(&mpa_lya_inv));
  m.impl("mtp_lya_inv", TORCH_BOX(&mtp_lya_inv));
  m.impl("lyapunov", TORCH_BOX(&lyapunov));
  m.impl("sqrtm_lya_backward", TORCH_BOX(&sqrtm_lya_backward));
  m.impl("inv_sqrtm_lya_backward", TORCH_BOX(&inv_sqrtm_lya_backward));
}

// The CUDA kernels as tensor ops: check, plan, launch on the current stream. Twin: csrc/cpu/ops.cpp.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "../check.h"
#include "large_library.h"
#include "launch.h"

namespace fastsqrtm {
namespace {

using namespace cuda;

Storage storage_of(const Tensor& A) {
  switch (A.scalar_type()) {
    case ScalarType::Half:
      return Storage::float16;
    case ScalarType::BFloat16:
      return Storage::bfloat16;
    case ScalarType::Double:
      return Storage::float64;
    default:
      return Storage::float32;
  }
}

// The kernels know one batch dimension. Leading dimensions that are not one regular step of memory are copied together.
Tensor with_one_batch_stride(const Tensor& A) {
  int64_t expected = -1;
  for (int64_t i = A.dim() - 3; i >= 0; --i) {
    if (A.size(i) == 1) continue;
    if (expected >= 0 && A.stride(i) != expected) return torch::stable::contiguous(A);
    expected = A.stride(i) * A.size(i);
  }
  return A;
}

Input input_of(const Tensor& A, bool only_symmetric_part_matters) {
  Input in{A.const_data_ptr(), 0, A.stride(-2), A.stride(-1)};
  for (int64_t i = A.dim() - 3; i >= 0 && in.batch_stride == 0; --i) {
    if (A.size(i) != 1) in.batch_stride = A.stride(i);
  }
  // The transposed matrix has the same symmetric part and neighbouring elements in its rows.
  if (only_symmetric_part_matters && in.column_stride != 1 && in.row_stride == 1) {
    std::swap(in.row_stride, in.column_stride);
  }
  return in;
}

void* current_stream(int32_t device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
}

struct Call {
  const char* name;
  Fused op;
  int degree;
  int iterations;
  bool inverse;
};

void launch_fused_op(const Call& call, const Problem& problem, const Input (&in)[3], void* kept, const FusedPlan& plan,
                     cudaStream_t stream) {
  switch (call.op) {
    case Fused::mpa:
      return launch_mpa(problem, in[0], call.degree, call.inverse, plan, stream);
    case Fused::mtp:
      return launch_mtp(problem, in[0], call.degree, call.inverse, plan, stream);
    case Fused::sqrtm_lya_backward:
      return launch_sqrtm_lya_backward({problem, in[0], in[1], in[2], call.iterations}, plan, stream);
    case Fused::inv_sqrtm_lya_backward:
      return launch_inv_sqrtm_lya_backward({problem, in[0], in[1], call.iterations}, plan, stream);
    case Fused::lyapunov:
      return launch_lyapunov({problem, in[0], in[1], call.iterations, kept}, plan, stream);
    case Fused::mpa_backward:
      return launch_mpa_backward(problem, in[0], in[1], call.degree, call.inverse, kept, plan, stream);
    case Fused::mtp_backward:
      return launch_mtp_backward(problem, in[0], in[1], call.degree, call.inverse, kept, plan, stream);
  }
}

Tensor run(const Call& call, std::initializer_list<const Tensor*> arguments) {
  const Tensor& A = **arguments.begin();
  for (const Tensor* tensor : arguments) {
    if (tensor->device() != A.device()) fail(call.name, "all tensors must be on one device", "several");
  }
  Tensor out = torch::stable::empty(A.sizes(), A.scalar_type(), std::nullopt, A.device());
  if (A.numel() == 0) return out;
  const int32_t device = A.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(current_stream(device));

  Tensor held[3] = {A, A, A};
  Input inputs[3] = {};
  int count = 0;
  for (const Tensor* tensor : arguments) {
    held[count] = with_one_batch_stride(*tensor);
    inputs[count] = input_of(held[count], !(call.op == Fused::lyapunov && count == 1));
    ++count;
  }
  const int64_t n = A.size(-1);
  const Problem problem{out.mutable_data_ptr(), A.numel() / (n * n), static_cast<int>(n), storage_of(A)};
  const int element_bytes = problem.storage == Storage::float64 ? 8 : 4;
  const FusedPlan plan = plan_fused(call.op, problem.batch, n, element_bytes, call.degree, device_limits(device));
  if (plan.variant >= 0) {
    Tensor kept = out;
    if (call.op == Fused::lyapunov && A.element_size() < 4) {
      kept = torch::stable::empty(A.sizes(), ScalarType::Float, std::nullopt, A.device());
    }
    const Shape& shape = (element_bytes == 8 ? double_shapes : float_shapes)[plan.variant];
    if (const int64_t elements = kept_elements(call.op, shape)) {
      kept =
          torch::stable::empty({problem.batch * elements * element_bytes}, ScalarType::Byte, std::nullopt, A.device());
    }
    launch_fused_op(call, problem, inputs, kept.mutable_data_ptr(), plan, stream);
    return out;
  }
  Tensor workspace = torch::stable::empty({large_workspace(call.op, problem.batch, n, call.degree, problem.storage)},
                                          ScalarType::Byte, std::nullopt, A.device());
  void* blas = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&blas));
  launch_large(call.op, problem, inputs, call.degree, call.iterations, call.inverse, workspace.mutable_data_ptr(), blas,
               stream);
  return out;
}

void check_degree(const char* name, Fused op, int64_t degree) {
  const bool by_shifts = op == Fused::mpa || op == Fused::mpa_backward;
  check_count(name, "degree", degree, by_shifts ? max_pade_degree : max_taylor_degree);
}

Tensor root(const char* name, Fused op, const Tensor& A, int64_t degree, int64_t iterations, bool inverse) {
  check_matrices(name, "A", A);
  check_degree(name, op, degree);
  check_iterations(name, iterations);
  return run({name, op, static_cast<int>(degree), static_cast<int>(iterations), inverse}, {&A});
}

Tensor mpa_lya(const Tensor& A, int64_t degree, int64_t iterations) {
  return root("mpa_lya", Fused::mpa, A, degree, iterations, false);
}

Tensor mtp_lya(const Tensor& A, int64_t degree, int64_t iterations) {
  return root("mtp_lya", Fused::mtp, A, degree, iterations, false);
}

Tensor mpa_lya_inv(const Tensor& A, int64_t degree, int64_t iterations) {
  return root("mpa_lya_inv", Fused::mpa, A, degree, iterations, true);
}

Tensor mtp_lya_inv(const Tensor& A, int64_t degree, int64_t iterations) {
  return root("mtp_lya_inv", Fused::mtp, A, degree, iterations, true);
}

Tensor mpa(const Tensor& A, int64_t degree) { return root("mpa", Fused::mpa, A, degree, 1, false); }

Tensor mtp(const Tensor& A, int64_t degree) { return root("mtp", Fused::mtp, A, degree, 1, false); }

Tensor mpa_inv(const Tensor& A, int64_t degree) { return root("mpa_inv", Fused::mpa, A, degree, 1, true); }

Tensor mtp_inv(const Tensor& A, int64_t degree) { return root("mtp_inv", Fused::mtp, A, degree, 1, true); }

Tensor exact_gradient(const char* name, Fused op, const Tensor& A, const Tensor& G, int64_t degree, bool inverse) {
  check_matrices(name, "A", A);
  check_like(name, "G", G, "A", A);
  check_degree(name, op, degree);
  return run({name, op, static_cast<int>(degree), 1, inverse}, {&A, &G});
}

Tensor mpa_backward(const Tensor& A, const Tensor& G, int64_t degree) {
  return exact_gradient("mpa_backward", Fused::mpa_backward, A, G, degree, false);
}

Tensor mtp_backward(const Tensor& A, const Tensor& G, int64_t degree) {
  return exact_gradient("mtp_backward", Fused::mtp_backward, A, G, degree, false);
}

Tensor mpa_inv_backward(const Tensor& A, const Tensor& G, int64_t degree) {
  return exact_gradient("mpa_inv_backward", Fused::mpa_backward, A, G, degree, true);
}

Tensor mtp_inv_backward(const Tensor& A, const Tensor& G, int64_t degree) {
  return exact_gradient("mtp_inv_backward", Fused::mtp_backward, A, G, degree, true);
}

Tensor lyapunov(const Tensor& B, const Tensor& C, int64_t iterations) {
  check_matrices("lyapunov", "B", B);
  check_like("lyapunov", "C", C, "B", B);
  check_iterations("lyapunov", iterations);
  return run({"lyapunov", Fused::lyapunov, 1, static_cast<int>(iterations), false}, {&B, &C});
}

Tensor sqrtm_lya_backward(const Tensor& A, const Tensor& S, const Tensor& G, int64_t iterations) {
  check_matrices("sqrtm_lya_backward", "A", A);
  check_like("sqrtm_lya_backward", "S", S, "A", A);
  check_like("sqrtm_lya_backward", "G", G, "A", A);
  check_iterations("sqrtm_lya_backward", iterations);
  return run({"sqrtm_lya_backward", Fused::sqrtm_lya_backward, 1, static_cast<int>(iterations), false}, {&A, &S, &G});
}

Tensor inv_sqrtm_lya_backward(const Tensor& Z, const Tensor& G, int64_t iterations) {
  check_matrices("inv_sqrtm_lya_backward", "Z", Z);
  check_like("inv_sqrtm_lya_backward", "G", G, "Z", Z);
  check_iterations("inv_sqrtm_lya_backward", iterations);
  return run({"inv_sqrtm_lya_backward", Fused::inv_sqrtm_lya_backward, 1, static_cast<int>(iterations), true},
             {&Z, &G});
}

}  // namespace
}  // namespace fastsqrtm

STABLE_TORCH_LIBRARY_IMPL(fastsqrtm, CUDA, m) {
  using namespace fastsqrtm;
  m.impl("mpa_lya", TORCH_BOX(&mpa_lya));
  m.impl("mtp_lya", TORCH_BOX(&mtp_lya));
  m.impl("mpa_lya_inv", TORCH_BOX(&mpa_lya_inv));
  m.impl("mtp_lya_inv", TORCH_BOX(&mtp_lya_inv));
  m.impl("mpa", TORCH_BOX(&mpa));
  m.impl("mtp", TORCH_BOX(&mtp));
  m.impl("mpa_inv", TORCH_BOX(&mpa_inv));
  m.impl("mtp_inv", TORCH_BOX(&mtp_inv));
  m.impl("lyapunov", TORCH_BOX(&lyapunov));
  m.impl("sqrtm_lya_backward", TORCH_BOX(&sqrtm_lya_backward));
  m.impl("inv_sqrtm_lya_backward", TORCH_BOX(&inv_sqrtm_lya_backward));
  m.impl("mpa_backward", TORCH_BOX(&mpa_backward));
  m.impl("mtp_backward", TORCH_BOX(&mtp_backward));
  m.impl("mpa_inv_backward", TORCH_BOX(&mpa_inv_backward));
  m.impl("mtp_inv_backward", TORCH_BOX(&mtp_inv_backward));
}

// The CUDA kernels as tensor ops: check, plan, launch on the current stream. Twin: csrc/cpu/ops.cpp.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <initializer_list>
#include <utility>
#include <vector>

#include "check.h"
#include "cuda/launch.h"
#include "cuda/library/launch.h"

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
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
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
    case Fused::ns:
      return launch_ns({problem, in[0], call.iterations, call.inverse}, plan, stream);
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
    case Fused::ns_backward:
      return launch_ns_backward({{problem, in[0], call.iterations, call.inverse}, in[1], kept}, plan, stream);
    default:
      return;  // the accurate methods have arguments of their own
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
  TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&blas));
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

Tensor newton_schulz(const char* name, const Tensor& A, int64_t iterations, bool inverse) {
  check_matrices(name, "A", A);
  check_iterations(name, iterations);
  return run({name, Fused::ns, 1, static_cast<int>(iterations), inverse}, {&A});
}

Tensor ns(const Tensor& A, int64_t iterations) { return newton_schulz("ns", A, iterations, false); }

Tensor ns_inv(const Tensor& A, int64_t iterations) { return newton_schulz("ns_inv", A, iterations, true); }

Tensor newton_schulz_gradient(const char* name, const Tensor& A, const Tensor& G, int64_t iterations, bool inverse) {
  check_matrices(name, "A", A);
  check_like(name, "G", G, "A", A);
  check_iterations(name, iterations);
  return run({name, Fused::ns_backward, 1, static_cast<int>(iterations), inverse}, {&A, &G});
}

Tensor ns_backward(const Tensor& A, const Tensor& G, int64_t iterations) {
  return newton_schulz_gradient("ns_backward", A, G, iterations, false);
}

Tensor ns_inv_backward(const Tensor& A, const Tensor& G, int64_t iterations) {
  return newton_schulz_gradient("ns_inv_backward", A, G, iterations, true);
}

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

enum class Wanted { root, inverse, both };

// The device of `first`, its stream, and what a launch by either path needs.
class Device {
 public:
  explicit Device(const Tensor& first)
      : index_(first.get_device_index()),
        guard_(index_),
        stream_(static_cast<cudaStream_t>(current_stream(index_))),
        like_(first) {}

  FusedPlan plan(Fused op, const Problem& problem, int terms = 1) const {
    return plan_fused(op, problem.batch, problem.n, problem.storage == Storage::float64 ? 8 : 4, terms,
                      device_limits(index_));
  }
  cudaStream_t stream() const { return stream_; }

  // run(workspace, cuBLAS handle)
  template <class F>
  void with_workspace(Fused op, const Problem& problem, int poles, F run) const {
    Tensor workspace = torch::stable::empty({large_workspace(op, problem.batch, problem.n, poles, problem.storage)},
                                            ScalarType::Byte, std::nullopt, like_.device());
    void* blas = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&blas));
    run(workspace.mutable_data_ptr(), blas);
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
  const Tensor& like_;
};

Problem problem_of(Tensor& out, const Tensor& A) {
  const int64_t n = A.size(-1);
  return {out.mutable_data_ptr(), A.numel() / (n * n), static_cast<int>(n), storage_of(A)};
}

Tensor accurate_roots(const char* op, const Tensor& A, double rtol, Wanted wanted) {
  check_matrices(op, "A", A);
  check_rtol(op, rtol);
  std::vector<int64_t> shape(A.sizes().begin(), A.sizes().end());
  if (wanted == Wanted::both) shape.insert(shape.end() - 2, 2);
  Tensor out = torch::stable::empty({shape.data(), shape.size()}, A.scalar_type(), std::nullopt, A.device());
  if (A.numel() == 0) return out;
  const Device device(A);
  const Tensor held = with_one_batch_stride(A);
  const Input in = input_of(held, true);
  const Problem problem = problem_of(out, A);
  const RootDesign design = root_design(rtol, problem.storage == Storage::float64 ? 8 : 4);
  const bool root = wanted != Wanted::inverse, inverse = wanted != Wanted::root;
  const FusedPlan plan = device.plan(Fused::accurate_roots, problem, design.poles);
  if (plan.variant >= 0) {
    launch_accurate_roots(problem, in, root, inverse, design, plan, device.stream());
    return out;
  }
  device.with_workspace(Fused::accurate_roots, problem, design.poles, [&](void* workspace, void* blas) {
    launch_large_accurate_roots(problem, in, root, inverse, design, workspace, blas, device.stream());
  });
  return out;
}

Tensor sqrtm(const Tensor& A, double rtol) { return accurate_roots("sqrtm", A, rtol, Wanted::root); }

Tensor inv_sqrtm(const Tensor& A, double rtol) { return accurate_roots("inv_sqrtm", A, rtol, Wanted::inverse); }

Tensor sqrtm_and_inv(const Tensor& A, double rtol) { return accurate_roots("sqrtm_and_inv", A, rtol, Wanted::both); }

double newton_tolerance(const Tensor& A, double rtol) {
  return std::max(rtol, finest_tolerance(A.scalar_type() == ScalarType::Double ? 8 : 4));
}

void check_one_device(const char* op, const Tensor& A, const Tensor& B) {
  if (A.device() != B.device()) fail(op, "all tensors must be on one device", "several");
}

Tensor accurate_backward(const char* op, const Tensor& R, const char* root_name, const Tensor& G, double rtol,
                         Wanted wanted) {
  check_matrices(op, root_name, R);
  check_like(op, "G", G, root_name, R);
  const bool both = wanted == Wanted::both;
  if (both && (R.dim() < 3 || R.size(-3) != 2))
    fail(op, std::string(root_name) + " must be (..., 2, n, n)", shape_name(R));
  check_rtol(op, rtol);
  check_one_device(op, R, G);
  // Of a pair the first halves, then the second ones.
  const auto half = [both](const Tensor& A, int64_t i) { return both ? torch::stable::select(A, -3, i) : A; };
  const Tensor first = half(R, 0);
  Tensor out = torch::stable::empty(first.sizes(), R.scalar_type(), std::nullopt, R.device());
  if (first.numel() == 0) return out;
  const Device device(R);
  const Tensor held[] = {with_one_batch_stride(first), with_one_batch_stride(half(G, 0)),
                         with_one_batch_stride(half(R, both ? 1 : 0)), with_one_batch_stride(half(G, both ? 1 : 0))};
  AccurateBackwardArguments arguments{problem_of(out, first), {}, {}, {}, {}, newton_tolerance(R, rtol)};
  if (wanted != Wanted::inverse) {
    arguments.root = input_of(held[0], true);
    arguments.root_cotangent = input_of(held[1], true);
  }
  if (wanted != Wanted::root) {
    arguments.inverse_root = input_of(held[2], true);
    arguments.inverse_cotangent = input_of(held[3], true);
  }
  const FusedPlan plan = device.plan(Fused::accurate_backward, arguments.problem);
  if (plan.variant >= 0) {
    launch_accurate_backward(arguments, plan, device.stream());
    return out;
  }
  device.with_workspace(Fused::accurate_backward, arguments.problem, 1, [&](void* workspace, void* blas) {
    launch_large_accurate_backward(arguments, workspace, blas, device.stream());
  });
  return out;
}

Tensor sqrtm_backward(const Tensor& S, const Tensor& G, double rtol) {
  return accurate_backward("sqrtm_backward", S, "S", G, rtol, Wanted::root);
}

Tensor inv_sqrtm_backward(const Tensor& Z, const Tensor& G, double rtol) {
  return accurate_backward("inv_sqrtm_backward", Z, "Z", G, rtol, Wanted::inverse);
}

Tensor sqrtm_and_inv_backward(const Tensor& R, const Tensor& G, double rtol) {
  return accurate_backward("sqrtm_and_inv_backward", R, "R", G, rtol, Wanted::both);
}

Tensor lyapunov_newton(const Tensor& B, const Tensor& C, double rtol) {
  constexpr const char* op = "lyapunov_newton";
  check_matrices(op, "B", B);
  check_like(op, "C", C, "B", B);
  check_rtol(op, rtol);
  check_one_device(op, B, C);
  Tensor out = torch::stable::empty(B.sizes(), B.scalar_type(), std::nullopt, B.device());
  if (B.numel() == 0) return out;
  const Device device(B);
  const Tensor held_B = with_one_batch_stride(B), held_C = with_one_batch_stride(C);
  LyapunovNewtonArguments arguments{problem_of(out, B), input_of(held_B, true), input_of(held_C, false),
                                    newton_tolerance(B, rtol), nullptr};
  const FusedPlan plan = device.plan(Fused::lyapunov_newton, arguments.problem);
  if (plan.variant >= 0) {
    Tensor kept = out;
    if (B.element_size() < 4) kept = torch::stable::empty(B.sizes(), ScalarType::Float, std::nullopt, B.device());
    arguments.kept = kept.mutable_data_ptr();
    launch_lyapunov_newton(arguments, plan, device.stream());
    return out;
  }
  device.with_workspace(Fused::lyapunov_newton, arguments.problem, 1, [&](void* workspace, void* blas) {
    launch_large_lyapunov_newton(arguments, workspace, blas, device.stream());
  });
  return out;
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
  m.impl("ns", TORCH_BOX(&ns));
  m.impl("ns_inv", TORCH_BOX(&ns_inv));
  m.impl("lyapunov", TORCH_BOX(&lyapunov));
  m.impl("sqrtm_lya_backward", TORCH_BOX(&sqrtm_lya_backward));
  m.impl("inv_sqrtm_lya_backward", TORCH_BOX(&inv_sqrtm_lya_backward));
  m.impl("mpa_backward", TORCH_BOX(&mpa_backward));
  m.impl("mtp_backward", TORCH_BOX(&mtp_backward));
  m.impl("mpa_inv_backward", TORCH_BOX(&mpa_inv_backward));
  m.impl("mtp_inv_backward", TORCH_BOX(&mtp_inv_backward));
  m.impl("ns_backward", TORCH_BOX(&ns_backward));
  m.impl("ns_inv_backward", TORCH_BOX(&ns_inv_backward));
  m.impl("sqrtm", TORCH_BOX(&sqrtm));
  m.impl("inv_sqrtm", TORCH_BOX(&inv_sqrtm));
  m.impl("sqrtm_and_inv", TORCH_BOX(&sqrtm_and_inv));
  m.impl("lyapunov_newton", TORCH_BOX(&lyapunov_newton));
  m.impl("sqrtm_backward", TORCH_BOX(&sqrtm_backward));
  m.impl("inv_sqrtm_backward", TORCH_BOX(&inv_sqrtm_backward));
  m.impl("sqrtm_and_inv_backward", TORCH_BOX(&sqrtm_and_inv_backward));
}

// The ops on CUDA: tensors in, tensors out, on the current stream. csrc/ops.h says which pass an op runs, launch.cuh
// plans and launches it.
#include "ops.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <vector>

#include "cuda/launch.h"
#include "cuda/passes/qr.cuh"
#include "cuda/passes/qr_backward.cuh"
#include "qr_by_torch.h"

namespace fastsqrtm {
namespace {

using namespace cuda;

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

Input input_of(const Tensor& A) {
  Input in{A.const_data_ptr(), 0, A.stride(-2), A.stride(-1)};
  for (int64_t i = A.dim() - 3; i >= 0 && in.batch_stride == 0; --i) {
    if (A.size(i) != 1) in.batch_stride = A.stride(i);
  }
  return in;
}

cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// A pass's requests to torch. Its memory is released at once after the launch: the allocator follows the stream.
class TorchContext : public Context {
 public:
  explicit TorchContext(const Tensor& first)
      : Context(first.get_device_index(), current_stream(first.get_device_index())), first_(first) {}

  void* allocate(int64_t bytes) override {
    held_.push_back(torch::stable::empty({bytes}, ScalarType::Byte, std::nullopt, first_.device()));
    return held_.back().mutable_data_ptr();
  }
  void* blas_handle() override {
    void* blas = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&blas));
    return blas;
  }

 private:
  const Tensor& first_;
  std::vector<Tensor> held_;
};

struct Cuda {
  template <class Pass>
  static void run(const Pass& pass, Inputs in, Outputs out) {
    const Tensor* first = nullptr;
    for (const Tensor* tensor : in) first = first ? first : tensor;
    const torch::stable::accelerator::DeviceGuard guard(first->get_device_index());
    Operands operands = {};
    operands.problem = problem_of(*first, out);
    if (run_by_torch(pass, operands.problem, in, out)) return;
    std::vector<Tensor> held;
    int count = 0;
    for (const Tensor* tensor : in) {
      if (tensor) {
        held.push_back(with_one_batch_stride(*tensor));
        operands.in[count] = input_of(held.back());
      }
      ++count;
    }
    count = 0;
    for (Tensor* tensor : out) {
      if (tensor) {
        const int64_t bytes = tensor->numel() * tensor->element_size();
        operands.out[count] = {tensor->mutable_data_ptr(), bytes / operands.problem.batch};
      }
      ++count;
    }
    TorchContext context(*first);
    run_pass(pass, operands, context);
  }

 private:
  static Problem problem_of(const Tensor& first, Outputs out) {
    const int64_t m = first.size(-2), n = first.size(-1);
    int64_t columns = n;
    for (const Tensor* tensor : out) {
      if (tensor && tensor->dim() == first.dim()) columns = std::max(columns, tensor->size(-1));
    }
    return {first.numel() / (m * n), static_cast<int>(m), static_cast<int>(n), static_cast<int>(columns),
            element_of(first)};
  }

  // True where torch has done the work of a pass. An overload for each pass that it does some of.
  template <class Pass>
  static bool run_by_torch(const Pass&, const Problem&, Inputs, Outputs) {
    return false;
  }
  static bool run_by_torch(const passes::Qr& pass, const Problem& problem, Inputs in, Outputs out) {
    const Tensor& A = **in.begin();
    if (pass.pivots || fits_a_block<Qr>(problem, A.get_device_index())) return false;
    qr_by_torch(A, pass.complete, **out.begin(), **(out.begin() + 1));
    return true;
  }
  static bool run_by_torch(const passes::QrBackward&, const Problem& problem, Inputs in, Outputs out) {
    if (fits_a_block<QrBackward>(problem, (*in.begin())->get_device_index())) return false;
    qr_backward_by_torch(in, **out.begin());
    return true;
  }

  template <class Kernel>
  static bool fits_a_block(const Problem& problem, int device) {
    const int bytes = compute_bytes(problem.element);
    const Plan plan = plan_pass<Kernel>(problem.batch, Kernel::order(problem), bytes, 1, device_limits(device));
    return Kernel::kept_elements(shape_of(plan, bytes), problem) == 0;
  }
};

}  // namespace
}  // namespace fastsqrtm

STABLE_TORCH_LIBRARY_IMPL(fastsqrtm, CUDA, m) {
  using namespace fastsqrtm;
#define OP(name, schema, shapes, ranges) m.impl(#name, TORCH_BOX(&Ops<Cuda>::name));
#include "ops.def"
}

// Runs the passes on CPU tensors: plans, and spreads the batch over torch's threads. The ops are those of csrc/ops.h.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/plan.h"
#include "ops.h"
#include "qr_by_torch.h"

namespace fastsqrtm {
namespace {

const Kernels& kernels() {
#ifdef FASTSQRTM_HAVE_X86_ISAS
  if (cpu_capability().vector_bytes == 64) return avx512::kernels;
  if (cpu_capability().vector_bytes == 32) return avx2::kernels;
#endif
  return baseline::kernels;
}

// The matrices of a tensor (..., m, n) with any strides, by their number in row-major order of the leading dimensions.
// Those of an absent tensor are absent.
class Matrices {
 public:
  Matrices() = default;
  explicit Matrices(const Tensor* A) {
    if (A == nullptr) return;
    data_ = static_cast<const char*>(A->const_data_ptr());
    element_size_ = int64_t(A->element_size());
    row_stride_ = A->stride(-2);
    column_stride_ = A->stride(-1);
    for (int64_t i = A->dim() - 3; i >= 0; --i) leading_.push_back({A->size(i), A->stride(i)});
  }

  MatrixIn operator[](int64_t index) const {
    int64_t offset = 0;
    for (const auto& [size, stride] : leading_) {
      offset += index % size * stride;
      index /= size;
    }
    return {data_ ? data_ + offset * element_size_ : nullptr, row_stride_, column_stride_};
  }

 private:
  struct Leading {
    int64_t size, stride;
  };
  const char* data_ = nullptr;
  int64_t element_size_ = 0, row_stride_ = 0, column_stride_ = 0;
  std::vector<Leading> leading_;  // innermost first
};

// The batch of the tiny path. A tensor whose matrices lie at no equal distances is copied.
struct Tiny {
  Batch batch;
  std::array<std::optional<Tensor>, max_inputs> copies;

  Tiny(int64_t n, int64_t matrices, Inputs in, Outputs out) : batch{int(n), matrices, {}, {}} {
    std::size_t k = 0;
    for (const Tensor* A : in) {
      if (A != nullptr) {
        std::optional<int64_t> distance = distance_of_matrices(*A);
        if (!distance) {
          copies[k] = torch::stable::contiguous(*A);
          A = &*copies[k];
          distance = n * n;
        }
        batch.in[k] = {A->const_data_ptr(), *distance, A->stride(-2), A->stride(-1)};
      }
      ++k;
    }
    k = 0;
    for (Tensor* X : out) {
      if (X != nullptr) batch.out[k] = {X->mutable_data_ptr(), X->numel() / matrices * int64_t(X->element_size())};
      ++k;
    }
  }

  static std::optional<int64_t> distance_of_matrices(const Tensor& A) {
    int64_t distance = 0, count = 1;
    for (int64_t i = A.dim() - 3; i >= 0; --i) {
      if (A.size(i) == 1) continue;
      if (count == 1)
        distance = A.stride(i);
      else if (A.stride(i) != count * distance)
        return std::nullopt;
      count *= A.size(i);
    }
    return count == 1 ? A.size(-1) * A.size(-1) : distance;
  }
};

// Memory for one call; a little of it lies on the stack, where it costs nothing.
class Buffer {
 public:
  explicit Buffer(int64_t bytes) {
    if (bytes <= int64_t(sizeof near_)) return;
    far_.reset(std::aligned_alloc(64, bytes));
    if (!far_) throw std::bad_alloc();
  }
  char* get() const { return far_ ? static_cast<char*>(far_.get()) : near_; }

 private:
  alignas(64) mutable char near_[16384];
  std::unique_ptr<void, decltype(&std::free)> far_ = {nullptr, &std::free};
};

// Calls work(worker) for each worker on a thread of its own; one alone stays on this thread.
template <class Work>
void spread(int workers, const Work& work) {
  if (workers == 1) return work(0);
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) work(worker);
  });
}

void parallel(int items, void (*body)(void*, int), void* context) {
  spread(items, [=](int64_t i) { body(context, int(i)); });
}

struct Cpu {
  template <class Pass>
  static void run(const Pass& pass, Inputs in, Outputs out) {
    const auto& kernel = kernel_of(kernels(), pass);
    const Tensor& first = **std::find_if(in.begin(), in.end(), [](const Tensor* A) { return A != nullptr; });
    if (kernel.adds_to_output && first.element_size() == 2) return run_in_float32(pass, in, out);
    const Element element = element_of(first);
    const int m = int(first.size(-2)), n = int(first.size(-1));
    if (run_by_torch(pass, m, n, in, out)) return;
    const int64_t batch = first.numel() / (int64_t(m) * n);
    const Demand demand = kernel.demand(element, m, n, pass);
    const CpuPlan plan = plan_cpu(batch, m, n, compute_bytes(element), int(torch::stable::get_num_threads()), demand);
    const Buffer buffer(plan.workspace_bytes);
    const int64_t own_bytes = plan.workspace_bytes / plan.workers;
    char* const workspace = buffer.get();
    if (plan.path == Path::tiny && kernel.run_tiny != nullptr) {
      const Tiny tiny(n, batch, in, out);
      spread(plan.workers, [&](int64_t worker) {
        kernel.run_tiny(element, tiny.batch, batch * worker / plan.workers, batch * (worker + 1) / plan.workers, pass,
                        workspace + worker * own_bytes, own_bytes);
      });
      return;
    }

    Matrices inputs[max_inputs];
    std::transform(in.begin(), in.end(), inputs, [](const Tensor* A) { return Matrices(A); });
    struct Target {
      char* data = nullptr;
      int64_t bytes = 0;  // of one matrix
    } targets[max_outputs];
    std::transform(out.begin(), out.end(), targets, [&](Tensor* X) {
      Target target;
      if (X != nullptr)
        target = {static_cast<char*>(X->mutable_data_ptr()), X->numel() / batch * int64_t(X->element_size())};
      return target;
    });
    const auto run_some = [&](int64_t begin, int64_t end, void* own, const Team& team) {
      Task tasks[most_lanes];
      for (int64_t i = begin; i < end; ++i) {
        Task& task = tasks[i - begin];
        task = {m, n, {}, {}};
        for (std::size_t k = 0; k < in.size(); ++k) task.in[k] = inputs[k][i];
        for (std::size_t k = 0; k < out.size(); ++k) {
          if (targets[k].data) task.out[k] = targets[k].data + i * targets[k].bytes;
        }
      }
      kernel.run(element, tasks, int(end - begin), pass, own, team);
    };
    const int64_t together = demand.matrices, runs = (plan.alone + together - 1) / together;
    spread(plan.workers, [&](int64_t worker) {
      char* own = workspace + worker * own_bytes;
      std::memset(own, 0, own_bytes);
      for (int64_t i = runs * worker / plan.workers; i < runs * (worker + 1) / plan.workers; ++i)
        run_some(i * together, std::min((i + 1) * together, plan.alone), own, Team());
    });
    for (int64_t i = plan.alone; i < batch; ++i) run_some(i, i + 1, workspace, Team{plan.team, parallel});
  }

 private:
  // True where torch has done the work of a pass for m x n matrices. An overload for each pass that it does some of.
  template <class Pass>
  static bool run_by_torch(const Pass&, int, int, Inputs, Outputs) {
    return false;
  }
  // Pivots are chosen column by column, and each choice goes through the whole matrix: better that is the triangle.
  static bool run_by_torch(const passes::Qr& pass, int m, int n, Inputs in, Outputs out) {
    if (pass.complete) return false;
    if (pass.pivots) return m >= 384 && m / 3 >= n && pivoted_by_its_triangle(**in.begin(), out);
    if (!torch_is_faster(m, n)) return false;
    qr_by_torch(**in.begin(), false, **out.begin(), **(out.begin() + 1));
    return true;
  }
  static bool run_by_torch(const passes::QrBackward&, int m, int n, Inputs in, Outputs out) {
    if (!torch_is_faster_backward(m, n)) return false;
    qr_backward_by_torch(in, **out.begin());
    return true;
  }

  // A = Q' R' without pivots, R'[:, P] = Q'' R and Q = Q' Q'': the columns of R' are as long as those of A. False where
  // the signs of LAPACK are not known from that.
  static bool pivoted_by_its_triangle(const Tensor& A, Outputs out) {
    Tensor &Q = **out.begin(), &R = **(out.begin() + 1), &P = **(out.begin() + 2);
    const Tensor wide = A.element_size() == 2 ? torch::stable::to(A, ScalarType::Float) : A;
    const auto like = [&](const Tensor& x) {
      return torch::stable::empty(x.sizes(), wide.scalar_type(), std::nullopt, A.device());
    };
    Tensor first_q = like(Q), first_r = like(R), q = like(R), r = like(R);
    run(passes::Qr(false, false), {&wide}, {&first_q, &first_r, nullptr});
    run(passes::Qr(true, false), {&first_r}, {&q, &r, &P});
    Tensor upper = first_q;
    upper = torch::stable::narrow(upper, -2, 0, A.size(-1));
    Tensor top = torch::stable::contiguous(torch::stable::matmul(upper, q));
    if (!(wide.element_size() == 8 ? take_signs_of_lapack<double>(top, q, r) : take_signs_of_lapack<float>(top, q, r)))
      return false;
    torch::stable::copy_(Q, torch::stable::matmul(first_q, q));
    torch::stable::copy_(R, r);
    return true;
  }

  // The sum of two solutions is rounded once.
  template <class Pass>
  static void run_in_float32(const Pass& pass, Inputs in, Outputs out) {
    const Tensor a = torch::stable::to(**in.begin(), ScalarType::Float);
    const Tensor b = torch::stable::to(**(in.begin() + 1), ScalarType::Float);
    Tensor& target = **out.begin();
    Tensor sum = torch::stable::empty(target.sizes(), ScalarType::Float, std::nullopt, target.device());
    run(pass, {&a, &b}, {&sum});
    torch::stable::copy_(target, sum);
  }
};

}  // namespace
}  // namespace fastsqrtm

STABLE_TORCH_LIBRARY_IMPL(fastsqrtm, CPU, m) {
  using CpuOps = fastsqrtm::Ops<fastsqrtm::Cpu>;
#define OP(name, ...) m.impl(#name, TORCH_BOX(&CpuOps::name));
#include "ops.def"
}

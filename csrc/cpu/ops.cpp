// The CPU kernels as tensor ops: check, plan, spread the batch over torch's threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"
#include "cpu/plan.h"

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

// Half precisions are computed in float32.
int compute_bytes(const Tensor& A) { return A.scalar_type() == ScalarType::Double ? 8 : 4; }

void parallel(int items, void (*body)(void*, int), void* context) {
  torch::stable::parallel_for(0, items, 1, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(context, int(i));
  });
}

// An output like A, or of two matrices for each of A where `pair`, filled by pass(matrix number, output, workspace,
// team) for every matrix of A.
template <class Pass>
Tensor for_each_matrix(const Tensor& A, int matrices, const Pass& pass, bool pair = false) {
  std::vector<int64_t> shape(A.sizes().begin(), A.sizes().end());
  if (pair) shape.insert(shape.end() - 2, 2);
  Tensor out = torch::stable::empty({shape.data(), shape.size()}, A.scalar_type(), std::nullopt, A.device());
  if (A.numel() == 0) return out;
  const int64_t n = A.size(-1), batch = A.numel() / (n * n);
  const int64_t result_bytes = n * n * int64_t(A.element_size()) * (pair ? 2 : 1);
  const CpuPlan plan = plan_cpu(batch, n, compute_bytes(A), int(torch::stable::get_num_threads()), matrices);
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
        pass(i, target + i * result_bytes, own, Team());
    }
  });
  for (int64_t i = plan.alone; i < batch; ++i)
    pass(i, target + i * result_bytes, workspace, Team{plan.threads, parallel});
  return out;
}

// The scalars of one of the paper's forward methods, its arguments checked.
class Series {
 public:
  Series(const char* op, RootMethod::Kind kind, bool inverse, const Tensor& A, int64_t degree)
      : op_(op), kind_(kind), inverse_(inverse), degree_(int(degree)) {
    check_matrices(op, "A", A);
    if (kind == RootMethod::Kind::pade) {
      check_count(op, "degree", degree, max_pade_degree);
      for (int j = 0; j < degree; ++j) {
        const PadeTerm term = pade_term(int(degree), j + 1);
        shifts_[j] = term.shift;
        weights_[j] = term.weight;
      }
    } else if (kind == RootMethod::Kind::newton_schulz) {
      check_iterations(op, degree);
    } else {
      check_count(op, "degree", degree, max_taylor_degree);
      coefficients_[0] = 1;
      for (int k = 1; k <= degree; ++k) coefficients_[k] = taylor_next(coefficients_[k - 1], k, inverse ? -0.5 : 0.5);
    }
  }

  Tensor root(const Tensor& A, int64_t iterations = 1) const {
    check_iterations(op_, iterations);
    const Matrices a(A);
    return for_each_matrix(
        A, kind_ == RootMethod::Kind::newton_schulz ? 5 : 4,
        [&, n = int(A.size(-1)), element = element_of(A)](int64_t i, void* out, void* workspace, const Team& team) {
          kernels().root(element, n, method(), a[i], out, workspace, team);
        });
  }

  Tensor backward(const Tensor& A, const Tensor& G) const {
    const Matrices a(A), g(G);
    const int matrices = kind_ == RootMethod::Kind::pade ? 5 : kind_ == RootMethod::Kind::taylor ? 8 : 10;
    return for_each_matrix(
        A, matrices,
        [&, n = int(A.size(-1)), element = element_of(A)](int64_t i, void* out, void* workspace, const Team& team) {
          kernels().root_backward(element, n, method(), a[i], g[i], out, workspace, team);
        });
  }

 private:
  RootMethod method() const { return {kind_, inverse_, degree_, shifts_, weights_, coefficients_}; }

  const char* op_;
  RootMethod::Kind kind_;
  bool inverse_;
  int degree_;
  double shifts_[max_pade_degree], weights_[max_pade_degree], coefficients_[max_taylor_degree + 1];
};

constexpr auto pade = RootMethod::Kind::pade, taylor = RootMethod::Kind::taylor,
               newton_schulz = RootMethod::Kind::newton_schulz;

Tensor mpa_lya(const Tensor& A, int64_t degree, int64_t iterations) {
  return Series("mpa_lya", pade, false, A, degree).root(A, iterations);
}

Tensor mtp_lya(const Tensor& A, int64_t degree, int64_t iterations) {
  return Series("mtp_lya", taylor, false, A, degree).root(A, iterations);
}

Tensor mpa_lya_inv(const Tensor& A, int64_t degree, int64_t iterations) {
  return Series("mpa_lya_inv", pade, true, A, degree).root(A, iterations);
}

Tensor mtp_lya_inv(const Tensor& A, int64_t degree, int64_t iterations) {
  return Series("mtp_lya_inv", taylor, true, A, degree).root(A, iterations);
}

Tensor mpa(const Tensor& A, int64_t degree) { return Series("mpa", pade, false, A, degree).root(A); }

Tensor mtp(const Tensor& A, int64_t degree) { return Series("mtp", taylor, false, A, degree).root(A); }

Tensor mpa_inv(const Tensor& A, int64_t degree) { return Series("mpa_inv", pade, true, A, degree).root(A); }

Tensor mtp_inv(const Tensor& A, int64_t degree) { return Series("mtp_inv", taylor, true, A, degree).root(A); }

Tensor ns(const Tensor& A, int64_t iterations) { return Series("ns", newton_schulz, false, A, iterations).root(A); }

Tensor ns_inv(const Tensor& A, int64_t iterations) {
  return Series("ns_inv", newton_schulz, true, A, iterations).root(A);
}

Tensor series_backward(const char* op, RootMethod::Kind kind, bool inverse, const Tensor& A, const Tensor& G,
                       int64_t degree) {
  check_matrices(op, "A", A);
  check_like(op, "G", G, "A", A);
  return Series(op, kind, inverse, A, degree).backward(A, G);
}

Tensor mpa_backward(const Tensor& A, const Tensor& G, int64_t degree) {
  return series_backward("mpa_backward", pade, false, A, G, degree);
}

Tensor mtp_backward(const Tensor& A, const Tensor& G, int64_t degree) {
  return series_backward("mtp_backward", taylor, false, A, G, degree);
}

Tensor mpa_inv_backward(const Tensor& A, const Tensor& G, int64_t degree) {
  return series_backward("mpa_inv_backward", pade, true, A, G, degree);
}

Tensor mtp_inv_backward(const Tensor& A, const Tensor& G, int64_t degree) {
  return series_backward("mtp_inv_backward", taylor, true, A, G, degree);
}

Tensor ns_backward(const Tensor& A, const Tensor& G, int64_t iterations) {
  return series_backward("ns_backward", newton_schulz, false, A, G, iterations);
}

Tensor ns_inv_backward(const Tensor& A, const Tensor& G, int64_t iterations) {
  return series_backward("ns_inv_backward", newton_schulz, true, A, G, iterations);
}

constexpr int newton_matrices = 5;

enum class Wanted { root, inverse, both };

Tensor accurate_roots(const char* op, const Tensor& A, double rtol, Wanted wanted) {
  check_matrices(op, "A", A);
  check_rtol(op, rtol);
  const RootDesign& design = root_design(rtol, compute_bytes(A));
  const Matrices a(A);
  const int n = A.numel() ? int(A.size(-1)) : 0;
  return for_each_matrix(
      A, newton_matrices,
      [&, element = element_of(A), matrix_bytes = int64_t(n) * n * int64_t(A.element_size())](
          int64_t i, void* out, void* workspace, const Team& team) {
        void* root = wanted == Wanted::inverse ? nullptr : out;
        void* inverse = wanted == Wanted::root      ? nullptr
                        : wanted == Wanted::inverse ? out
                                                    : static_cast<char*>(out) + matrix_bytes;
        kernels().accurate_roots(element, n, design, a[i], root, inverse, workspace, team);
      },
      wanted == Wanted::both);
}

Tensor sqrtm(const Tensor& A, double rtol) { return accurate_roots("sqrtm", A, rtol, Wanted::root); }

Tensor inv_sqrtm(const Tensor& A, double rtol) { return accurate_roots("inv_sqrtm", A, rtol, Wanted::inverse); }

Tensor sqrtm_and_inv(const Tensor& A, double rtol) { return accurate_roots("sqrtm_and_inv", A, rtol, Wanted::both); }

double newton_tolerance(const Tensor& A, double rtol) { return std::max(rtol, finest_tolerance(compute_bytes(A))); }

Tensor accurate_backward(const char* op, const Tensor& R, const char* root_name, const Tensor& G, double rtol,
                         Wanted wanted) {
  check_matrices(op, root_name, R);
  check_like(op, "G", G, root_name, R);
  if (wanted == Wanted::both && (R.dim() < 3 || R.size(-3) != 2))
    fail(op, std::string(root_name) + " must be (..., 2, n, n)", shape_name(R));
  check_rtol(op, rtol);
  const Matrices r(R), g(G);
  const double tolerance = newton_tolerance(R, rtol);
  const auto gradient = [&, n = int(R.size(-1)), element = element_of(R)](int64_t i, void* out, void* workspace,
                                                                          const Team& team) {
    Cotangents in = {};
    if (wanted == Wanted::root)
      in.S = r[i], in.G = g[i];
    else if (wanted == Wanted::inverse)
      in.Z = r[i], in.H = g[i];
    else
      in = {r[2 * i], r[2 * i + 1], g[2 * i], g[2 * i + 1]};
    kernels().accurate_backward(element, n, tolerance, in, out, workspace, team);
  };
  return for_each_matrix(wanted == Wanted::both ? torch::stable::select(R, -3, 0) : R, newton_matrices, gradient);
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

// The sum of two solutions, of the symmetric and of the skew part of C, is to be rounded once.
template <class Solve>
Tensor in_float32(const Tensor& B, const Tensor& C, const Solve& solve) {
  const Tensor X = solve(torch::stable::to(B, ScalarType::Float), torch::stable::to(C, ScalarType::Float));
  return torch::stable::to(X, B.scalar_type());
}

Tensor lyapunov_newton(const Tensor& B, const Tensor& C, double rtol) {
  check_matrices("lyapunov_newton", "B", B);
  check_like("lyapunov_newton", "C", C, "B", B);
  check_rtol("lyapunov_newton", rtol);
  if (B.element_size() == 2)
    return in_float32(B, C, [&](const Tensor& B, const Tensor& C) { return lyapunov_newton(B, C, rtol); });
  const Matrices b(B), c(C);
  const double tolerance = newton_tolerance(B, rtol);
  return for_each_matrix(
      B, newton_matrices,
      [&, n = int(B.size(-1)), element = element_of(B)](int64_t i, void* out, void* workspace, const Team& team) {
        kernels().lyapunov_newton(element, n, tolerance, b[i], c[i], out, workspace, team);
      });
}

Tensor lyapunov(const Tensor& B, const Tensor& C, int64_t iterations) {
  check_matrices("lyapunov", "B", B);
  check_like("lyapunov", "C", C, "B", B);
  check_iterations("lyapunov", iterations);
  if (B.element_size() == 2)
    return in_float32(B, C, [&](const Tensor& B, const Tensor& C) { return lyapunov(B, C, iterations); });
  const Matrices b(B), c(C);
  return for_each_matrix(
      B, 4, [&, n = int(B.size(-1)), element = element_of(B)](int64_t i, void* out, void* workspace, const Team& team) {
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
      A, 4, [&, n = int(A.size(-1)), element = element_of(A)](int64_t i, void* out, void* workspace, const Team& team) {
        kernels().sqrtm_lya_backward(element, n, int(iterations), a[i], s[i], g[i], out, workspace, team);
      });
}

Tensor inv_sqrtm_lya_backward(const Tensor& Z, const Tensor& G, int64_t iterations) {
  check_matrices("inv_sqrtm_lya_backward", "Z", Z);
  check_like("inv_sqrtm_lya_backward", "G", G, "Z", Z);
  check_iterations("inv_sqrtm_lya_backward", iterations);
  const Matrices z(Z), g(G);
  return for_each_matrix(
      Z, 4, [&, n = int(Z.size(-1)), element = element_of(Z)](int64_t i, void* out, void* workspace, const Team& team) {
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
  m.impl("mpa", TORCH_BOX(&mpa));
  m.impl("mtp", TORCH_BOX(&mtp));
  m.impl("mpa_inv", TORCH_BOX(&mpa_inv));
  m.impl("mtp_inv", TORCH_BOX(&mtp_inv));
  m.impl("ns", TORCH_BOX(&ns));
  m.impl("ns_inv", TORCH_BOX(&ns_inv));
  m.impl("sqrtm", TORCH_BOX(&sqrtm));
  m.impl("inv_sqrtm", TORCH_BOX(&inv_sqrtm));
  m.impl("sqrtm_and_inv", TORCH_BOX(&sqrtm_and_inv));
  m.impl("lyapunov", TORCH_BOX(&lyapunov));
  m.impl("lyapunov_newton", TORCH_BOX(&lyapunov_newton));
  m.impl("sqrtm_lya_backward", TORCH_BOX(&sqrtm_lya_backward));
  m.impl("inv_sqrtm_lya_backward", TORCH_BOX(&inv_sqrtm_lya_backward));
  m.impl("mpa_backward", TORCH_BOX(&mpa_backward));
  m.impl("mtp_backward", TORCH_BOX(&mtp_backward));
  m.impl("mpa_inv_backward", TORCH_BOX(&mpa_inv_backward));
  m.impl("mtp_inv_backward", TORCH_BOX(&mtp_inv_backward));
  m.impl("ns_backward", TORCH_BOX(&ns_backward));
  m.impl("ns_inv_backward", TORCH_BOX(&ns_inv_backward));
  m.impl("sqrtm_backward", TORCH_BOX(&sqrtm_backward));
  m.impl("inv_sqrtm_backward", TORCH_BOX(&inv_sqrtm_backward));
  m.impl("sqrtm_and_inv_backward", TORCH_BOX(&sqrtm_and_inv_backward));
}

/// @file
/// Square roots, inverse square roots and Lyapunov solves of batches of symmetric matrices, as in Python.
///
/// Header-only over torch's dispatcher: the compiler and the torch of the program that includes this decide its ABI,
/// and the libraries behind it fit any torch from 2.11 on. CPU tensors, and CUDA tensors where libfastsqrtm_cuda is
/// linked.
///
/// Every function takes tensors (..., n, n) of float16, bfloat16, float32 or float64, uses their symmetric part, and
/// throws c10::Error, whose what_without_backtrace() is the text that Python shows: an argument that is not square, of
/// another dtype or layout, or a number out of range. All of them may be called from any number of threads at once.
///
/// These functions do not differentiate; fastsqrtm/autograd.h has them again in the namespace fastsqrtm::autograd. A
/// tensor that requires a gradient is refused here, unless no gradient is recorded (at::NoGradGuard) or there is a rule
/// in the dispatcher: from Python, or from fastsqrtm::register_autograd().
///
/// Mathematics, gradients and costs of each function are in the Python docstring of the same name.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <torch/arg.h>

#include <iterator>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

extern "C" const char* fastsqrtm_version();

namespace fastsqrtm {

/// Version of the library, such as "0.1.0".
inline std::string version() { return fastsqrtm_version(); }

namespace detail {

[[noreturn]] inline void fail(const std::string& text) { throw c10::Error({__func__, __FILE__, __LINE__}, text); }

/// The op with this name and the type of the function that calls it.
template <class... Args>
c10::TypedOperatorHandle<at::Tensor(Args...)> find(const char* name, at::Tensor (*)(Args...)) {
  fastsqrtm_version();  // keeps the library in the program
  const std::string qualified = std::string("fastsqrtm::") + name;
  return c10::Dispatcher::singleton().findSchemaOrThrow(qualified.c_str(), "").typed<at::Tensor(Args...)>();
}

inline const char* layout_name(at::Layout layout) {
  const char* names[] = {"strided",    "sparse_coo", "sparse_csr", "_mkldnn",
                         "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged"};
  return size_t(layout) < std::size(names) ? names[size_t(layout)] : "another layout";
}

inline const at::Tensor* as_tensor(const at::Tensor& x) { return &x; }
inline const at::Tensor* as_tensor(int64_t) { return nullptr; }
inline const at::Tensor* as_tensor(double) { return nullptr; }

/// What the kernels cannot check, since the dispatcher would never reach them.
inline void check(const c10::OperatorHandle& op, c10::ArrayRef<const at::Tensor*> inputs) {
  const auto complain = [&](size_t i, const std::string& text) {
    fail("fastsqrtm." + op.operator_name().name.substr(11) + ": " + op.schema().arguments()[i].name() + " " + text);
  };
  for (size_t i = 0; i < inputs.size() && inputs[i]; ++i) {
    const at::Tensor& x = *inputs[i];
    if (x.layout() != at::kStrided)
      complain(i, std::string("must be a strided tensor, got ") + layout_name(x.layout()));
    if (x.device() != inputs[0]->device() && x.sizes() == inputs[0]->sizes() && x.dtype() == inputs[0]->dtype())
      complain(i, "must be on the device of " + op.schema().arguments()[0].name() + " (" + inputs[0]->device().str() +
                      "), got " + x.device().str());
    if (x.requires_grad() && at::GradMode::is_enabled() && !op.hasKernelForDispatchKey(c10::DispatchKey::Autograd) &&
        !c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutogradCPU))
      complain(i, "requires a gradient: call the function of fastsqrtm::autograd, or hold an at::NoGradGuard");
  }
}

template <class... Args, class... Given>
at::Tensor call(const c10::TypedOperatorHandle<at::Tensor(Args...)>& op, const Given&... args) {
  check(op, {as_tensor(args)...});
  try {
    return op.call(args...);
  } catch (const std::runtime_error& error) {  // what a library of torch's stable ABI throws
    fail(error.what());
  }
}

}  // namespace detail

/// Every op under its name in the dispatcher; those with "backward" are the gradients of the others. The functions
/// below are what programs need.
struct ops {
  using Tensor = at::Tensor;

#define FASTSQRTM_CALL(name, ...)                         \
  static const auto op = detail::find(#name, &ops::name); \
  return detail::call(op, __VA_ARGS__)

  static Tensor mpa_lya(const Tensor& A, int64_t degree = 5, int64_t iterations = 8) {
    FASTSQRTM_CALL(mpa_lya, A, degree, iterations);
  }
  static Tensor mtp_lya(const Tensor& A, int64_t degree = 10, int64_t iterations = 8) {
    FASTSQRTM_CALL(mtp_lya, A, degree, iterations);
  }
  static Tensor mpa_lya_inv(const Tensor& A, int64_t degree = 5, int64_t iterations = 8) {
    FASTSQRTM_CALL(mpa_lya_inv, A, degree, iterations);
  }
  static Tensor mtp_lya_inv(const Tensor& A, int64_t degree = 10, int64_t iterations = 8) {
    FASTSQRTM_CALL(mtp_lya_inv, A, degree, iterations);
  }
  static Tensor lyapunov(const Tensor& B, const Tensor& C, int64_t iterations = 8) {
    FASTSQRTM_CALL(lyapunov, B, C, iterations);
  }
  static Tensor sqrtm(const Tensor& A, double rtol = 0) { FASTSQRTM_CALL(sqrtm, A, rtol); }
  static Tensor inv_sqrtm(const Tensor& A, double rtol = 0) { FASTSQRTM_CALL(inv_sqrtm, A, rtol); }
  static Tensor sqrtm_and_inv(const Tensor& A, double rtol = 0) { FASTSQRTM_CALL(sqrtm_and_inv, A, rtol); }
  static Tensor mpa(const Tensor& A, int64_t degree = 5) { FASTSQRTM_CALL(mpa, A, degree); }
  static Tensor mtp(const Tensor& A, int64_t degree = 10) { FASTSQRTM_CALL(mtp, A, degree); }
  static Tensor mpa_inv(const Tensor& A, int64_t degree = 5) { FASTSQRTM_CALL(mpa_inv, A, degree); }
  static Tensor mtp_inv(const Tensor& A, int64_t degree = 10) { FASTSQRTM_CALL(mtp_inv, A, degree); }
  static Tensor ns(const Tensor& A, int64_t iterations = 5) { FASTSQRTM_CALL(ns, A, iterations); }
  static Tensor ns_inv(const Tensor& A, int64_t iterations = 5) { FASTSQRTM_CALL(ns_inv, A, iterations); }
  static Tensor lyapunov_newton(const Tensor& B, const Tensor& C, double rtol = 0) {
    FASTSQRTM_CALL(lyapunov_newton, B, C, rtol);
  }
  static Tensor sqrtm_lya_backward(const Tensor& A, const Tensor& S, const Tensor& G, int64_t iterations = 8) {
    FASTSQRTM_CALL(sqrtm_lya_backward, A, S, G, iterations);
  }
  static Tensor inv_sqrtm_lya_backward(const Tensor& Z, const Tensor& G, int64_t iterations = 8) {
    FASTSQRTM_CALL(inv_sqrtm_lya_backward, Z, G, iterations);
  }
  static Tensor sqrtm_backward(const Tensor& S, const Tensor& G, double rtol = 0) {
    FASTSQRTM_CALL(sqrtm_backward, S, G, rtol);
  }
  static Tensor inv_sqrtm_backward(const Tensor& Z, const Tensor& G, double rtol = 0) {
    FASTSQRTM_CALL(inv_sqrtm_backward, Z, G, rtol);
  }
  static Tensor sqrtm_and_inv_backward(const Tensor& R, const Tensor& G, double rtol = 0) {
    FASTSQRTM_CALL(sqrtm_and_inv_backward, R, G, rtol);
  }
  static Tensor mpa_backward(const Tensor& A, const Tensor& G, int64_t degree = 5) {
    FASTSQRTM_CALL(mpa_backward, A, G, degree);
  }
  static Tensor mtp_backward(const Tensor& A, const Tensor& G, int64_t degree = 10) {
    FASTSQRTM_CALL(mtp_backward, A, G, degree);
  }
  static Tensor mpa_inv_backward(const Tensor& A, const Tensor& G, int64_t degree = 5) {
    FASTSQRTM_CALL(mpa_inv_backward, A, G, degree);
  }
  static Tensor mtp_inv_backward(const Tensor& A, const Tensor& G, int64_t degree = 10) {
    FASTSQRTM_CALL(mtp_inv_backward, A, G, degree);
  }
  static Tensor ns_backward(const Tensor& A, const Tensor& G, int64_t iterations = 5) {
    FASTSQRTM_CALL(ns_backward, A, G, iterations);
  }
  static Tensor ns_inv_backward(const Tensor& A, const Tensor& G, int64_t iterations = 5) {
    FASTSQRTM_CALL(ns_inv_backward, A, G, iterations);
  }
#undef FASTSQRTM_CALL
};

/// Options of sqrtm, inv_sqrtm and sqrtm_and_inv: `RootOptions().method("mpa").degree(7)`.
struct RootOptions {
  /// "auto": right to the precision of the dtype, or to rtol. "mpa", "mtp": the paper's Pade approximant and Taylor
  /// polynomial. "ns": Newton-Schulz steps.
  TORCH_ARG(std::string, method) = "auto";
  /// "exact": the gradient of the map computed, for "ns" also by that name; "lyapunov" (for "mpa" and "mtp"): the
  /// paper's. "auto" is "exact".
  TORCH_ARG(std::string, backward) = "auto";
  /// For method "auto": largest relative error of root and gradient, 0 to 1; none: the precision of the dtype.
  TORCH_ARG(std::optional<double>, rtol);
  /// What is added to the diagonal of A first.
  TORCH_ARG(double, eps) = 0;
  /// Of "mpa" (1 to 32, default 5) and "mtp" (1 to 128, default 10); steps of "ns" (1 to 100, default 5).
  TORCH_ARG(std::optional<int64_t>, degree);
  /// Of backward "lyapunov", 1 to 100, default 8.
  TORCH_ARG(std::optional<int64_t>, iterations);
};

namespace detail {

struct Numbers {
  double rtol;
  int64_t degree, iterations;
};

using Root = at::Tensor (*)(const at::Tensor&, const Numbers&);

/// A method with one of its backwards, the default of each number, 0 where it takes none, and the ops of both roots.
struct Method {
  const char *name, *backward;
  bool takes_rtol;
  int64_t degree, iterations;
  Root root, inverse;
};

/// Counterpart in Python: METHODS in fastsqrtm/functional.py, without the systems that are for comparison only. The
/// first backward of a method is what "auto" means.
template <class Ops>
const std::vector<Method>& methods() {
  using A = const at::Tensor&;
  using X = const Numbers&;
  static const std::vector<Method> table = {
      {"auto", "exact", true, 0, 0,  //
       [](A a, X x) { return Ops::sqrtm(a, x.rtol); }, [](A a, X x) { return Ops::inv_sqrtm(a, x.rtol); }},
      {"mpa", "exact", false, 5, 0,  //
       [](A a, X x) { return Ops::mpa(a, x.degree); }, [](A a, X x) { return Ops::mpa_inv(a, x.degree); }},
      {"mpa", "lyapunov", false, 5, 8,  //
       [](A a, X x) { return Ops::mpa_lya(a, x.degree, x.iterations); },
       [](A a, X x) { return Ops::mpa_lya_inv(a, x.degree, x.iterations); }},
      {"mtp", "exact", false, 10, 0,  //
       [](A a, X x) { return Ops::mtp(a, x.degree); }, [](A a, X x) { return Ops::mtp_inv(a, x.degree); }},
      {"mtp", "lyapunov", false, 10, 8,  //
       [](A a, X x) { return Ops::mtp_lya(a, x.degree, x.iterations); },
       [](A a, X x) { return Ops::mtp_lya_inv(a, x.degree, x.iterations); }},
      {"ns", "ns", false, 5, 0,  //
       [](A a, X x) { return Ops::ns(a, x.degree); }, [](A a, X x) { return Ops::ns_inv(a, x.degree); }},
      {"ns", "exact", false, 5, 0,  //
       [](A a, X x) { return Ops::ns(a, x.degree); }, [](A a, X x) { return Ops::ns_inv(a, x.degree); }},
  };
  return table;
}

/// The row that the options mean. Counterpart in Python: _roots in fastsqrtm/functional.py.
template <class Ops>
const Method& choose(const std::string& function, const RootOptions& options) {
  const Method* chosen = nullptr;
  std::string names, backwards, last;
  for (const Method& row : methods<Ops>()) {
    if (row.name != last) names += (last.empty() ? "" : ", ") + std::string(row.name);
    last = row.name;
    if (options.method() != row.name) continue;
    if (!chosen && (options.backward() == "auto" || options.backward() == row.backward)) chosen = &row;
    backwards += (backwards.empty() ? "" : ", ") + std::string(row.backward);
  }
  const std::string prefix = "fastsqrtm." + function + ": ";
  if (backwards.empty()) fail(prefix + "method must be one of " + names + ", got '" + options.method() + "'");
  if (!chosen)
    fail(prefix + "backward of method " + options.method() + " must be auto or one of " + backwards + ", got '" +
         options.backward() + "'");
  const auto check = [&](const char* name, const auto& value, bool belongs) {
    if (value && !belongs)
      fail(c10::str(prefix, name, " is not an argument of method ", chosen->name, " with backward ", chosen->backward,
                    ", got ", *value));
  };
  check("rtol", options.rtol(), chosen->takes_rtol);
  check("degree", options.degree(), chosen->degree);
  check("iterations", options.iterations(), chosen->iterations);
  return *chosen;
}

/// The roots in `which`, 0 the root and 1 its inverse, by the function of this name, which is that of an op as well.
template <class Ops>
std::vector<at::Tensor> roots(const char* function, Root checked_by, std::vector<int> which, at::Tensor A,
                              const RootOptions& options) {
  const Method& method = choose<Ops>(function, options);
  const Numbers numbers = {options.rtol().value_or(0), options.degree().value_or(method.degree),
                           options.iterations().value_or(method.iterations)};
  const auto dtype = A.scalar_type();
  const bool supported = dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat || dtype == at::kDouble;
  if (A.layout() != at::kStrided || !supported || A.dim() < 2 || A.size(-1) != A.size(-2))
    checked_by(A, {});  // throws, with the text for this function
  if (!(options.eps() >= 0 && options.eps() < std::numeric_limits<double>::infinity()))
    fail(c10::str("fastsqrtm.", function, ": eps must be finite and not negative, got ", options.eps()));
  if (options.eps() != 0) A = A + options.eps() * at::eye(A.size(-1), A.options().requires_grad(false));
  if (method.takes_rtol && which.size() == 2) return Ops::sqrtm_and_inv(A, numbers.rtol).unbind(-3);
  std::vector<at::Tensor> found;
  for (int i : which) found.push_back((i ? method.inverse : method.root)(A, numbers));
  return found;
}

template <class Ops>
at::Tensor sqrtm(const at::Tensor& A, const RootOptions& options) {
  const Root op = [](const at::Tensor& A, const Numbers& x) { return Ops::sqrtm(A, x.rtol); };
  return roots<Ops>("sqrtm", op, {0}, A, options)[0];
}

template <class Ops>
at::Tensor inv_sqrtm(const at::Tensor& A, const RootOptions& options) {
  const Root op = [](const at::Tensor& A, const Numbers& x) { return Ops::inv_sqrtm(A, x.rtol); };
  return roots<Ops>("inv_sqrtm", op, {1}, A, options)[0];
}

template <class Ops>
std::tuple<at::Tensor, at::Tensor> sqrtm_and_inv(const at::Tensor& A, const RootOptions& options) {
  const Root op = [](const at::Tensor& A, const Numbers& x) { return Ops::sqrtm_and_inv(A, x.rtol); };
  const auto both = roots<Ops>("sqrtm_and_inv", op, {0, 1}, A, options);
  return {both[0], both[1]};
}

/// Calls solve(B, C) with their leading dimensions broadcast.
template <class Solve>
at::Tensor broadcast(const at::Tensor& B, const at::Tensor& C, const Solve& solve) {
  if (B.dim() < 2 || C.dim() < 2) return solve(B, C);  // throws
  const auto b = B.sizes(), c = C.sizes();
  if (b.slice(0, b.size() - 2) == c.slice(0, c.size() - 2)) return solve(B, C);
  std::vector<int64_t> batch = at::infer_size(b.slice(0, b.size() - 2), c.slice(0, c.size() - 2));
  const auto expanded = [&](const at::Tensor& x) {
    std::vector<int64_t> shape = batch;
    shape.insert(shape.end(), {x.size(-2), x.size(-1)});
    return x.expand(shape);
  };
  return solve(expanded(B), expanded(C));
}

}  // namespace detail

/// Square root of each matrix, (..., n, n) positive semidefinite. Source: Nakatsukasa and Freund, SIAM Review 58(3),
/// 2016, and Higham, Numer. Algorithms 15, 1997, for method "auto".
/// @throws c10::Error  also for options that the method does not take, with a list of those there are
inline at::Tensor sqrtm(const at::Tensor& A, const RootOptions& options = {}) { return detail::sqrtm<ops>(A, options); }

/// Inverse square root of each matrix, (..., n, n) positive definite. Otherwise as sqrtm.
inline at::Tensor inv_sqrtm(const at::Tensor& A, const RootOptions& options = {}) {
  return detail::inv_sqrtm<ops>(A, options);
}

/// Square root and inverse square root of each matrix, from one forward. Otherwise as sqrtm.
inline std::tuple<at::Tensor, at::Tensor> sqrtm_and_inv(const at::Tensor& A, const RootOptions& options = {}) {
  return detail::sqrtm_and_inv<ops>(A, options);
}

/// Square root of each matrix by a Pade approximant. Source of this and the next three: Song, Sebe, Wang, *Fast
/// Differentiable Matrix Square Root*, ICLR 2022, and arXiv 2201.12543.
/// @param A           (..., n, n), positive semidefinite
/// @param degree      of numerator and denominator, 1 to 32
/// @param iterations  of the Lyapunov solve in the backward pass, 1 to 100
/// @return            A^(1/2), symmetric, in the shape and dtype of A
inline at::Tensor mpa_lya(const at::Tensor& A, int64_t degree = 5, int64_t iterations = 8) {
  return ops::mpa_lya(A, degree, iterations);
}

/// Square root of each matrix by a Taylor polynomial of degree 1 to 128. Otherwise as mpa_lya.
inline at::Tensor mtp_lya(const at::Tensor& A, int64_t degree = 10, int64_t iterations = 8) {
  return ops::mtp_lya(A, degree, iterations);
}

/// Inverse square root of each matrix, positive definite, by a Pade approximant. Otherwise as mpa_lya.
inline at::Tensor mpa_lya_inv(const at::Tensor& A, int64_t degree = 5, int64_t iterations = 8) {
  return ops::mpa_lya_inv(A, degree, iterations);
}

/// Inverse square root of each matrix, positive definite, by a Taylor polynomial of degree 1 to 128. As mpa_lya.
inline at::Tensor mtp_lya_inv(const at::Tensor& A, int64_t degree = 10, int64_t iterations = 8) {
  return ops::mtp_lya_inv(A, degree, iterations);
}

/// Solution X of B X + X B = C for each pair of matrices, by the paper's iteration.
/// @param B           (..., n, n), positive definite
/// @param C           (..., n, n) of the same dtype and device, symmetric or not; leading dimensions are broadcast
/// @param iterations  1 to 100
inline at::Tensor lyapunov(const at::Tensor& B, const at::Tensor& C, int64_t iterations = 8) {
  return detail::broadcast(B, C, [&](const auto&... x) { return ops::lyapunov(x..., iterations); });
}

/// Solution X of B X + X B = C to the relative error rtol, 0 to 1; 0: to the precision of the dtype. In Python:
/// lyapunov(B, C, rtol=rtol). Source: Roberts, Int. J. Control 32, 1980.
inline at::Tensor lyapunov_newton(const at::Tensor& B, const at::Tensor& C, double rtol = 0) {
  return detail::broadcast(B, C, [&](const auto&... x) { return ops::lyapunov_newton(x..., rtol); });
}

}  // namespace fastsqrtm

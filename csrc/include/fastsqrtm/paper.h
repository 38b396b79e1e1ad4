/// @file
/// fastsqrtm::paper: the approximants that Song, Sebe, Wang, ICLR 2022, propose and compare with, each with a choice of
/// gradient, for programs that reproduce the paper. Everyday functions are in fastsqrtm/fastsqrtm.h.
///
/// These functions do not differentiate; fastsqrtm/autograd.h has them again in fastsqrtm::autograd::paper. Python's
/// fastsqrtm.paper also has the systems in plain torch, which C++ leaves out.
#pragma once

#include <fastsqrtm/fastsqrtm.h>

namespace fastsqrtm {
namespace paper {

/// Options of sqrtm and inv_sqrtm: `Options().method("mpa").backward("lyapunov").degree(7)`.
struct Options {
  /// Required: "mpa", the paper's Pade approximant; "mtp", its Taylor polynomial; "ns", Newton-Schulz steps.
  TORCH_ARG(std::string, method);
  /// "exact", the gradient of the approximant itself, for "ns" also called "ns"; "lyapunov" (for "mpa" and "mtp"), the
  /// gradient of the paper. "auto" means "exact".
  TORCH_ARG(std::string, backward) = "auto";
  /// Added to the diagonal of A before the root is taken, in the precision of the computation.
  TORCH_ARG(double, eps) = 0;
  /// Degree of "mpa" (1 to 32) and "mtp" (1 to 128), steps of "ns" (1 to 100). Unset means the default of the op.
  TORCH_ARG(std::optional<int64_t>, degree);
  /// Iterations of backward "lyapunov", 1 to 100. Unset means the default of the op.
  TORCH_ARG(std::optional<int64_t>, iterations);
};

namespace detail {

using fastsqrtm::detail::fail;
using Root = at::Tensor (*)(const at::Tensor&, const Options&);

/// A method with one of its backwards.
struct Method {
  const char *name, *backward;
  bool takes_iterations;
  Root root, inverse;
};

/// The op takes the degree, or the steps, and those of a Lyapunov gradient its iterations.
template <const Signature& op, class Route>
at::Tensor run(const at::Tensor& A, const Options& options) {
  const auto number = [](const std::optional<int64_t>& given, std::size_t i) {
    return given.value_or(int64_t(op.arguments[i].default_value));
  };
  if constexpr (op.argument_count == 2)
    return fastsqrtm::detail::Op<op, Route>::call(A, number(options.degree(), 1));
  else
    return fastsqrtm::detail::Op<op, Route>::call(A, number(options.degree(), 1), number(options.iterations(), 2));
}

template <class Route, const Signature& root, const Signature& inverse>
Method method(const char* name, const char* backward) {
  return {name, backward, root.argument_count == 3, run<root, Route>, run<inverse, Route>};
}

/// Counterpart in Python: METHODS in fastsqrtm/paper.py, which has more. The first backward of a method is "auto".
template <class Route>
const std::vector<Method>& methods() {
  namespace op = signatures;
  static const std::vector<Method> table = {
      method<Route, op::mpa, op::mpa_inv>("mpa", "exact"),
      method<Route, op::mpa_lya, op::mpa_lya_inv>("mpa", "lyapunov"),
      method<Route, op::mtp, op::mtp_inv>("mtp", "exact"),
      method<Route, op::mtp_lya, op::mtp_lya_inv>("mtp", "lyapunov"),
      method<Route, op::ns, op::ns_inv>("ns", "ns"),
      method<Route, op::ns, op::ns_inv>("ns", "exact"),
  };
  return table;
}

/// The row that the options ask for.
template <class Route>
const Method& choose(const std::string& function, const Options& options) {
  const Method* chosen = nullptr;
  std::string names, backwards, last;
  for (const Method& row : methods<Route>()) {
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
  if (options.iterations() && !chosen->takes_iterations)
    fail(c10::str(prefix, "iterations is not an argument of method ", chosen->name, " with backward ", chosen->backward,
                  ", got ", *options.iterations()));
  return *chosen;
}

/// Calls an op for the text with which the kernels refuse A, under the name of the function.
[[noreturn]] inline void refuse(const std::string& function, const at::Tensor& A) {
  try {
    ops::sqrtm(A);
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    fail("fastsqrtm." + function + text.substr(text.find(':')));
  }
  fail("fastsqrtm." + function + ": A must be (..., n, n)");
}

template <class Route>
at::Tensor root(const std::string& function, Root Method::* power, const at::Tensor& A, const Options& options) {
  const Method& method = choose<Route>(function, options);
  if (!fastsqrtm::detail::is_batch_of_matrices(A)) refuse(function, A);
  const auto compute = [&](const at::Tensor& shifted) { return (method.*power)(shifted, options); };
  return fastsqrtm::detail::shifted(function, A, options.eps(), compute);
}

template <class Route>
at::Tensor sqrtm(const at::Tensor& A, const Options& options) {
  return root<Route>("paper.sqrtm", &Method::root, A, options);
}

template <class Route>
at::Tensor inv_sqrtm(const at::Tensor& A, const Options& options) {
  return root<Route>("paper.inv_sqrtm", &Method::inverse, A, options);
}

}  // namespace detail

/// Returns the square root of each matrix, (..., n, n) positive semidefinite, by the method of the options.
/// @throws c10::Error  also for options that the method does not take, with a list of those there are
inline at::Tensor sqrtm(const at::Tensor& A, const Options& options) {
  return detail::sqrtm<fastsqrtm::detail::Dispatched>(A, options);
}

/// Returns the inverse square root of each matrix, (..., n, n) positive definite. Otherwise like sqrtm.
inline at::Tensor inv_sqrtm(const at::Tensor& A, const Options& options) {
  return detail::inv_sqrtm<fastsqrtm::detail::Dispatched>(A, options);
}

}  // namespace paper
}  // namespace fastsqrtm

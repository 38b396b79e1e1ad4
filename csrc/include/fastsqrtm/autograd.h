/// @file
/// The functions of fastsqrtm.h again, differentiable, in the namespace fastsqrtm::autograd. Gradients agree with those
/// of Python to the last bit, and can be differentiated again to any order; there is no forward mode and no vmap in
/// C++.
///
/// They work as well in a process that has imported the Python package: they go past its rules, which are the same.
#pragma once

#include <fastsqrtm/fastsqrtm.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <limits>

namespace fastsqrtm {
namespace autograd {

using at::Tensor;
using torch::autograd::variable_list;

namespace detail {

/// An op with its rule. Rule::save(tensor inputs, output) gives what Rule::vjp gets first, followed by the op's last
/// number and the cotangent. Counterpart of the rules, step for step: fastsqrtm/_derivatives.py.
template <auto op, class Rule>
struct Node;

template <class... Args, Tensor (*op)(Args...), class Rule>
struct Node<op, Rule> : torch::autograd::Function<Node<op, Rule>> {
  using Number = std::tuple_element_t<sizeof...(Args) - 1, std::tuple<Args...>>;

  static Tensor forward(torch::autograd::AutogradContext* context, Args... args) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor out = op(args...);
    variable_list inputs;
    for (const Tensor* x : {fastsqrtm::detail::as_tensor(args)...})
      if (x) inputs.push_back(*x);
    context->save_for_backward(Rule::save(inputs, out));
    context->saved_data["number"] = std::get<sizeof...(Args) - 1>(std::tie(args...));
    return out;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, const variable_list& G) {
    const Number number = context->saved_data["number"].template to<Number>();
    variable_list gradients = Rule::vjp(context->get_saved_variables(), number, G[0]);
    gradients.resize(sizeof...(Args));  // none for the numbers
    return gradients;
  }
};

// One term after the other, here and below: torch adds up gradients in the reverse order, which C++ would leave open.
inline Tensor symmetric_part(const Tensor& A) {
  const Tensor half = A / 2;
  return half + A.mT() / 2;
}

inline Tensor anticommutator(const Tensor& A, const Tensor& B) {
  const Tensor AB = A.matmul(B);
  return AB + B.matmul(A);
}

/// The gradient is one op of the output.
template <auto backward>
struct Solved {
  static variable_list save(const variable_list&, const Tensor& out) { return {out}; }
  template <class Number>
  static variable_list vjp(const variable_list& saved, Number number, const Tensor& G) {
    return {backward(saved[0], G, number)};
  }
};

/// The same with iterations: A gives the scale.
template <auto backward>
struct SolvedByLyapunov {
  static variable_list save(const variable_list& in, const Tensor& S) { return {in[0], S}; }
  static variable_list vjp(const variable_list& saved, int64_t iterations, const Tensor& G) {
    return {backward(saved[0], saved[1], G, iterations)};
  }
};

/// X of B X + X B = C.
template <auto lyapunov>
struct Lyapunov {
  static variable_list save(const variable_list& in, const Tensor& X) { return {in[0], X}; }
  template <class Number>
  static variable_list vjp(const variable_list& saved, Number number, const Tensor& G) {
    const Tensor &B = saved[0], &X = saved[1], Y = lyapunov(B, G, number);
    return {-symmetric_part(anticommutator(Y, X.mT())), Y};
  }
};

/// X of S X + X S = sym(G). With iterations, A gives the scale and has no part in the solution.
template <auto solve>
struct RootBackward {
  static variable_list save(const variable_list& in, const Tensor& X) { return {in[0], X}; }
  static variable_list vjp(const variable_list& saved, double rtol, const Tensor& cotangent) {
    const Tensor Y = solve(saved[0], cotangent, rtol);
    return {-anticommutator(Y, saved[1]), Y};
  }
};

template <auto solve>
struct RootLyapunovBackward {
  static variable_list save(const variable_list& in, const Tensor& X) { return {in[0], in[1], X}; }
  static variable_list vjp(const variable_list& saved, int64_t iterations, const Tensor& cotangent) {
    const Tensor Y = solve(saved[0], saved[1], cotangent, iterations);
    return {Tensor(), -anticommutator(Y, saved[2]), Y};
  }
};

/// X of Z X + X Z = -Z^2 sym(G) Z^2.
template <auto backward, auto lyapunov>
struct InverseRootBackward {
  static variable_list save(const variable_list& in, const Tensor& X) { return {in[0], in[1], X}; }
  template <class Number>
  static variable_list vjp(const variable_list& saved, Number number, const Tensor& given) {
    const Tensor Z = symmetric_part(saved[0]), G = symmetric_part(saved[1]), cotangent = symmetric_part(given);
    const Tensor &X = saved[2], Y = lyapunov(Z, cotangent, number);
    const Tensor K = Y.matmul(Z).matmul(Z).matmul(G);
    Tensor dZ = -anticommutator(Y, X);
    dZ = dZ - anticommutator(K + K.mT(), Z);
    return {symmetric_part(dZ), backward(Z, cotangent, number)};
  }
};

/// X of S X + X S = sym(G_S) - Z sym(G_Z) Z, for the pairs R = (S, Z) and G = (G_S, G_Z).
template <auto solve>
struct BothRootsBackward {
  static variable_list save(const variable_list& in, const Tensor& X) { return {in[0], in[1], X}; }
  static variable_list vjp(const variable_list& saved, double rtol, const Tensor& cotangent) {
    const auto R = symmetric_part(saved[0]).unbind(-3), G = symmetric_part(saved[1]).unbind(-3);
    const Tensor &S = R[0], &Z = R[1], &H = G[1], &X = saved[2], Y = solve(S, cotangent, rtol);
    const Tensor K = Y.matmul(Z).matmul(H);
    return {at::stack({-anticommutator(Y, X), -(K + K.mT())}, -3), at::stack({Y, (-Z).matmul(Y).matmul(Z)}, -3)};
  }
};

/// The approximants in torch functions, as torch differentiates them. Counterpart, step for step:
/// fastsqrtm/reference.py.
enum class Series { pade, taylor, newton_schulz };

inline Tensor spd_solve(const Tensor& A, const Tensor& B) {
  const auto [factor, info] = at::linalg_cholesky_ex(A);
  return at::cholesky_solve(B, factor).masked_fill(info.unsqueeze(-1).unsqueeze(-1) != 0,
                                                   std::numeric_limits<double>::quiet_NaN());
}

inline Tensor pade(const Tensor& X, int64_t degree, bool inverse) {
  const double pi = 3.14159265358979323846, order = double(2 * degree + 1);
  const Tensor identity = at::eye(X.size(-1), X.options().requires_grad(false));
  Tensor Y = identity / (2 * degree + 1);
  for (int64_t j = 1; j <= degree; ++j) {
    const double root = std::tan(pi * double(j) / order), shift = root * root, weight = 2 * (1 + shift) / order;
    const Tensor H = inverse ? shift * X : X / shift;
    Y = Y + weight * spd_solve(identity + H, inverse ? identity.expand_as(X) : H);
  }
  return Y;
}

inline Tensor taylor(const Tensor& X, int64_t degree, double power) {
  std::vector<double> c = {1.0};
  for (int64_t k = 1; k <= degree; ++k) c.push_back(c.back() * (double(k - 1) - power) / double(k));
  const Tensor identity = at::eye(X.size(-1), X.options().requires_grad(false)), W = identity - X;
  Tensor Y = c[degree] * W;
  for (int64_t k = degree - 1; k > 0; --k) Y = (Y + identity * c[k]).matmul(W);
  return Y + identity * c[0];
}

inline Tensor newton_schulz(const Tensor& X, int64_t iterations, bool inverse) {
  const Tensor identity = at::eye(X.size(-1), X.options().requires_grad(false));
  Tensor M = X, Y = inverse ? identity : X;
  for (int64_t step = 0; step < iterations; ++step) {
    const Tensor P = (3 * identity - M) / 2;
    Y = symmetric_part(Y.matmul(P));
    M = symmetric_part(M.matmul(P).matmul(P));
  }
  return Y;
}

inline Tensor approximant(Series series, bool inverse, const Tensor& given, int64_t degree) {
  if (given.numel() == 0) return given + 0;
  const Tensor A = symmetric_part(given.to(given.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  const Tensor largest = A.abs().amax({-2, -1}, true), zero = largest == 0;
  Tensor X = at::where(zero, 1, A / at::where(zero, 1, largest));
  const Tensor norm = at::linalg_vector_norm(X, 2, at::IntArrayRef({-2, -1}), true);
  X = at::where(zero, 0, X / norm);
  const Tensor nu = largest * norm;
  const Tensor root_of_nu = at::where(nu == 0, 1, nu).sqrt();
  const Tensor Y = symmetric_part(series == Series::pade     ? pade(X, degree, inverse)
                                  : series == Series::taylor ? taylor(X, degree, inverse ? -0.5 : 0.5)
                                                             : newton_schulz(X, degree, inverse));
  if (!inverse) return at::where(nu == 0, 0, Y * root_of_nu).to(given.scalar_type());
  const Tensor infinite = at::full_like(A.select(-1, 0), std::numeric_limits<double>::infinity()).diag_embed();
  return at::where(nu == 0, infinite, Y / root_of_nu).to(given.scalar_type());
}

/// The approximant's own gradient, an op of the input.
template <auto backward>
struct Exact {
  static variable_list save(const variable_list& in, const Tensor&) { return {in[0]}; }
  static variable_list vjp(const variable_list& saved, int64_t degree, const Tensor& G) {
    return {backward(saved[0], G, degree)};
  }
};

template <Series series, bool inverse>
struct ExactBackward {
  static variable_list save(const variable_list& in, const Tensor&) { return in; }
  static variable_list vjp(const variable_list& saved, int64_t degree, const Tensor& cotangent) {
    const bool again = at::GradMode::is_enabled();
    at::AutoGradMode record(true);
    const auto variable = [](const Tensor& x) {
      return x.requires_grad() ? x.view_as(x) : x.detach().requires_grad_();
    };
    const Tensor A = variable(saved[0]), G = variable(saved[1]);
    const Tensor root = approximant(series, inverse, A, degree);
    const Tensor gradient = torch::autograd::grad({root}, {A}, {G}, true, true)[0];
    return torch::autograd::grad({gradient}, {A, G}, {cotangent}, again, again, true);
  }
};

template <auto op, class Rule, class... Args>
Tensor apply(const Args&... args) {
  return Node<op, Rule>::apply(args...);
}

}  // namespace detail

/// The ops of fastsqrtm::ops, differentiable: each with its rule.
struct ops {
  using plain = fastsqrtm::ops;

  static Tensor mpa_lya(const Tensor& A, int64_t degree = 5, int64_t iterations = 8) {
    return detail::apply<&plain::mpa_lya, detail::SolvedByLyapunov<&ops::sqrtm_lya_backward>>(A, degree, iterations);
  }
  static Tensor mtp_lya(const Tensor& A, int64_t degree = 10, int64_t iterations = 8) {
    return detail::apply<&plain::mtp_lya, detail::SolvedByLyapunov<&ops::sqrtm_lya_backward>>(A, degree, iterations);
  }
  static Tensor mpa_lya_inv(const Tensor& A, int64_t degree = 5, int64_t iterations = 8) {
    return detail::apply<&plain::mpa_lya_inv, detail::Solved<&ops::inv_sqrtm_lya_backward>>(A, degree, iterations);
  }
  static Tensor mtp_lya_inv(const Tensor& A, int64_t degree = 10, int64_t iterations = 8) {
    return detail::apply<&plain::mtp_lya_inv, detail::Solved<&ops::inv_sqrtm_lya_backward>>(A, degree, iterations);
  }
  static Tensor lyapunov(const Tensor& B, const Tensor& C, int64_t iterations = 8) {
    return detail::apply<&plain::lyapunov, detail::Lyapunov<&ops::lyapunov>>(B, C, iterations);
  }
  static Tensor sqrtm(const Tensor& A, double rtol = 0) {
    return detail::apply<&plain::sqrtm, detail::Solved<&ops::sqrtm_backward>>(A, rtol);
  }
  static Tensor inv_sqrtm(const Tensor& A, double rtol = 0) {
    return detail::apply<&plain::inv_sqrtm, detail::Solved<&ops::inv_sqrtm_backward>>(A, rtol);
  }
  static Tensor sqrtm_and_inv(const Tensor& A, double rtol = 0) {
    return detail::apply<&plain::sqrtm_and_inv, detail::Solved<&ops::sqrtm_and_inv_backward>>(A, rtol);
  }
  static Tensor mpa(const Tensor& A, int64_t degree = 5) {
    return detail::apply<&plain::mpa, detail::Exact<&ops::mpa_backward>>(A, degree);
  }
  static Tensor mtp(const Tensor& A, int64_t degree = 10) {
    return detail::apply<&plain::mtp, detail::Exact<&ops::mtp_backward>>(A, degree);
  }
  static Tensor mpa_inv(const Tensor& A, int64_t degree = 5) {
    return detail::apply<&plain::mpa_inv, detail::Exact<&ops::mpa_inv_backward>>(A, degree);
  }
  static Tensor mtp_inv(const Tensor& A, int64_t degree = 10) {
    return detail::apply<&plain::mtp_inv, detail::Exact<&ops::mtp_inv_backward>>(A, degree);
  }
  static Tensor ns(const Tensor& A, int64_t iterations = 5) {
    return detail::apply<&plain::ns, detail::Exact<&ops::ns_backward>>(A, iterations);
  }
  static Tensor ns_inv(const Tensor& A, int64_t iterations = 5) {
    return detail::apply<&plain::ns_inv, detail::Exact<&ops::ns_inv_backward>>(A, iterations);
  }
  static Tensor lyapunov_newton(const Tensor& B, const Tensor& C, double rtol = 0) {
    return detail::apply<&plain::lyapunov_newton, detail::Lyapunov<&ops::lyapunov_newton>>(B, C, rtol);
  }
  static Tensor sqrtm_lya_backward(const Tensor& A, const Tensor& S, const Tensor& G, int64_t iterations = 8) {
    return detail::apply<&plain::sqrtm_lya_backward, detail::RootLyapunovBackward<&ops::sqrtm_lya_backward>>(
        A, S, G, iterations);
  }
  static Tensor inv_sqrtm_lya_backward(const Tensor& Z, const Tensor& G, int64_t iterations = 8) {
    return detail::apply<&plain::inv_sqrtm_lya_backward,
                         detail::InverseRootBackward<&ops::inv_sqrtm_lya_backward, &ops::lyapunov>>(Z, G, iterations);
  }
  static Tensor sqrtm_backward(const Tensor& S, const Tensor& G, double rtol = 0) {
    return detail::apply<&plain::sqrtm_backward, detail::RootBackward<&ops::sqrtm_backward>>(S, G, rtol);
  }
  static Tensor inv_sqrtm_backward(const Tensor& Z, const Tensor& G, double rtol = 0) {
    return detail::apply<&plain::inv_sqrtm_backward,
                         detail::InverseRootBackward<&ops::inv_sqrtm_backward, &ops::lyapunov_newton>>(Z, G, rtol);
  }
  static Tensor sqrtm_and_inv_backward(const Tensor& R, const Tensor& G, double rtol = 0) {
    return detail::apply<&plain::sqrtm_and_inv_backward, detail::BothRootsBackward<&ops::sqrtm_backward>>(R, G, rtol);
  }
  static Tensor mpa_backward(const Tensor& A, const Tensor& G, int64_t degree = 5) {
    return detail::apply<&plain::mpa_backward, detail::ExactBackward<detail::Series::pade, false>>(A, G, degree);
  }
  static Tensor mtp_backward(const Tensor& A, const Tensor& G, int64_t degree = 10) {
    return detail::apply<&plain::mtp_backward, detail::ExactBackward<detail::Series::taylor, false>>(A, G, degree);
  }
  static Tensor mpa_inv_backward(const Tensor& A, const Tensor& G, int64_t degree = 5) {
    return detail::apply<&plain::mpa_inv_backward, detail::ExactBackward<detail::Series::pade, true>>(A, G, degree);
  }
  static Tensor mtp_inv_backward(const Tensor& A, const Tensor& G, int64_t degree = 10) {
    return detail::apply<&plain::mtp_inv_backward, detail::ExactBackward<detail::Series::taylor, true>>(A, G, degree);
  }
  static Tensor ns_backward(const Tensor& A, const Tensor& G, int64_t iterations = 5) {
    return detail::apply<&plain::ns_backward, detail::ExactBackward<detail::Series::newton_schulz, false>>(A, G,
                                                                                                           iterations);
  }
  static Tensor ns_inv_backward(const Tensor& A, const Tensor& G, int64_t iterations = 5) {
    return detail::apply<&plain::ns_inv_backward, detail::ExactBackward<detail::Series::newton_schulz, true>>(
        A, G, iterations);
  }
};

/// As fastsqrtm::sqrtm. Gradient: X with S X + X S = sym(G) for the root S and the cotangent G.
inline Tensor sqrtm(const Tensor& A, const RootOptions& options = {}) {
  return fastsqrtm::detail::sqrtm<ops>(A, options);
}

/// As fastsqrtm::inv_sqrtm. Gradient: X with S X + X S = -Z sym(G) Z for Z = A^(-1/2), S = Z^-1.
inline Tensor inv_sqrtm(const Tensor& A, const RootOptions& options = {}) {
  return fastsqrtm::detail::inv_sqrtm<ops>(A, options);
}

/// As fastsqrtm::sqrtm_and_inv, with one backward for both.
inline std::tuple<Tensor, Tensor> sqrtm_and_inv(const Tensor& A, const RootOptions& options = {}) {
  return fastsqrtm::detail::sqrtm_and_inv<ops>(A, options);
}

/// As fastsqrtm::mpa_lya. Gradient of this and of mtp_lya: that of the exact root at the point computed, by the paper's
/// iteration.
inline Tensor mpa_lya(const Tensor& A, int64_t degree = 5, int64_t iterations = 8) {
  return ops::mpa_lya(A, degree, iterations);
}

/// As fastsqrtm::mtp_lya.
inline Tensor mtp_lya(const Tensor& A, int64_t degree = 10, int64_t iterations = 8) {
  return ops::mtp_lya(A, degree, iterations);
}

/// As fastsqrtm::mpa_lya_inv.
inline Tensor mpa_lya_inv(const Tensor& A, int64_t degree = 5, int64_t iterations = 8) {
  return ops::mpa_lya_inv(A, degree, iterations);
}

/// As fastsqrtm::mtp_lya_inv.
inline Tensor mtp_lya_inv(const Tensor& A, int64_t degree = 10, int64_t iterations = 8) {
  return ops::mtp_lya_inv(A, degree, iterations);
}

/// As fastsqrtm::lyapunov. Gradient: dC = lyapunov(B, G) and dB = -sym(dC X^T + X^T dC).
inline Tensor lyapunov(const Tensor& B, const Tensor& C, int64_t iterations = 8) {
  return fastsqrtm::detail::broadcast(B, C, [&](const auto&... x) { return ops::lyapunov(x..., iterations); });
}

/// As fastsqrtm::lyapunov_newton. Gradient as that of lyapunov.
inline Tensor lyapunov_newton(const Tensor& B, const Tensor& C, double rtol = 0) {
  return fastsqrtm::detail::broadcast(B, C, [&](const auto&... x) { return ops::lyapunov_newton(x..., rtol); });
}

}  // namespace autograd

/// Makes the ops differentiable in the dispatcher of this process, and so for fastsqrtm.h and for TorchScript modules
/// that call them. Once is enough, from any thread; does nothing where the Python package is imported, which has done
/// it.
inline void register_autograd() {
  static const bool done = [] {
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("fastsqrtm::sqrtm", "");
    if (op.hasKernelForDispatchKey(c10::DispatchKey::Autograd)) return true;
    using autograd::ops;
    static torch::Library library(torch::Library::IMPL, "fastsqrtm", c10::DispatchKey::Autograd, __FILE__, __LINE__);
    library.impl("mpa_lya", &ops::mpa_lya);
    library.impl("mtp_lya", &ops::mtp_lya);
    library.impl("mpa_lya_inv", &ops::mpa_lya_inv);
    library.impl("mtp_lya_inv", &ops::mtp_lya_inv);
    library.impl("lyapunov", &ops::lyapunov);
    library.impl("sqrtm", &ops::sqrtm);
    library.impl("inv_sqrtm", &ops::inv_sqrtm);
    library.impl("sqrtm_and_inv", &ops::sqrtm_and_inv);
    library.impl("mpa", &ops::mpa);
    library.impl("mtp", &ops::mtp);
    library.impl("mpa_inv", &ops::mpa_inv);
    library.impl("mtp_inv", &ops::mtp_inv);
    library.impl("ns", &ops::ns);
    library.impl("ns_inv", &ops::ns_inv);
    library.impl("lyapunov_newton", &ops::lyapunov_newton);
    library.impl("sqrtm_lya_backward", &ops::sqrtm_lya_backward);
    library.impl("inv_sqrtm_lya_backward", &ops::inv_sqrtm_lya_backward);
    library.impl("sqrtm_backward", &ops::sqrtm_backward);
    library.impl("inv_sqrtm_backward", &ops::inv_sqrtm_backward);
    library.impl("sqrtm_and_inv_backward", &ops::sqrtm_and_inv_backward);
    library.impl("mpa_backward", &ops::mpa_backward);
    library.impl("mtp_backward", &ops::mtp_backward);
    library.impl("mpa_inv_backward", &ops::mpa_inv_backward);
    library.impl("mtp_inv_backward", &ops::mtp_inv_backward);
    library.impl("ns_backward", &ops::ns_backward);
    library.impl("ns_inv_backward", &ops::ns_inv_backward);
    return true;
  }();
  (void)done;
}

}  // namespace fastsqrtm

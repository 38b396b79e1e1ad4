/// @file
/// The ops and functions of fastsqrtm.h and paper.h again, differentiable, in the namespace fastsqrtm::autograd.
/// Gradients agree with those of Python to the last bit (second derivatives of rational functions to rounding) and can
/// be differentiated again to any order. C++ has neither vmap nor forward mode: a tensor with a tangent is an error.
///
/// The functions work as well in a process that has imported the Python package: they bypass its rules, which are the
/// same.
#pragma once

#include <fastsqrtm/detail/approximants.h>
#include <fastsqrtm/fastsqrtm.h>
#include <fastsqrtm/paper.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace fastsqrtm {
namespace autograd {

using at::Tensor;
using torch::autograd::variable_list;

namespace detail {

using fastsqrtm::detail::check_no_tangent;
using fastsqrtm::detail::Dispatched;
using fastsqrtm::detail::Op;
using fastsqrtm::detail::ResultType;
using torch::autograd::AutogradContext;

/// The rule of an op, a row of the table below: save(tensor arguments, results) returns the tensors to keep, and
/// vjp(those, Numbers, cotangents) the gradients of the tensor arguments. An undefined gradient means none. Results of
/// int64 have no cotangent; one that nothing depends on is zero.
template <const Signature& op>
struct RuleOf {
  static_assert(op.name.empty(), "fastsqrtm/autograd.h has no RULE for this op of ops.def");
};

/// The numbers that an op was called with, kept under their names.
template <const Signature& op>
struct Numbers {
  AutogradContext& context;

  template <std::size_t i>
  auto get() const {
    using Number = fastsqrtm::detail::ArgumentType<op, i>;
    return context.saved_data.at(std::string(op.arguments[i].name)).template to<Number>();
  }
};

inline variable_list as_list(const Tensor& x) { return {x}; }
template <class... Results>
variable_list as_list(const std::tuple<Results...>& x) {
  return std::apply([](const auto&... result) { return variable_list{result...}; }, x);
}

template <const Signature& op, std::size_t... i>
ResultType<op> as_results(const variable_list& x, std::index_sequence<i...>) {
  return {x[i]...};
}

template <const Signature& op>
struct Node : torch::autograd::Function<Node<op>> {
  template <class... Args>
  static variable_list forward(AutogradContext* context, const Args&... args) {
    at::AutoDispatchBelowADInplaceOrView below;
    const variable_list results = as_list(Dispatched::call<op>(args...));
    variable_list tensors;
    std::size_t i = 0;
    const auto keep = [&](const auto& argument) {
      if constexpr (std::is_same_v<std::decay_t<decltype(argument)>, Tensor>)
        tensors.push_back(argument);
      else
        context->saved_data[std::string(op.arguments[i].name)] = argument;
      ++i;
    };
    (keep(args), ...);
    context->save_for_backward(RuleOf<op>::save(tensors, results));
    variable_list indices;
    for (std::size_t j = 0; j < op.result_count; ++j)
      if (op.results[j].is_index) indices.push_back(results[j]);
    if (!indices.empty()) context->mark_non_differentiable(indices);
    return results;
  }

  static variable_list backward(AutogradContext* context, const variable_list& given) {
    variable_list cotangents;
    for (std::size_t j = 0; j < op.result_count; ++j)
      if (!op.results[j].is_index) cotangents.push_back(given[j]);
    variable_list gradients = RuleOf<op>::vjp(context->get_saved_variables(), Numbers<op>{*context}, cotangents);
    gradients.resize(op.argument_count);  // none for the numbers
    return gradients;
  }
};

/// The route of a call through the rule of its op.
struct Differentiable {
  template <const Signature& op, class... Args>
  static ResultType<op> call(const Args&... args) {
    check_no_tangent(op, {fastsqrtm::detail::as_tensor(args)...});
    return as_results<op>(Node<op>::apply(args...), std::make_index_sequence<op.result_count>{});
  }
};

template <const Signature& target, const Signature& op, std::size_t... tensor, std::size_t... number>
auto call(const variable_list& tensors, const Numbers<op>& numbers, std::index_sequence<tensor...>,
          std::index_sequence<number...>) {
  [[maybe_unused]] constexpr auto name = [](std::size_t i) { return target.arguments[target.tensor_count() + i].name; };
  return Op<target, Differentiable>::call(tensors[tensor]..., numbers.template get<op.position(name(number))>()...);
}

/// The op `target` with those of the numbers that it has an argument for, by name.
template <const Signature& target, const Signature& op>
auto call(const variable_list& tensors, const Numbers<op>& numbers) {
  constexpr std::size_t count = target.tensor_count();
  return call<target>(tensors, numbers, std::make_index_sequence<count>{},
                      std::make_index_sequence<target.argument_count - count>{});
}

// The rules. Counterpart, step for step: fastsqrtm/_reference.

inline Tensor anticommutator(const Tensor& A, const Tensor& B) {
  const Tensor AB = A.matmul(B);
  return AB + B.matmul(A);
}

inline variable_list joined(variable_list x, const variable_list& y) {
  x.insert(x.end(), y.begin(), y.end());
  return x;
}

enum class Kept { arguments, results, both };

/// The gradients are the results of one op, which takes the tensors kept and the cotangents.
template <const Signature& backward, Kept kept>
struct OneOp {
  static variable_list save(const variable_list& arguments, const variable_list& results) {
    return kept == Kept::arguments ? arguments : kept == Kept::results ? results : joined(arguments, results);
  }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& cotangents) {
    return as_list(call<backward>(joined(saved, cotangents), numbers));
  }
};

/// X of B X + X B = C.
template <const Signature& solve>
struct Lyapunov {
  static variable_list save(const variable_list& x, const variable_list& X) { return {x[0], X[0]}; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& G) {
    const Tensor &B = saved[0], &X = saved[1], Y = call<solve>({B, G[0]}, numbers);
    return {-symmetric_part(anticommutator(Y, X.mT())), Y};
  }
};

/// X of S X + X S = sym(G).
template <const Signature& solve>
struct RootBackward {
  static variable_list save(const variable_list& x, const variable_list& X) { return {x[0], X[0]}; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& cotangent) {
    const Tensor &S = saved[0], &X = saved[1], Y = call<solve>({S, cotangent[0]}, numbers);
    return {-anticommutator(Y, X), Y};
  }
};

/// The same by the paper's iteration, for which A gives the scale; A has no part in the solution.
template <const Signature& solve>
struct ScaledRootBackward {
  static variable_list save(const variable_list& x, const variable_list& X) { return {x[0], x[1], X[0]}; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& cotangent) {
    const Tensor &A = saved[0], &S = saved[1], &X = saved[2], Y = call<solve>({A, S, cotangent[0]}, numbers);
    return {Tensor(), -anticommutator(Y, X), Y};
  }
};

/// X of Z X + X Z = -Z^2 sym(G) Z^2.
template <const Signature& self, const Signature& lyapunov>
struct InverseRootBackward {
  static variable_list save(const variable_list& x, const variable_list& X) { return {x[0], x[1], X[0]}; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& given) {
    const Tensor Z = symmetric_part(saved[0]), G = symmetric_part(saved[1]), cotangent = symmetric_part(given[0]);
    const Tensor &X = saved[2], Y = call<lyapunov>({Z, cotangent}, numbers);
    const Tensor K = Y.matmul(Z).matmul(Z).matmul(G);
    Tensor dZ = -anticommutator(Y, X);
    dZ = dZ - anticommutator(K + K.mT(), Z);
    return {symmetric_part(dZ), call<self>({Z, cotangent}, numbers)};
  }
};

/// Where Z is the inverse of the zero matrix, +inf on the diagonal and 0 elsewhere: (..., 1, 1).
inline Tensor is_infinite(const Tensor& Z) {
  const Tensor infinite = at::full(Z.sizes().slice(0, Z.dim() - 1), std::numeric_limits<double>::infinity(),
                                   Z.options().requires_grad(false))
                              .diag_embed();
  return (Z == infinite).all(-1, true).all(-2, true);
}

/// Z = A^-1 and log det A.
struct InverseAndDeterminant {
  static variable_list save(const variable_list&, const variable_list& results) { return {results[0]}; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& G) {
    const Tensor &Z = saved[0], along = at::where(is_infinite(Z), 0, G[1].unsqueeze(-1).unsqueeze(-1) * Z);
    return {call<signatures::inv_backward>({Z, G[0]}, numbers) + along};
  }
};

/// X = -Z sym(G) Z.
struct InverseBackward {
  static variable_list save(const variable_list& x, const variable_list&) { return x; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& given) {
    const Tensor Z = symmetric_part(saved[0]), G = symmetric_part(saved[1]), cotangent = symmetric_part(given[0]);
    const Tensor K = cotangent.matmul(Z).matmul(G);
    const Tensor dZ = at::where(is_infinite(Z), 0, -(K + K.mT()));
    return {dZ, call<signatures::inv_backward>({saved[0], given[0]}, numbers)};
  }
};

/// T, upper triangular, for which M - T is skew-symmetric.
inline Tensor upper_part(const Tensor& M) { return M.triu(1) + M.tril(-1).mT() + M.diagonal(0, -2, -1).diag_embed(); }

/// The symmetric matrix with the lower triangle of M.
inline Tensor symmetric_from_lower(const Tensor& M) { return M.tril(-1) + upper_part(M.tril()); }

/// The gradient of A, or of A[:, P], for Q R of it: the leading k columns have to be independent. Q = [Q1 Q2] with k
/// and m - k columns, R = [R1 R2] with k and n - k.
inline Tensor qr_gradient(const variable_list& saved, const variable_list& cotangents) {
  const auto dtype = cotangents[0].scalar_type();
  const auto widened = [](const Tensor& x) { return x.to(at::promoteTypes(x.scalar_type(), at::kFloat)); };
  const Tensor Q = widened(saved[0]), R = widened(saved[1]), gQ = widened(cotangents[0]), gR = widened(cotangents[1]);
  const int64_t n = R.size(-1), k = std::min(Q.size(-2), n);
  const auto columns = [k](const Tensor& x) { return x.split_with_sizes({k, x.size(-1) - k}, -1); };
  const auto of_Q = columns(Q), of_gQ = columns(gQ), of_R = columns(R.narrow(-2, 0, k)),
             of_gR = columns(gR.narrow(-2, 0, k));
  const Tensor &Q1 = of_Q[0], &Q2 = of_Q[1], &R1 = of_R[0], &R2 = of_R[1];
  Tensor gQ1 = of_gQ[0];
  if (Q2.size(-1) > 0) gQ1 = gQ1 - Q2.matmul(of_gQ[1].mT().matmul(Q1));
  const auto of_columns = [&] { return Op<signatures::qr_backward, Differentiable>::call(Q1, R1, gQ1, of_gR[0]); };
  if (n == k) return of_columns().to(dtype);
  gQ1 = gQ1 + Q1.matmul(R2).matmul(of_gR[1].mT());
  return at::cat({of_columns(), Q1.matmul(of_gR[1])}, -1).to(dtype);
}

/// Q R = A.
struct Factors {
  static variable_list save(const variable_list&, const variable_list& results) { return results; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers&, const variable_list& cotangents) {
    return {qr_gradient(saved, cotangents)};
  }
};

/// Q R = A[:, P].
struct PivotedFactors : Factors {
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers&, const variable_list& cotangents) {
    const Tensor gradient = qr_gradient(saved, cotangents);
    return {gradient.gather(-1, saved[2].argsort(int64_t(-1)).unsqueeze(-2).expand_as(gradient))};
  }
};

/// X = (G + Q sym_from_lower(R H^T - G^T Q)) R^-T.
struct FactorsBackward {
  static variable_list save(const variable_list& x, const variable_list& X) { return joined(x, X); }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers&, const variable_list& given) {
    const auto dtype = given[0].scalar_type();
    const auto widened = [](const Tensor& x) { return x.to(at::promoteTypes(x.scalar_type(), at::kFloat)); };
    const Tensor Q = widened(saved[0]), R = widened(saved[1].triu()), G = widened(saved[2]),
                 H = widened(saved[3].triu()), X = widened(saved[4]);
    const Tensor D = at::linalg_solve_triangular(R, widened(given[0]), true, false);
    const Tensor E = upper_part(Q.mT().matmul(D)).mT();
    const Tensor S = symmetric_from_lower(R.matmul(H.mT()) - G.mT().matmul(Q));
    return {(D.matmul(S) - G.matmul(E)).to(dtype), (E.matmul(H) - D.mT().matmul(X)).triu().to(dtype),
            (D - Q.matmul(E.mT())).to(dtype), E.mT().matmul(R).triu().to(dtype)};
  }
};

/// X of S X + X S = sym(G) - Z sym(H) Z.
template <const Signature& solve>
struct BothRootsBackward {
  static variable_list save(const variable_list& x, const variable_list& X) { return {x[0], x[1], x[3], X[0]}; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& cotangent) {
    const Tensor S = symmetric_part(saved[0]), Z = symmetric_part(saved[1]), H = symmetric_part(saved[2]);
    const Tensor &X = saved[3], Y = call<solve>({S, cotangent[0]}, numbers);
    const Tensor K = Y.matmul(Z).matmul(H);
    return {-anticommutator(Y, X), -(K + K.mT()), Y, (-Z).matmul(Y).matmul(Z)};
  }
};

/// The gradient of an approximant.
template <Series series, bool inverse>
struct ApproximantBackward {
  static variable_list save(const variable_list& x, const variable_list&) { return x; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& cotangent) {
    return gradient_along(series, inverse, joined(saved, cotangent), numbers.template get<2>());
  }
};

/// The gradient of a rational function.
template <const Signature& self>
struct RationalBackward {
  static variable_list save(const variable_list& x, const variable_list&) { return x; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& D) {
    const auto poles = numbers.template get<self.position("poles")>();
    const auto lowest = numbers.template get<self.position("lowest")>();
    PartialFractions series;
    if constexpr (self.arguments[2].name == "exponent")
      series = fractions_of_power(numbers.template get<self.position("exponent")>(), lowest, int(poles));
    else
      series = fractions_of_logarithm(lowest, int(poles));
    return {rational_second(saved[0], saved[1], D[0], series), call<self>({saved[0], D[0]}, numbers)};
  }
};

#define RULE(name, ...) \
  template <>           \
  struct RuleOf<signatures::name> : __VA_ARGS__ {};
// clang-format off
RULE(sqrtm,                  OneOp<signatures::sqrtm_backward, Kept::results>)
RULE(inv_sqrtm,              OneOp<signatures::inv_sqrtm_backward, Kept::results>)
RULE(sqrtm_and_inv,          OneOp<signatures::sqrtm_and_inv_backward, Kept::results>)
RULE(sqrtm_backward,         RootBackward<signatures::sqrtm_backward>)
RULE(inv_sqrtm_backward,     InverseRootBackward<signatures::inv_sqrtm_backward, signatures::lyapunov_newton>)
RULE(sqrtm_and_inv_backward, BothRootsBackward<signatures::sqrtm_backward>)
RULE(inv,                    OneOp<signatures::inv_backward, Kept::results>)
RULE(inv_and_logdet,         InverseAndDeterminant)
RULE(inv_backward,           InverseBackward)
RULE(rational_power,         OneOp<signatures::rational_power_backward, Kept::arguments>)
RULE(rational_log,           OneOp<signatures::rational_log_backward, Kept::arguments>)
RULE(rational_power_backward, RationalBackward<signatures::rational_power_backward>)
RULE(rational_log_backward,  RationalBackward<signatures::rational_log_backward>)
RULE(qr,                     Factors)
RULE(qr_complete,            Factors)
RULE(qr_pivoted,             PivotedFactors)
RULE(qr_pivoted_complete,    PivotedFactors)
RULE(qr_backward,            FactorsBackward)
RULE(lyapunov,               Lyapunov<signatures::lyapunov>)
RULE(lyapunov_newton,        Lyapunov<signatures::lyapunov_newton>)
RULE(mpa_lya,                OneOp<signatures::sqrtm_lya_backward, Kept::both>)
RULE(mtp_lya,                OneOp<signatures::sqrtm_lya_backward, Kept::both>)
RULE(mpa_lya_inv,            OneOp<signatures::inv_sqrtm_lya_backward, Kept::results>)
RULE(mtp_lya_inv,            OneOp<signatures::inv_sqrtm_lya_backward, Kept::results>)
RULE(sqrtm_lya_backward,     ScaledRootBackward<signatures::sqrtm_lya_backward>)
RULE(inv_sqrtm_lya_backward, InverseRootBackward<signatures::inv_sqrtm_lya_backward, signatures::lyapunov>)
RULE(mpa,                    OneOp<signatures::mpa_backward, Kept::arguments>)
RULE(mtp,                    OneOp<signatures::mtp_backward, Kept::arguments>)
RULE(ns,                     OneOp<signatures::ns_backward, Kept::arguments>)
RULE(mpa_inv,                OneOp<signatures::mpa_inv_backward, Kept::arguments>)
RULE(mtp_inv,                OneOp<signatures::mtp_inv_backward, Kept::arguments>)
RULE(ns_inv,                 OneOp<signatures::ns_inv_backward, Kept::arguments>)
RULE(mpa_backward,           ApproximantBackward<Series::pade, false>)
RULE(mtp_backward,           ApproximantBackward<Series::taylor, false>)
RULE(ns_backward,            ApproximantBackward<Series::newton_schulz, false>)
RULE(mpa_inv_backward,       ApproximantBackward<Series::pade, true>)
RULE(mtp_inv_backward,       ApproximantBackward<Series::taylor, true>)
RULE(ns_inv_backward,        ApproximantBackward<Series::newton_schulz, true>)
// clang-format on
#undef RULE

}  // namespace detail

/// The ops of fastsqrtm::ops, each differentiated by its rule.
namespace ops {

#pragma push_macro("OP")
#pragma push_macro("PASS")
#undef OP
#undef PASS
#define OP(name, ...) inline constexpr detail::Op<signatures::name, detail::Differentiable> name{};
#include "ops.def"
#pragma pop_macro("PASS")
#pragma pop_macro("OP")

/// Calls visit(op) for every op, in the order of ops.def.
template <class Visit>
void for_each(const Visit& visit) {
#pragma push_macro("OP")
#pragma push_macro("PASS")
#undef OP
#undef PASS
#define OP(name, ...) visit(name);
#include "ops.def"
#pragma pop_macro("PASS")
#pragma pop_macro("OP")
}

}  // namespace ops

namespace detail {

/// The pseudo-inverse of the root. Its derivative Z' in the direction of a symmetric change D of A that keeps the rank
/// is self-adjoint: within the range S Z' + Z' S = -Z D Z for the root S = A Z, and between range and null space, of
/// projector Q, Z' = Z^3 D Q + Q D Z^3.
struct PseudoInverseRoot : torch::autograd::Function<PseudoInverseRoot> {
  static Tensor forward(AutogradContext* context, const Tensor& A, double null_rtol) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({A});
    context->saved_data["null_rtol"] = null_rtol;
    return fastsqrtm::detail::pseudo_inverse_root(A, null_rtol);
  }

  static variable_list backward(AutogradContext* context, const variable_list& G) {
    const Tensor A = context->get_saved_variables()[0];
    const Tensor Z = PseudoInverseRoot::apply(symmetric_part(A), context->saved_data["null_rtol"].toDouble());
    const Tensor D = symmetric_part(G[0]);
    const Tensor Q = identity_like(A) - Z.matmul(A).matmul(Z), S = symmetric_part(A.matmul(Z));
    const Tensor scale = at::linalg_matrix_norm(S.detach(), "fro", {-2, -1}, true);
    const Tensor padded = S + scale * Q;  // the identity in the place of the zeros of S
    const Tensor within = ops::lyapunov_newton(padded, Z.matmul(D).matmul(Z), 0);
    const Tensor across = Z.matmul(Z).matmul(Z).matmul(D).matmul(Q);
    return {at::where(scale == 0, 0, symmetric_part(2 * across - within)), Tensor()};
  }
};

}  // namespace detail

/// Like fastsqrtm::sqrtm. Gradient: X with S X + X S = sym(G) for the root S and the cotangent G.
inline Tensor sqrtm(const Tensor& A, const RootOptions& options = {}) {
  return fastsqrtm::detail::root(ops::sqrtm, A, options);
}

/// Like fastsqrtm::inv_sqrtm. Gradient: X with S X + X S = -Z sym(G) Z for Z = A^(-1/2), S = Z^-1; with null("zero")
/// that of the map among matrices of the same rank.
inline Tensor inv_sqrtm(const Tensor& A, const RootOptions& options = {}) {
  return fastsqrtm::detail::inverse_root(ops::inv_sqrtm, A, options, [](const Tensor& symmetric, double null_rtol) {
    fastsqrtm::detail::check_no_tangent(signatures::inv_sqrtm, {&symmetric});
    return detail::PseudoInverseRoot::apply(symmetric, null_rtol);
  });
}

/// Like fastsqrtm::sqrtm_and_inv, with one backward pass for both roots.
inline std::tuple<Tensor, Tensor> sqrtm_and_inv(const Tensor& A, const RootOptions& options = {}) {
  return fastsqrtm::detail::root(ops::sqrtm_and_inv, A, options);
}

/// Like fastsqrtm::lyapunov. Gradient: dC = lyapunov(B, G) and dB = -sym(dC X^T + X^T dC).
inline Tensor lyapunov(const Tensor& B, const Tensor& C,
                       int64_t iterations = fastsqrtm::detail::default_of<int64_t>(signatures::lyapunov,
                                                                                   "iterations")) {
  return fastsqrtm::detail::broadcast(ops::lyapunov, B, C, iterations);
}

/// Like fastsqrtm::lyapunov_newton. Its gradient is like that of lyapunov.
inline Tensor lyapunov_newton(const Tensor& B, const Tensor& C,
                              double rtol = fastsqrtm::detail::default_of<double>(signatures::lyapunov_newton,
                                                                                  "rtol")) {
  return fastsqrtm::detail::broadcast(ops::lyapunov_newton, B, C, rtol);
}

/// Like those of fastsqrtm. Gradient: -Z sym(G) Z for Z = A^-1, and g Z for the determinant.
using ops::inv;
using ops::inv_and_logdet;

/// Like those of fastsqrtm. Gradient: exact where the leading min(m, n) columns, in the order of P, are independent.
/// That of the columns of Q beyond n is right for all that depends on the space they span.
using ops::qr;
using ops::qr_complete;
using ops::qr_pivoted;
using ops::qr_pivoted_complete;

/// Like those of fastsqrtm. Gradient: that of the exact root at the point computed, by the paper's iteration.
using ops::mpa_lya;
using ops::mpa_lya_inv;
using ops::mtp_lya;
using ops::mtp_lya_inv;

/// The functions of fastsqrtm::paper, differentiable.
namespace paper {

using fastsqrtm::paper::Options;

/// Like fastsqrtm::paper::sqrtm. The options choose the gradient.
inline Tensor sqrtm(const Tensor& A, const Options& options) {
  return fastsqrtm::paper::detail::sqrtm<detail::Differentiable>(A, options);
}

/// Like fastsqrtm::paper::inv_sqrtm. The options choose the gradient.
inline Tensor inv_sqrtm(const Tensor& A, const Options& options) {
  return fastsqrtm::paper::detail::inv_sqrtm<detail::Differentiable>(A, options);
}

}  // namespace paper
}  // namespace autograd

/// Makes the ops differentiable in the dispatcher of this process, and so for fastsqrtm.h, for paper.h and for
/// TorchScript modules that call them. One call is enough, from any thread. It does nothing where the Python package is
/// imported, which has registered the same rules.
inline void register_autograd() {
  static const bool done = [] {
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("fastsqrtm::sqrtm", "");
    if (op.hasKernelForDispatchKey(c10::DispatchKey::Autograd)) return true;
    static torch::Library library(torch::Library::IMPL, "fastsqrtm", c10::DispatchKey::Autograd, __FILE__, __LINE__);
    autograd::ops::for_each([](const auto& op) { library.impl(op.signature.name.data(), op.call); });
    return true;
  }();
  (void)done;
}

}  // namespace fastsqrtm

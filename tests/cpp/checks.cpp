// The promises to a program without Python: roots, gradients, refusals, and ops of every shape that ops.def allows. It
// reports each failure and goes on.
#include <fastsqrtm/linalg.h>

#include <cmath>
#include <cstdio>

using at::Tensor;
using fastsqrtm::RootOptions;
using fastsqrtm::Signature;
using fastsqrtm::paper::Options;
using torch::autograd::variable_list;

// Ops of this test alone, with features not in ops.def so far: several kinds of numbers, none, an index as a result.
inline constexpr Signature mixed_signature = fastsqrtm::detail::parse(
    "test_mixed", "(Tensor A, Tensor B, int times=2, float scale=0.5) -> (Tensor, Tensor, Tensor)",
    "nn, nn -> nn, nn:int64, nn", "times 1..9, scale 0..1");
inline constexpr Signature exp_signature = fastsqrtm::detail::parse("test_exp", "(Tensor A) -> Tensor", "nn -> nn", "");
inline constexpr Signature exp_backward_signature =
    fastsqrtm::detail::parse("test_exp_backward", "(Tensor E, Tensor G) -> Tensor", "nn, nn -> nn", "");

TORCH_LIBRARY_FRAGMENT(fastsqrtm, m) {
  m.def("test_mixed(Tensor A, Tensor B, int times=2, float scale=0.5) -> (Tensor, Tensor, Tensor)");
  m.def("test_exp(Tensor A) -> Tensor");
  m.def("test_exp_backward(Tensor E, Tensor G) -> Tensor");
}

TORCH_LIBRARY_IMPL(fastsqrtm, CPU, m) {
  m.impl("test_mixed", [](const Tensor& A, const Tensor& B, int64_t times, double scale) {
    return std::make_tuple(A * times * scale, A.argsort(), A * B);
  });
  m.impl("test_exp", [](const Tensor& A) { return A.exp(); });
  m.impl("test_exp_backward", [](const Tensor& E, const Tensor& G) { return E * G; });
}

namespace fastsqrtm::autograd::detail {

template <>
struct RuleOf<mixed_signature> {
  static variable_list save(const variable_list& x, const variable_list&) { return x; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers& numbers, const variable_list& G) {
    const double factor = numbers.template get<2>() * numbers.template get<3>();
    return {G.at(0) * factor + G.at(1) * saved[1], G.at(1) * saved[0]};
  }
};
template <>
struct RuleOf<exp_signature> : OneOp<exp_backward_signature, Kept::results> {};
template <>
struct RuleOf<exp_backward_signature> {
  static variable_list save(const variable_list& x, const variable_list&) { return x; }
  template <class Numbers>
  static variable_list vjp(const variable_list& saved, const Numbers&, const variable_list& cotangent) {
    return {cotangent[0] * saved[1], cotangent[0] * saved[0]};
  }
};

}  // namespace fastsqrtm::autograd::detail

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (!holds) std::printf("FAILED: %s\n", what.c_str());
  failures += !holds;
}

template <class Function>
void expect_error(const std::string& text, const Function& function) {
  try {
    function();
    expect(false, "no error: " + text);
  } catch (const c10::Error& error) {
    expect(error.what_without_backtrace() == text,
           "expected '" + text + "', got '" + error.what_without_backtrace() + "'");
  }
}

Tensor spd(int64_t n) {
  at::manual_seed(0);
  const Tensor X = at::randn({3, n, 2 * n}, at::kDouble);
  return X.matmul(X.mT()) / n;
}

Tensor gradient(const Tensor& out, const Tensor& A, bool again = false) {
  return torch::autograd::grad({(out * out).sum()}, {A}, {}, again, again)[0];
}

void roots() {
  const Tensor A = spd(6);
  const auto [S, Z] = fastsqrtm::sqrtm_and_inv(A);
  expect(at::allclose(S.matmul(S), A), "S S = A");
  expect(at::allclose(Z.matmul(A).matmul(Z), at::eye(6, at::kDouble).expand_as(A), 1e-5, 1e-9), "Z A Z = I");
  expect(at::equal(S, fastsqrtm::sqrtm(A)) && at::allclose(Z, fastsqrtm::inv_sqrtm(A)),
         "both roots are the single ones");
  for (const char* method : {"mpa", "mtp"})
    for (const char* backward : {"exact", "lyapunov"}) {
      const Options options = Options().method(method).backward(backward).degree(30).eps(0.5);
      const Tensor shifted = A + 0.5 * at::eye(6, at::kDouble);
      expect(at::allclose(fastsqrtm::paper::sqrtm(A, options), fastsqrtm::sqrtm(shifted), 1e-2, 1e-2), method);
    }
  expect(at::allclose(fastsqrtm::paper::sqrtm(A, Options().method("ns").degree(20)), S), "Newton-Schulz");
  const Tensor half = A.to(at::kHalf), shifted = half.to(at::kFloat) + 1e-4 * at::eye(6);
  const auto [half_root, half_inverse] = fastsqrtm::sqrtm_and_inv(half, RootOptions().eps(1e-4));
  expect(at::equal(half_root, fastsqrtm::sqrtm(shifted).to(at::kHalf)) &&
             at::equal(half_inverse, std::get<1>(fastsqrtm::sqrtm_and_inv(shifted)).to(at::kHalf)),
         "half precision does not round eps away");
  const Tensor X = fastsqrtm::lyapunov_newton(A, A.select(0, 0).unsqueeze(0));
  expect(at::allclose(A.matmul(X) + X.matmul(A), A.select(0, 0).expand_as(A)), "B X + X B = C, broadcast");
  expect(fastsqrtm::sqrtm(A.slice(0, 0, 0)).sizes() == at::IntArrayRef({0, 6, 6}), "an empty batch");
}

void gradients() {
  const Tensor A = spd(4).requires_grad_();
  const Tensor direction = at::randn_like(A), step = 1e-6 * (direction + direction.mT());
  const auto f = [](const Tensor& A) { return fastsqrtm::autograd::paper::sqrtm(A, Options().method("mpa")); };
  const Tensor first = gradient(f(A), A, true);
  at::NoGradGuard guard;
  const Tensor difference = (f(A + step).square().sum() - f(A - step).square().sum()) / 2;
  expect(at::allclose((first * step).sum(), difference, 1e-5), "the gradient of mpa is exact");
  Tensor second;
  {
    at::AutoGradMode record(true);
    second = torch::autograd::grad({(first * step).sum()}, {A})[0];
  }
  const auto gradient_at = [&](const Tensor& point) {
    at::AutoGradMode record(true);
    const Tensor leaf = point.detach().requires_grad_();
    return gradient(f(leaf), leaf);
  };
  const Tensor change = (gradient_at(A + step) - gradient_at(A - step)) / 2;
  expect(at::allclose(second, change, 1e-4, 1e-9), "and so is its gradient");
}

void factorisations() {
  using namespace fastsqrtm::autograd::linalg;
  at::manual_seed(0);
  const Tensor deep = at::randn({3, 7, 4}, at::kDouble), wide = at::randn({3, 4, 7}, at::kDouble);
  const auto columns = [](const Tensor& A, const Tensor& P) { return A.gather(-1, P.unsqueeze(-2).expand_as(A)); };
  for (const Tensor& A : {deep, wide})
    for (const bool pivoting : {false, true})
      for (const char* mode : {"reduced", "complete", "r"}) {
        const QR found = qr(A, QROptions().mode(mode).pivoting(pivoting).positive(true));
        const Tensor X = pivoting ? columns(A, found.P) : A;
        expect(at::allclose(found.R.mT().matmul(found.R), X.mT().matmul(X)), c10::str("R^T R, mode ", mode));
        expect((found.R.diagonal(0, -2, -1) > 0).all().item<bool>(), "a positive diagonal");
        if (mode != std::string("r")) expect(at::allclose(found.Q.matmul(found.R), X), c10::str("Q R, mode ", mode));
      }
  const LQ other = lq(wide);
  expect(at::allclose(other.L.matmul(other.Q), wide), "L Q = A");
  expect(at::equal(lq(wide, "complete", true, "householder").Q.mT(),
                   qr(wide.mT(), QROptions().mode("complete").positive(true)).Q),
         "the complete Q of both");
  const Tensor low = deep.matmul(wide).narrow(-1, 0, 6);  // 7 x 6 of rank 4
  const QR ranked = qr(low, QROptions().pivoting(true).rtol(1e-10));
  expect((ranked.rank() == 4).all().item<bool>(), "the rank");
  expect(at::allclose(ranked.Q.matmul(ranked.R), columns(low, ranked.P)), "Q R at that rank");
  expect(qr(low, QROptions().k(2)).Q.size(-1) == 2, "two columns");
  const Tensor B = at::randn({3, 7, 2}, at::kDouble);
  expect(at::allclose(lstsq(low, B), at::linalg_pinv(low, 1e-10).matmul(B)), "least squares of a low rank");
  expect(at::allclose(lstsq(deep, B.select(0, 0)), at::linalg_pinv(deep).matmul(B[0])), "broadcast");
  // By a difference, along a change that keeps the rank.
  const auto value = [&](const Tensor& D) {
    const Tensor A = D.matmul(wide).narrow(-1, 0, 6);
    return lstsq(A, B).square().sum() + qr(D, QROptions().mode("complete").q2("householder")).Q.select(-1, 6).sum();
  };
  const Tensor leaf = deep.clone().requires_grad_(), step = 1e-6 * at::randn_like(deep);
  const Tensor slope = (torch::autograd::grad({value(leaf)}, {leaf})[0] * step).sum();
  expect(at::allclose(slope, (value(deep + step) - value(deep - step)) / 2, 1e-4), "the gradient of least squares");
  expect_error("fastsqrtm.linalg.qr: mode must be one of reduced, complete, r, got 'q'",
               [&] { qr(deep, QROptions().mode("q")); });
  expect_error("fastsqrtm.linalg.qr: k must be from 0 to 4, got 5", [&] { qr(deep, QROptions().k(5)); });
  expect_error("fastsqrtm.linalg.qr: rtol needs pivoting=True, got pivoting=False",
               [&] { qr(deep, QROptions().rtol(0.1)); });
  expect_error("fastsqrtm.linalg.lstsq: B must be (..., m, r) where A is [3, 7, 4], got [3, 4, 7]",
               [&] { lstsq(deep, wide); });
}

// Of B B^T with B (3, 6, 2), so that every change of B keeps the rank: Z = B (B^T B)^(-3/2) B^T.
void pseudo_inverse_roots() {
  const RootOptions zero = RootOptions().null("zero");
  const Tensor B = spd(6).slice(-1, 0, 2).clone().requires_grad_();
  const auto of_B = [&](const Tensor& B) { return fastsqrtm::autograd::inv_sqrtm(B.matmul(B.mT()), zero); };
  const auto by_inverse = [](const Tensor& B) {
    const Tensor Z = fastsqrtm::autograd::inv_sqrtm(B.mT().matmul(B));
    return B.matmul(Z).matmul(Z).matmul(Z).matmul(B.mT());
  };
  const Tensor W = at::randn({3, 6, 6}, at::kDouble), V = at::randn_like(B);
  const auto derivatives = [&](const Tensor& Z) {
    const Tensor first = torch::autograd::grad({(Z * Z * W).sum()}, {B}, {}, true, true)[0];
    return std::make_pair(first, torch::autograd::grad({(first * V).sum()}, {B})[0]);
  };
  const Tensor Z = of_B(B), expected = by_inverse(B);
  const auto found = derivatives(Z), exact = derivatives(expected);
  expect(at::allclose(Z, expected, 1e-9), "the pseudo-inverse of a root");
  expect(at::allclose(found.first, exact.first, 1e-7), "its gradient");
  expect(at::allclose(found.second, exact.second, 1e-6), "and its gradient's");
  at::NoGradGuard guard;
  const Tensor A = B.matmul(B.mT()), half = A.to(at::kHalf);
  expect(at::equal(fastsqrtm::inv_sqrtm(A, zero), Z), "without a gradient it is the same");
  const Tensor precise = fastsqrtm::inv_sqrtm(half.to(at::kFloat), RootOptions(zero).null_rtol(6 * 0x1p-10));
  expect(at::equal(fastsqrtm::inv_sqrtm(half, zero), precise.to(at::kHalf)), "the threshold of half precision");
  const Tensor d = at::diag(at::tensor({4., 1., 1e-3, 0.}, at::kDouble)), shift = at::eye(4, at::kDouble);
  expect(at::allclose(fastsqrtm::inv_sqrtm(d, RootOptions(zero).null_rtol(0.1)),
                      at::diag(at::tensor({.5, 1., 0., 0.})).to(at::kDouble)),
         "null_rtol");
  expect(at::allclose(fastsqrtm::inv_sqrtm(d, RootOptions(zero).eps(1)), fastsqrtm::inv_sqrtm(d + shift)), "eps");
  expect(fastsqrtm::inv_sqrtm(0 * d, zero).eq(0).all().item<bool>(), "of zero");
  const Tensor bad = fastsqrtm::inv_sqrtm(at::stack({d, d * NAN, d - 0.1 * shift}), zero).isnan().flatten(1).all(1);
  expect(at::equal(bad, at::tensor({0, 1, 1}).to(at::kBool)), "NaN stays where it is");
}

void refusals() {
  const Tensor A = spd(4);
  expect_error("fastsqrtm.mpa_lya: A must be (..., n, n), got (3, 4)", [] { fastsqrtm::mpa_lya(at::ones({3, 4})); });
  expect_error("fastsqrtm.sqrtm: A must be (..., n, n), got (3,)",
               [] { fastsqrtm::sqrtm(at::ones({3}), RootOptions().eps(1)); });
  expect_error("fastsqrtm.paper.sqrtm: A must be (..., n, n), got (3,)",
               [] { fastsqrtm::paper::sqrtm(at::ones({3}), Options().method("mtp")); });
  expect_error("fastsqrtm.sqrtm: A must be a strided tensor, got sparse_coo",
               [] { fastsqrtm::sqrtm(at::eye(3).to_sparse()); });
  expect_error(
      "fastsqrtm.sqrtm: A must be a strided tensor (stack matrices of one size, or take those of unbind() one by "
      "one), got a nested tensor",
      [] { fastsqrtm::sqrtm(at::_nested_tensor_from_tensor_list({at::eye(3), at::eye(3)})); });
  expect_error("fastsqrtm.lyapunov: C must be on the device of B (cpu), got meta",
               [] { fastsqrtm::lyapunov(at::eye(3), at::eye(3, at::kMeta)); });
  expect_error("fastsqrtm.sqrtm_and_inv: rtol must be from 0 to 1, got 2",
               [&] { fastsqrtm::sqrtm_and_inv(A, RootOptions().rtol(2)); });
  expect_error("fastsqrtm.inv_sqrtm: eps must be finite and not negative, got -1",
               [&] { fastsqrtm::inv_sqrtm(A, RootOptions().eps(-1)); });
  expect_error("fastsqrtm.inv_sqrtm: null must be \"ridge\" or \"zero\", got 'drop'",
               [&] { fastsqrtm::inv_sqrtm(A, RootOptions().null("drop")); });
  expect_error("fastsqrtm.inv_sqrtm: null_rtol needs null=\"zero\", got null='ridge'",
               [&] { fastsqrtm::inv_sqrtm(A, RootOptions().null_rtol(0.1)); });
  expect_error("fastsqrtm.inv_sqrtm: null_rtol must be at least 0 and less than 1, got 1",
               [&] { fastsqrtm::inv_sqrtm(A, RootOptions().null("zero").null_rtol(1)); });
  expect_error("fastsqrtm.inv_sqrtm: A must be (..., n, n), got (3, 4)",
               [] { fastsqrtm::inv_sqrtm(at::ones({3, 4}), RootOptions().null("zero")); });
  expect_error("fastsqrtm.sqrtm: null and null_rtol are options of inv_sqrtm",
               [&] { fastsqrtm::sqrtm(A, RootOptions().null("zero")); });
  expect_error("fastsqrtm.paper.sqrtm: method must be one of mpa, mtp, ns, got 'svd'",
               [&] { fastsqrtm::paper::sqrtm(A, Options().method("svd")); });
  expect_error("fastsqrtm.paper.sqrtm: method must be one of mpa, mtp, ns, got ''",
               [&] { fastsqrtm::paper::sqrtm(A, Options()); });
  expect_error("fastsqrtm.paper.inv_sqrtm: backward of method ns must be auto or one of ns, exact, got 'lyapunov'",
               [&] { fastsqrtm::paper::inv_sqrtm(A, Options().method("ns").backward("lyapunov")); });
  expect_error("fastsqrtm.paper.sqrtm: iterations is not an argument of method mpa with backward exact, got 3",
               [&] { fastsqrtm::paper::sqrtm(A, Options().method("mpa").iterations(3)); });
  expect_error("fastsqrtm.paper.sqrtm: eps must be finite and not negative, got inf",
               [&] { fastsqrtm::paper::sqrtm(A, Options().method("mpa").eps(INFINITY)); });
  expect_error("fastsqrtm.mpa: degree must be from 1 to 32, got 33",
               [&] { fastsqrtm::autograd::paper::sqrtm(A, Options().method("mpa").degree(33)); });
}

c10::OperatorHandle in_dispatcher(const Signature& op) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(("fastsqrtm::" + std::string(op.name)).c_str(), "");
}

// typed() compares the kinds and the number of arguments and results with the schema, at the first call of an op.
void signatures_are_those_of_the_dispatcher() {
  int count = 0;
  fastsqrtm::ops::for_each([&](const auto& op) {
    const Signature& signature = op.signature;
    const std::string name(signature.name);
    const c10::FunctionSchema& schema = in_dispatcher(signature).schema();
    expect(schema.arguments().size() == signature.argument_count, name + ": number of arguments");
    expect(schema.returns().size() == signature.result_count, name + ": number of results");
    for (size_t i = 0; i < signature.argument_count; ++i) {
      const auto& found = schema.arguments()[i];
      const auto& argument = signature.arguments[i];
      const char* kinds[] = {"Tensor", "int", "float"};
      expect(found.name() == argument.name, name + ": name of argument " + found.name());
      expect(found.type()->str() == kinds[size_t(argument.kind)], name + ": kind of argument " + found.name());
      const bool is_number = argument.kind != fastsqrtm::Kind::tensor;
      expect(found.default_value().has_value() == is_number &&
                 (!is_number || found.default_value()->toScalar().toDouble() == argument.default_value),
             name + ": default of argument " + found.name());
    }
    ++count;
  });
  expect(count > 0, "no op");
  const Tensor A = spd(4);
  expect(at::equal(fastsqrtm::mpa_lya(A), fastsqrtm::mpa_lya(A, 5)) &&
             at::equal(fastsqrtm::mpa_lya(A), fastsqrtm::mpa_lya(A, 5, 8)) &&
             !at::equal(fastsqrtm::mpa_lya(A), fastsqrtm::mpa_lya(A, 6)),
         "trailing numbers are optional");
  static_assert(std::is_same_v<decltype(fastsqrtm::ops::sqrtm(A)), Tensor>);
  static_assert(std::is_same_v<decltype(fastsqrtm::ops::sqrtm_and_inv(A)), std::tuple<Tensor, Tensor>>);
  Tensor (*const function)(const Tensor&, int64_t, int64_t) = fastsqrtm::ops::mpa_lya.call;
  expect(at::equal(function(A, 5, 8), fastsqrtm::mpa_lya(A)), "an op has an address");
}

void any_number_of_numbers_and_results() {
  using fastsqrtm::autograd::detail::Differentiable, fastsqrtm::detail::Op;
  const Tensor A = spd(3).requires_grad_(), B = (spd(3) + 1).requires_grad_(), W = at::rand({3, 3, 3}, at::kDouble);
  const Op<mixed_signature, Differentiable> mixed{};
  const auto [P, order, Q] = mixed(A, B, 3);
  expect(P.requires_grad() && !order.requires_grad() && Q.requires_grad(), "an index has no gradient");
  expect(order.scalar_type() == at::kLong && at::equal(order, A.argsort()), "an index is a result");
  const auto both = torch::autograd::grad({(P * W).sum() + (Q * W).sum()}, {A, B}, {}, true);
  expect(at::allclose(both[0], 1.5 * W + B * W) && at::allclose(both[1], A * W), "all numbers reach the rule");
  const auto one = torch::autograd::grad({(Q * W).sum()}, {A, B}, {}, true);
  expect(at::equal(one[0], B * W) && at::equal(one[1], A * W), "a result that is not used counts as zero");
  const Op<exp_signature, Differentiable> exponential{};
  const Tensor E = exponential(A);
  expect(at::equal(torch::autograd::grad({E}, {A}, {W}, true)[0], A.exp() * W), "an op without numbers");
  const Tensor slope = gradient(E, A, true);
  expect(at::allclose(torch::autograd::grad({(slope * W).sum()}, {A})[0], 4 * (2 * A).exp() * W), "and its gradient's");

  const auto [S, Z] = fastsqrtm::autograd::sqrtm_and_inv(A);
  expect(at::allclose(gradient(S, A, true), gradient(fastsqrtm::autograd::sqrtm(A), A)), "one of both roots");
  expect(at::allclose(gradient(Z, A, true), gradient(fastsqrtm::autograd::inv_sqrtm(A), A)), "the other one");
}

void a_tangent_is_refused(const Tensor& A) {
  const uint64_t level = torch::autograd::forward_ad::enter_dual_level();
  const Tensor dual = at::_make_dual(A, at::ones_like(A), int64_t(level));
  const std::string text = " has a tangent: forward mode is in Python alone, so unpack the primal tensor";
  expect_error("fastsqrtm.sqrtm: A" + text, [&] { fastsqrtm::sqrtm(dual); });
  expect_error("fastsqrtm.sqrtm: A" + text, [&] { fastsqrtm::autograd::sqrtm(dual); });
  expect_error("fastsqrtm.lyapunov: C" + text, [&] { fastsqrtm::lyapunov(A, dual); });
  const RootOptions zero = RootOptions().null("zero");
  expect_error("fastsqrtm.inv_sqrtm: A" + text, [&] { fastsqrtm::inv_sqrtm(dual, zero); });
  expect_error("fastsqrtm.inv_sqrtm: A" + text, [&] { fastsqrtm::autograd::inv_sqrtm(dual, zero); });
  const Tensor primal = std::get<0>(at::_unpack_dual(dual, int64_t(level)));
  expect(at::equal(fastsqrtm::sqrtm(primal), fastsqrtm::sqrtm(A)), "a primal tensor has no tangent");
  torch::autograd::forward_ad::exit_dual_level(level);
}

void the_dispatcher_learns_to_differentiate() {
  const Tensor A = spd(4).requires_grad_();
  expect_error(
      "fastsqrtm.mpa_lya: A requires a gradient: call the function of fastsqrtm::autograd, or hold an at::NoGradGuard",
      [&] { fastsqrtm::mpa_lya(A); });
  expect_error(
      "fastsqrtm.inv_sqrtm: A requires a gradient: call the function of fastsqrtm::autograd, or hold an "
      "at::NoGradGuard",
      [&] { fastsqrtm::inv_sqrtm(A, RootOptions().null("zero")); });
  {
    at::NoGradGuard guard;
    expect(!fastsqrtm::mpa_lya(A).requires_grad(), "without a gradient");
  }
  const Tensor expected = gradient(fastsqrtm::autograd::mpa_lya(A), A);
  fastsqrtm::register_autograd();
  fastsqrtm::register_autograd();
  expect(at::equal(gradient(fastsqrtm::mpa_lya(A), A), expected), "register_autograd");
  expect(at::equal(gradient(fastsqrtm::autograd::mpa_lya(A), A), expected), "and not twice");
  fastsqrtm::ops::for_each([](const auto& op) {
    expect(in_dispatcher(op.signature).hasKernelForDispatchKey(c10::DispatchKey::Autograd),
           std::string(op.signature.name) + " has a rule in the dispatcher");
  });
}

}  // namespace

int main() {
  expect(!fastsqrtm::version().empty(), "version");
  roots();
  gradients();
  factorisations();
  pseudo_inverse_roots();
  refusals();
  signatures_are_those_of_the_dispatcher();
  any_number_of_numbers_and_results();
  a_tangent_is_refused(spd(4));
  the_dispatcher_learns_to_differentiate();
  a_tangent_is_refused(spd(4));
  std::printf("fastsqrtm %s: %d failures\n", fastsqrtm::version().c_str(), failures);
  return failures != 0;
}

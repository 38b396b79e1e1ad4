// What a program without Python is promised: roots, gradients, refusals. Says what fails and goes on.
#include <fastsqrtm/autograd.h>

#include <cstdio>

using at::Tensor;
using fastsqrtm::RootOptions;

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
      const RootOptions options = RootOptions().method(method).backward(backward).degree(30).eps(0.5);
      const Tensor shifted = A + 0.5 * at::eye(6, at::kDouble);
      expect(at::allclose(fastsqrtm::sqrtm(A, options), fastsqrtm::sqrtm(shifted), 1e-2, 1e-2), method);
    }
  expect(at::allclose(fastsqrtm::sqrtm(A, RootOptions().method("ns").degree(20)), S), "Newton-Schulz");
  const Tensor X = fastsqrtm::lyapunov_newton(A, A.select(0, 0).unsqueeze(0));
  expect(at::allclose(A.matmul(X) + X.matmul(A), A.select(0, 0).expand_as(A)), "B X + X B = C, broadcast");
  expect(fastsqrtm::sqrtm(A.slice(0, 0, 0)).sizes() == at::IntArrayRef({0, 6, 6}), "an empty batch");
}

void gradients() {
  const Tensor A = spd(4).requires_grad_();
  const Tensor direction = at::randn_like(A), step = 1e-6 * (direction + direction.mT());
  const auto f = [](const Tensor& A) { return fastsqrtm::autograd::sqrtm(A, RootOptions().method("mpa")); };
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

void refusals() {
  const Tensor A = spd(4);
  expect_error("fastsqrtm.mpa_lya: A must be (..., n, n), got (3, 4)", [] { fastsqrtm::mpa_lya(at::ones({3, 4})); });
  expect_error("fastsqrtm.sqrtm: A must be (..., n, n), got (3,)",
               [] { fastsqrtm::sqrtm(at::ones({3}), RootOptions().method("mtp")); });
  expect_error("fastsqrtm.sqrtm: A must be a strided tensor, got sparse_coo",
               [] { fastsqrtm::sqrtm(at::eye(3).to_sparse()); });
  expect_error("fastsqrtm.lyapunov: C must be on the device of B (cpu), got meta",
               [] { fastsqrtm::lyapunov(at::eye(3), at::eye(3, at::kMeta)); });
  expect_error("fastsqrtm.sqrtm: method must be one of auto, mpa, mtp, ns, got 'svd'",
               [&] { fastsqrtm::sqrtm(A, RootOptions().method("svd")); });
  expect_error("fastsqrtm.inv_sqrtm: backward of method auto must be auto or one of exact, got 'lyapunov'",
               [&] { fastsqrtm::inv_sqrtm(A, RootOptions().backward("lyapunov")); });
  expect_error("fastsqrtm.sqrtm: degree is not an argument of method auto with backward exact, got 3",
               [&] { fastsqrtm::sqrtm(A, RootOptions().degree(3)); });
  expect_error("fastsqrtm.mpa: degree must be from 1 to 32, got 33",
               [&] { fastsqrtm::autograd::sqrtm(A, RootOptions().method("mpa").degree(33)); });
}

void the_dispatcher_learns_to_differentiate() {
  const Tensor A = spd(4).requires_grad_();
  expect_error(
      "fastsqrtm.mpa_lya: A requires a gradient: call the function of fastsqrtm::autograd, or hold an at::NoGradGuard",
      [&] { fastsqrtm::mpa_lya(A); });
  {
    at::NoGradGuard guard;
    expect(!fastsqrtm::mpa_lya(A).requires_grad(), "without a gradient");
  }
  const Tensor expected = gradient(fastsqrtm::autograd::mpa_lya(A), A);
  fastsqrtm::register_autograd();
  fastsqrtm::register_autograd();
  expect(at::equal(gradient(fastsqrtm::mpa_lya(A), A), expected), "register_autograd");
  expect(at::equal(gradient(fastsqrtm::autograd::mpa_lya(A), A), expected), "and not twice");
}

}  // namespace

int main() {
  expect(!fastsqrtm::version().empty(), "version");
  roots();
  gradients();
  refusals();
  the_dispatcher_learns_to_differentiate();
  std::printf("fastsqrtm %s: %d failures\n", fastsqrtm::version().c_str(), failures);
  return failures != 0;
}

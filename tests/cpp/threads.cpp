// Eight threads call every forward op at once and get what one thread gets. Needs no autograd, so that it can be run
// under ThreadSanitizer without the noise of a torch that is not built for it.
#include <fastsqrtm/fastsqrtm.h>

#include <cstdio>
#include <thread>

namespace {

std::vector<at::Tensor> results(const at::Tensor& A) {
  const auto [S, Z] = fastsqrtm::sqrtm_and_inv(A);
  return {fastsqrtm::mpa_lya(A),
          fastsqrtm::mtp_lya(A),
          fastsqrtm::mpa_lya_inv(A),
          fastsqrtm::mtp_lya_inv(A),
          fastsqrtm::sqrtm(A),
          fastsqrtm::inv_sqrtm(A, fastsqrtm::RootOptions().rtol(1e-3)),
          fastsqrtm::sqrtm(A, fastsqrtm::RootOptions().method("mpa").degree(7)),
          fastsqrtm::lyapunov(A, A),
          fastsqrtm::lyapunov_newton(A, A),
          fastsqrtm::ops::sqrtm_backward(S, A),
          fastsqrtm::ops::sqrtm_lya_backward(A, S, A),
          S,
          Z};
}

}  // namespace

int main() {
  constexpr int count = 8, rounds = 5;
  std::vector<at::Tensor> inputs;
  for (int i = 0; i < count; ++i) {
    const at::Tensor X = at::randn({6, 20, 40}, i % 2 ? at::kFloat : at::kDouble);
    inputs.push_back(X.matmul(X.mT()) / 40);
  }
  // The threads go first: what is set up on a first call is set up by eight at once.
  std::vector<std::vector<at::Tensor>> found(count);
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      for (int round = 0; round < rounds; ++round) found[i] = results(inputs[i]);
    });
  for (std::thread& thread : threads) thread.join();
  int different = 0;
  for (int i = 0; i < count; ++i) {
    const std::vector<at::Tensor> expected = results(inputs[i]);
    for (size_t k = 0; k < expected.size(); ++k) different += !at::equal(found[i][k], expected[k]);
  }
  std::printf("%d threads, %d results differ\n", count, different);
  return different != 0;
}

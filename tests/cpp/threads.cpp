// Eight threads call every op at once and get what one thread gets. This program needs no autograd, so that it can run
// under ThreadSanitizer without the noise of a torch that is not built for it.
#include <fastsqrtm/paper.h>

#include <cstdio>
#include <thread>

namespace {

template <class Op, std::size_t... i>
auto call(const Op& op, const at::Tensor& A, std::index_sequence<i...>) {
  return op((void(i), A)...);
}

void append(std::vector<at::Tensor>& list, const at::Tensor& x) { list.push_back(x); }
template <class... Results>
void append(std::vector<at::Tensor>& list, const std::tuple<Results...>& x) {
  std::apply([&](const auto&... result) { (list.push_back(result), ...); }, x);
}

std::vector<at::Tensor> results(const at::Tensor& A) {
  using namespace fastsqrtm;
  std::vector<at::Tensor> list = {inv_sqrtm(A, RootOptions().rtol(1e-3)), lyapunov(A, A), lyapunov_newton(A, A),
                                  paper::sqrtm(A, paper::Options().method("mpa").degree(7))};
  ops::for_each([&](const auto& op) {
    append(list, call(op, A, std::make_index_sequence<std::decay_t<decltype(op)>::signature.tensor_count()>{}));
  });
  return list;
}

}  // namespace

int main() {
  constexpr int count = 8, rounds = 5;
  std::vector<at::Tensor> inputs;
  for (int i = 0; i < count; ++i) {
    const at::Tensor X = at::randn({6, 20, 40}, i % 2 ? at::kFloat : at::kDouble);
    inputs.push_back(X.matmul(X.mT()) / 40);
  }
  // The threads go first, so that eight of them at once do the set-up of the first call.
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

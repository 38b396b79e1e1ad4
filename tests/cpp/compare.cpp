// compare <in> <out>, or compare(in, out) in a Python process: writes the results of C++ for inputs from Python, which
// tests/test_cpp.py compares with those of Python. In: {case: [*tensor inputs, *cotangents of the differentiable
// results, *cotangents of the gradients]}, a case being "<op>" and anything after a space. Out: {case: [*plain results,
// *results, *gradients, *gradients of the gradients]}.
#include <fastsqrtm/autograd.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>
#include <iterator>

using at::Tensor;
using torch::autograd::variable_list;

namespace {

template <class Op, std::size_t... i>
variable_list call(const Op& op, const variable_list& x, std::index_sequence<i...>) {
  return fastsqrtm::autograd::detail::as_list(op(x[i]...));
}

template <class Op>
c10::List<Tensor> results(const Op& op, const variable_list& given) {
  const fastsqrtm::detail::Op<Op::signature, fastsqrtm::detail::Dispatched> plain{};
  constexpr std::make_index_sequence<Op::signature.tensor_count()> all{};
  variable_list inputs(given.begin(), given.begin() + all.size()), found, cotangents;
  c10::List<Tensor> out;
  for (const Tensor& x : call(plain, inputs, all)) out.push_back(x);
  for (Tensor& x : inputs) x = x.detach().requires_grad_();
  for (const Tensor& x : call(op, inputs, all)) {
    out.push_back(x.detach());
    if (!x.requires_grad()) continue;
    cotangents.push_back(given[all.size() + found.size()].detach().requires_grad_());
    found.push_back(x);
  }
  const variable_list first = torch::autograd::grad(found, inputs, cotangents, true, true, true);
  Tensor sum;
  for (size_t i = 0; i < first.size(); ++i) {
    if (!first[i].defined()) continue;
    out.push_back(first[i].detach());
    const Tensor term = (first[i] * given[all.size() + found.size() + i]).sum();
    sum = sum.defined() ? sum + term : term;
  }
  inputs.insert(inputs.end(), cotangents.begin(), cotangents.end());
  for (const Tensor& x : torch::autograd::grad({sum}, inputs, {}, false, false, true))
    if (x.defined()) out.push_back(x);
  return out;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void compare(const char* from, const char* to) {
  std::ifstream in(from, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
  c10::Dict<std::string, c10::List<Tensor>> out;
  const auto cases = torch::jit::pickle_load(bytes).toGenericDict();
  for (const auto& item : cases) {
    const std::string name = item.key().toStringRef();
    variable_list given;
    for (const c10::IValue& x : item.value().toListRef()) given.push_back(x.toTensor());
    fastsqrtm::autograd::ops::for_each([&](const auto& op) {
      if (op.signature.name == name.substr(0, name.find(' '))) out.insert(name, results(op, given));
    });
  }
  const std::vector<char> written = torch::jit::pickle_save(out);
  std::ofstream(to, std::ios::binary).write(written.data(), std::streamsize(written.size()));
}

int main(int count, char** arguments) {
  if (count != 3) return 2;
  compare(arguments[1], arguments[2]);
}

// compare <in> <out>, or compare(in, out) in a Python process: what C++ gives for inputs from Python, for
// tests/test_cpp.py to compare with what Python gives. In: {case: [*tensor inputs, cotangent, *cotangents of the
// gradients]}, a case being "<op>" and anything after a space. Out: {case: [plain result, result, *gradients,
// *gradients of the gradients]}.
#include <fastsqrtm/autograd.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>
#include <functional>
#include <iterator>
#include <map>

using at::Tensor;
using torch::autograd::variable_list;

namespace {

struct Op {
  size_t inputs;
  std::function<Tensor(const variable_list&)> call;
};

template <class Ops>
std::map<std::string, Op> table() {
#define OP1(name)                                               \
  {                                                             \
    #name, {                                                    \
      1, [](const variable_list& x) { return Ops::name(x[0]); } \
    }                                                           \
  }
#define OP2(name)                                                     \
  {                                                                   \
    #name, {                                                          \
      2, [](const variable_list& x) { return Ops::name(x[0], x[1]); } \
    }                                                                 \
  }
#define OP3(name)                                                           \
  {                                                                         \
    #name, {                                                                \
      3, [](const variable_list& x) { return Ops::name(x[0], x[1], x[2]); } \
    }                                                                       \
  }
  return {OP1(mpa_lya),
          OP1(mtp_lya),
          OP1(mpa_lya_inv),
          OP1(mtp_lya_inv),
          OP1(sqrtm),
          OP1(inv_sqrtm),
          OP1(sqrtm_and_inv),
          OP1(mpa),
          OP1(mtp),
          OP1(mpa_inv),
          OP1(mtp_inv),
          OP1(ns),
          OP1(ns_inv),
          OP2(lyapunov),
          OP2(lyapunov_newton),
          OP3(sqrtm_lya_backward),
          OP2(inv_sqrtm_lya_backward),
          OP2(sqrtm_backward),
          OP2(inv_sqrtm_backward),
          OP2(sqrtm_and_inv_backward),
          OP2(mpa_backward),
          OP2(mtp_backward),
          OP2(mpa_inv_backward),
          OP2(mtp_inv_backward),
          OP2(ns_backward),
          OP2(ns_inv_backward)};
}

c10::List<Tensor> results(const std::string& name, const variable_list& given) {
  const Op plain = table<fastsqrtm::ops>().at(name), differentiable = table<fastsqrtm::autograd::ops>().at(name);
  variable_list inputs(given.begin(), given.begin() + plain.inputs);
  const variable_list cotangents(given.begin() + plain.inputs, given.end());
  c10::List<Tensor> out;
  out.push_back(plain.call(inputs));
  for (Tensor& x : inputs) x = x.detach().requires_grad_();
  const Tensor result = differentiable.call(inputs);
  out.push_back(result.detach());
  const Tensor cotangent = cotangents[0].detach().requires_grad_();
  const variable_list first = torch::autograd::grad({result}, inputs, {cotangent}, true, true, true);
  Tensor sum;
  for (size_t i = 0; i < first.size(); ++i) {
    if (!first[i].defined()) continue;
    out.push_back(first[i].detach());
    const Tensor term = (first[i] * cotangents[1 + i]).sum();
    sum = sum.defined() ? sum + term : term;
  }
  inputs.push_back(cotangent);
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
    out.insert(name, results(name.substr(0, name.find(' ')), given));
  }
  const std::vector<char> written = torch::jit::pickle_save(out);
  std::ofstream(to, std::ios::binary).write(written.data(), std::streamsize(written.size()));
}

int main(int count, char** arguments) {
  if (count != 3) return 2;
  compare(arguments[1], arguments[2]);
}

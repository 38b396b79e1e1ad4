// Runs a model that save_model.py wrote, in a program without Python:
//
//     run_model whiten.pt input.pt output.pt     TorchScript; writes the result and a gradient through the model
//     run_model whiten.pt2 input.pt output.pt    torch.export and AOTInductor; writes the result
//
// Linking to fastsqrtm::fastsqrtm puts the ops into the dispatcher; the program includes a header of fastsqrtm only for
// the gradient.
#include <fastsqrtm/autograd.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>

int main(int count, char** arguments) {
  TORCH_CHECK(count == 4, "usage: run_model <model> <input> <output>");
  const std::string model = arguments[1];
  std::ifstream file(arguments[2], std::ios::binary);
  at::Tensor input = torch::jit::pickle_load(std::vector<char>{std::istreambuf_iterator<char>(file), {}}).toTensor();

  std::vector<at::Tensor> output;
  if (model.substr(model.rfind('.')) == ".pt2") {
    output = torch::inductor::AOTIModelPackageLoader(model).run({input});
  } else {
    fastsqrtm::register_autograd();  // training through a TorchScript module
    torch::jit::Module module = torch::jit::load(model);
    input.requires_grad_();
    const at::Tensor result = module.forward({input}).toTensor();
    result.pow(3).sum().backward();
    output = {result.detach(), input.grad()};
  }
  std::cout << model << ": " << output[0].sizes() << ", norm " << output[0].norm().item<double>() << "\n";
  const std::vector<char> bytes =
      torch::jit::pickle_save(c10::ivalue::Tuple::create(std::vector<c10::IValue>(output.begin(), output.end())));
  std::ofstream(arguments[3], std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}

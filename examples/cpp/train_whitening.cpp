// Trains a classifier with a whitening layer in the middle, on the breast cancer data of scikit-learn:
//
//     train_whitening $(python -c 'import sklearn; print(sklearn.__path__[0])')/datasets/data/breast_cancer.csv
#include <fastsqrtm/autograd.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>
#include <sstream>

// Features with mean 0 and covariance I in every batch; afterwards with the running mean and covariance.
struct Whitening : torch::nn::Module {
  explicit Whitening(int64_t features) {
    mean = register_buffer("mean", torch::zeros(features));
    covariance = register_buffer("covariance", torch::eye(features));
  }

  torch::Tensor forward(const torch::Tensor& x) {
    if (!is_training()) return (x - mean).matmul(inverse_root(covariance));
    const torch::Tensor centred = x - x.mean(0);
    const torch::Tensor batch_covariance = centred.t().matmul(centred) / x.size(0);
    mean.lerp_(x.mean(0).detach(), 0.1);
    covariance.lerp_(batch_covariance.detach(), 0.1);
    return centred.matmul(inverse_root(batch_covariance));
  }

  static torch::Tensor inverse_root(const torch::Tensor& A) {
    return fastsqrtm::autograd::inv_sqrtm(A, fastsqrtm::RootOptions().eps(1e-4));
  }

  torch::Tensor mean, covariance;
};

// Rows of numbers, the last one the class; the first line gives their shape.
torch::Tensor read_csv(const char* path) {
  std::ifstream file(path);
  std::string line, cell;
  std::getline(file, line);
  std::vector<float> values;
  int64_t rows = 0;
  for (; std::getline(file, line); ++rows)
    for (std::istringstream cells(line); std::getline(cells, cell, ',');) values.push_back(std::stof(cell));
  TORCH_CHECK(rows > 0, "no data in ", path);
  return torch::tensor(values).view({rows, -1});
}

int main(int count, char** arguments) {
  TORCH_CHECK(count == 2, "usage: train_whitening breast_cancer.csv");
  torch::manual_seed(0);
  torch::Tensor data = read_csv(arguments[1]);
  data = data.index_select(0, torch::randperm(data.size(0)));
  const torch::Tensor x = data.slice(1, 0, -1), labels = data.select(1, -1).to(torch::kLong);
  const torch::Tensor scaled = (x - x.mean(0)) / x.std(0);
  const int64_t training = data.size(0) * 3 / 4, features = 8;
  const torch::Tensor train_x = scaled.slice(0, 0, training), train_labels = labels.slice(0, 0, training);
  const torch::Tensor test_x = scaled.slice(0, training), test_labels = labels.slice(0, training);

  const auto whitening = std::make_shared<Whitening>(features);
  torch::nn::Sequential network(torch::nn::Linear(x.size(1), features), whitening, torch::nn::Linear(features, 2));
  torch::optim::Adam optimizer(network->parameters(), torch::optim::AdamOptions(0.02));
  for (int step = 0; step <= 100; ++step) {
    const torch::Tensor loss = torch::cross_entropy_loss(network->forward(train_x), train_labels);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    if (step % 25 == 0) std::cout << "step " << step << "  loss " << loss.item<float>() << "\n";
  }

  torch::NoGradGuard guard;
  const torch::Tensor white = whitening->forward(network[0]->as<torch::nn::Linear>()->forward(train_x));
  const float departure = (white.t().matmul(white) / training - torch::eye(features)).abs().max().item<float>();
  network->eval();
  const float accuracy = (network->forward(test_x).argmax(1) == test_labels).to(torch::kFloat).mean().item<float>();
  std::cout << "whitened covariance, largest departure from I: " << departure << "\n";
  std::cout << "accuracy on " << test_x.size(0) << " cases not trained on: " << accuracy << "\n";
  return accuracy > 0.9 && departure < 0.05 ? 0 : 1;
}

#include "cuda/launch.h"

#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>

namespace fastsqrtm {
namespace cuda {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error, which the next launch would report as its own
  throw std::runtime_error(std::string("fastsqrtm: CUDA: ") + what + ": " + cudaGetErrorString(error));
}

DeviceLimits device_limits(int device) {
  static std::mutex mutex;
  static std::unordered_map<int, DeviceLimits> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  int shared = 0, multiprocessors = 0;
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "device attribute");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "device attribute");
  return known[device] = {static_cast<std::size_t>(shared), multiprocessors};
}

}  // namespace cuda
}  // namespace fastsqrtm

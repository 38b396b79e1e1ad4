// Every op, one line each. Counterpart in Python, used when this library is absent: fastsqrtm/_schema.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastsqrtm, m) {
  m.def("mpa_lya(Tensor A, int degree=5, int iterations=8) -> Tensor");
  m.def("mtp_lya(Tensor A, int degree=10, int iterations=8) -> Tensor");
  m.def("mpa_lya_inv(Tensor A, int degree=5, int iterations=8) -> Tensor");
  m.def("mtp_lya_inv(Tensor A, int degree=10, int iterations=8) -> Tensor");
  m.def("lyapunov(Tensor B, Tensor C, int iterations=8) -> Tensor");
  m.def("sqrtm_lya_backward(Tensor A, Tensor S, Tensor G, int iterations=8) -> Tensor");
  m.def("inv_sqrtm_lya_backward(Tensor Z, Tensor G, int iterations=8) -> Tensor");
}

// Every op, one line each. Counterpart in Python, used when this library is absent: fastsqrtm/_schema.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastsqrtm, m) {
  m.def("mpa_lya(Tensor A, int degree=5, int iterations=8) -> Tensor");
  m.def("mtp_lya(Tensor A, int degree=10, int iterations=8) -> Tensor");
  m.def("mpa_lya_inv(Tensor A, int degree=5, int iterations=8) -> Tensor");
  m.def("mtp_lya_inv(Tensor A, int degree=10, int iterations=8) -> Tensor");
  m.def("lyapunov(Tensor B, Tensor C, int iterations=8) -> Tensor");
  m.def("sqrtm(Tensor A, float rtol=0.) -> Tensor");
  m.def("inv_sqrtm(Tensor A, float rtol=0.) -> Tensor");
  m.def("sqrtm_and_inv(Tensor A, float rtol=0.) -> Tensor");
  m.def("mpa(Tensor A, int degree=5) -> Tensor");
  m.def("mtp(Tensor A, int degree=10) -> Tensor");
  m.def("mpa_inv(Tensor A, int degree=5) -> Tensor");
  m.def("mtp_inv(Tensor A, int degree=10) -> Tensor");
  m.def("ns(Tensor A, int iterations=5) -> Tensor");
  m.def("ns_inv(Tensor A, int iterations=5) -> Tensor");
  m.def("lyapunov_newton(Tensor B, Tensor C, float rtol=0.) -> Tensor");
  m.def("sqrtm_lya_backward(Tensor A, Tensor S, Tensor G, int iterations=8) -> Tensor");
  m.def("inv_sqrtm_lya_backward(Tensor Z, Tensor G, int iterations=8) -> Tensor");
  m.def("sqrtm_backward(Tensor S, Tensor G, float rtol=0.) -> Tensor");
  m.def("inv_sqrtm_backward(Tensor Z, Tensor G, float rtol=0.) -> Tensor");
  m.def("sqrtm_and_inv_backward(Tensor R, Tensor G, float rtol=0.) -> Tensor");
  m.def("mpa_backward(Tensor A, Tensor G, int degree=5) -> Tensor");
  m.def("mtp_backward(Tensor A, Tensor G, int degree=10) -> Tensor");
  m.def("mpa_inv_backward(Tensor A, Tensor G, int degree=5) -> Tensor");
  m.def("mtp_inv_backward(Tensor A, Tensor G, int degree=10) -> Tensor");
  m.def("ns_backward(Tensor A, Tensor G, int iterations=5) -> Tensor");
  m.def("ns_inv_backward(Tensor A, Tensor G, int iterations=5) -> Tensor");
}

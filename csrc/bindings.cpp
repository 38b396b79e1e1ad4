// The module fastsqrtm._C: what is not a tensor op. No torch header, so it loads whatever torch there is.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "build_info.h"
#include "cpu/plan.h"
#include "cuda/plan.h"
#include "scalars/coefficients.h"
#include "scalars/zolotarev.h"

namespace fastsqrtm {
namespace {

namespace py = pybind11;

void check_degree(const char* function, int degree, int lowest, int highest) {
  if (degree < lowest || degree > highest) {
    throw py::value_error("fastsqrtm." + std::string(function) + ": degree must be " + std::to_string(lowest) + " to " +
                          std::to_string(highest) + ", got " + std::to_string(degree));
  }
}

py::object build_info() { return py::module_::import("json").attr("loads")(build_info_json); }

std::vector<std::pair<double, double>> pade_terms(int degree) {
  check_degree("pade_terms", degree, 1, max_pade_degree);
  std::vector<std::pair<double, double>> terms;
  for (int j = 1; j <= degree; ++j) {
    const PadeTerm term = pade_term(degree, j);
    terms.emplace_back(term.shift, term.weight);
  }
  return terms;
}

std::vector<double> taylor_coefficients(int degree, double power) {
  check_degree("taylor_coefficients", degree, 0, max_taylor_degree);
  std::vector<double> coefficients = {1.0};
  for (int k = 1; k <= degree; ++k) coefficients.push_back(taylor_next(coefficients.back(), k, power));
  return coefficients;
}

py::dict plan(int64_t batch, int64_t n, int element_bytes, int threads) {
  if (batch < 0 || n < 0 || threads < 1 || (element_bytes != 4 && element_bytes != 8)) {
    throw py::value_error("fastsqrtm.plan: expected batch >= 0, n >= 0, element_bytes 4 or 8 and threads >= 1");
  }
  const CpuPlan plan = plan_cpu(batch, n, element_bytes, threads, 5);
  return py::dict(py::arg("capability") = plan.capability, py::arg("alone") = plan.alone,
                  py::arg("shared") = plan.shared, py::arg("threads") = plan.threads, py::arg("workers") = plan.workers,
                  py::arg("workspace_bytes") = plan.workspace_bytes);
}

py::dict design(double rtol, int element_bytes) {
  const RootDesign& design = root_design(rtol, element_bytes);
  std::vector<std::pair<double, double>> terms;
  for (int j = 0; j < design.poles; ++j) terms.emplace_back(design.shifts[j], design.weights[j]);
  return py::dict(py::arg("constant") = design.constant, py::arg("terms") = terms,
                  py::arg("scales") = std::vector<double>(design.scales, design.scales + design.newton_steps),
                  py::arg("error") = design.error);
}

py::object plan_cuda(const std::string& op, int64_t batch, int64_t n, int element_bytes, std::size_t shared_per_block,
                     int multiprocessors, int degree) {
  const std::pair<const char*, cuda::Fused> ops[] = {{"mpa", cuda::Fused::mpa},
                                                     {"mtp", cuda::Fused::mtp},
                                                     {"ns", cuda::Fused::ns},
                                                     {"sqrtm_lya_backward", cuda::Fused::sqrtm_lya_backward},
                                                     {"inv_sqrtm_lya_backward", cuda::Fused::inv_sqrtm_lya_backward},
                                                     {"lyapunov", cuda::Fused::lyapunov},
                                                     {"mpa_backward", cuda::Fused::mpa_backward},
                                                     {"mtp_backward", cuda::Fused::mtp_backward},
                                                     {"ns_backward", cuda::Fused::ns_backward},
                                                     {"accurate_roots", cuda::Fused::accurate_roots},
                                                     {"accurate_backward", cuda::Fused::accurate_backward},
                                                     {"lyapunov_newton", cuda::Fused::lyapunov_newton}};
  for (const auto& [name, fused] : ops) {
    if (op != name) continue;
    const cuda::FusedPlan plan =
        plan_fused(fused, batch, n, element_bytes, degree, {shared_per_block, multiprocessors});
    if (plan.variant < 0) return py::dict(py::arg("kernel") = py::none());
    const cuda::Shape& shape = (element_bytes == 8 ? cuda::double_shapes : cuda::float_shapes)[plan.variant];
    return py::dict(py::arg("kernel") = op + "_kernel", py::arg("padded") = shape.padded, py::arg("tile") = shape.tile,
                    py::arg("threads") = shape.threads * plan.groups * plan.matrices_per_block,
                    py::arg("matrices_per_block") = plan.matrices_per_block, py::arg("blocks") = plan.blocks,
                    py::arg("shared_bytes") = plan.shared_bytes);
  }
  throw py::value_error("fastsqrtm.plan_cuda: no fused kernel is called " + op);
}

}  // namespace
}  // namespace fastsqrtm

PYBIND11_MODULE(_C, m) {
  using namespace fastsqrtm;
  m.doc() = "Build information, plans and coefficients.";
  m.def("build_info", &build_info, "What this build was made with and for.");
  m.def(
      "cpu_capability", [] { return cpu_capability().name; },
      "The instruction set the CPU kernels use on this machine.");
  m.def("plan", &plan, py::arg("batch"), py::arg("n"), py::arg("element_bytes"), py::arg("threads"),
        "How a batch is computed: see CpuPlan in csrc/plan.h. Half types have the element_bytes of float32, 4.");
  m.def("plan_cuda", &plan_cuda, py::arg("op"), py::arg("batch"), py::arg("n"), py::arg("element_bytes"),
        py::arg("shared_per_block"), py::arg("multiprocessors"), py::arg("degree") = 5,
        "Variant and grid of a fused kernel: see plan_fused in csrc/cuda/variants.h; kernel None: the library path.");
  m.def("pade_terms", &pade_terms, py::arg("degree"), "[(shift, weight)] of the Pade approximant [degree, degree].");
  m.def("root_design", &design, py::arg("rtol"), py::arg("element_bytes"),
        "The scalars of the accurate roots for a tolerance: see csrc/zolotarev.h.");
  m.def("taylor_coefficients", &taylor_coefficients, py::arg("degree"), py::arg("power"),
        "Coefficients of (1 - z)^power up to z^degree.");
}

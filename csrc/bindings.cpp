// The module fastsqrtm._C: everything but the tensor ops. It includes no torch header, so it loads with any torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// The passes of the CPU say how much workspace they take; nothing of theirs is compiled here.
#define FASTSQRTM_ISA described
#include "build_info.h"
#include "cpu/passes/roots.h"
#include "cpu/plan.h"
#include "cuda_passes.h"  // made by cmake/passes.cmake
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
  const int vector_bytes = cpu_capability().vector_bytes;
  const int64_t bytes = workspace_bytes(n, described::Roots::matrices, vector_bytes, element_bytes);
  const CpuPlan plan = plan_cpu(batch, n, n, element_bytes, threads, demand_of(n, vector_bytes / element_bytes, bytes));
  return py::dict(py::arg("path") = path_name(plan.path), py::arg("capability") = plan.capability,
                  py::arg("alone") = plan.alone, py::arg("shared") = plan.shared, py::arg("threads") = plan.threads,
                  py::arg("team") = plan.team, py::arg("workers") = plan.workers,
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

template <class Pass>
py::dict plan_of_pass(const std::string& name, int64_t batch, int64_t n, int element_bytes, int terms,
                      const cuda::DeviceLimits& device) {
  const cuda::Plan plan = cuda::plan_pass<Pass>(batch, n, element_bytes, terms, device);
  const char* path = path_name(plan.path);
  if (plan.path == Path::library) return py::dict(py::arg("path") = path, py::arg("kernel") = py::none());
  if (plan.path == Path::tiny)  // a thread has the whole matrix
    return py::dict(py::arg("path") = path, py::arg("kernel") = name, py::arg("padded") = n, py::arg("tile") = n,
                    py::arg("threads") = plan.matrices_per_block,
                    py::arg("matrices_per_block") = plan.matrices_per_block, py::arg("blocks") = plan.blocks,
                    py::arg("shared_bytes") = plan.shared_bytes);
  const cuda::Shape& shape = cuda::shape_of(plan, element_bytes);
  return py::dict(py::arg("path") = path, py::arg("kernel") = name, py::arg("padded") = shape.padded,
                  py::arg("tile") = shape.tile,
                  py::arg("threads") = shape.threads * plan.teams * plan.matrices_per_block,
                  py::arg("matrices_per_block") = plan.matrices_per_block, py::arg("blocks") = plan.blocks,
                  py::arg("shared_bytes") = plan.shared_bytes);
}

py::dict plan_cuda(const std::string& name, int64_t batch, int64_t n, int element_bytes, std::size_t shared_per_block,
                   int multiprocessors, int terms) {
  const cuda::DeviceLimits device = {shared_per_block, multiprocessors};
#define PASS(Type, file) \
  if (name == #Type) return plan_of_pass<cuda::Type>(name, batch, n, element_bytes, terms, device);
#include "ops.def"
  throw py::value_error("fastsqrtm.plan_cuda: no pass is called " + name);
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
  m.def("cpu_family", &cpu_family, "Vendor and family of the processor, as CPUID has them.");
  m.def("plan", &plan, py::arg("batch"), py::arg("n"), py::arg("element_bytes"), py::arg("threads"),
        "How a batch is computed: see CpuPlan in csrc/cpu/plan.h. Half types have the element_bytes of float32, 4.");
  m.def("plan_cuda", &plan_cuda, py::arg("name"), py::arg("batch"), py::arg("n"), py::arg("element_bytes"),
        py::arg("shared_per_block"), py::arg("multiprocessors"), py::arg("terms") = 5,
        "The kernel of a pass of ops.def and its grid: see plan_pass in csrc/cuda/plan.h. kernel None: the library "
        "path.");
  m.def("pade_terms", &pade_terms, py::arg("degree"), "[(shift, weight)] of the Pade approximant [degree, degree].");
  m.def("root_design", &design, py::arg("rtol"), py::arg("element_bytes"),
        "The scalars of the accurate roots for a tolerance: see csrc/scalars/zolotarev.h.");
  m.def("taylor_coefficients", &taylor_coefficients, py::arg("degree"), py::arg("power"),
        "Coefficients of (1 - z)^power up to z^degree.");
}

// The table of passes. Compiled once for each instruction set (FASTSQRTM_ISA).
#include "cpu/kernels.h"

#include "cpu/tiny.h"
#include "cpu_passes.h"  // made by cmake/passes.cmake: every header that ops.def names

namespace fastsqrtm {
namespace FASTSQRTM_ISA {
namespace {

template <class Pass, class T, class Storage>
void run_as(const Task& task, const typename Pass::Arguments& arguments, void* workspace, const Team& team) {
  Pass::template run<T, Storage>(task, arguments, Workspace<T>{workspace, task.n}, team);
}

template <class Pass>
void run(Element element, const Task& task, const typename Pass::Arguments& arguments, void* workspace,
         const Team& team) {
  switch (element) {
    case Element::float32:
      return run_as<Pass, float, float>(task, arguments, workspace, team);
    case Element::float64:
      return run_as<Pass, double, double>(task, arguments, workspace, team);
    case Element::float16:
      return run_as<Pass, float, Half>(task, arguments, workspace, team);
    case Element::bfloat16:
      return run_as<Pass, float, BFloat16>(task, arguments, workspace, team);
  }
}

template <class Pass>
void run_tiny(Element element, const Batch& batch, int64_t first, int64_t last,
              const typename Pass::Arguments& arguments, void* workspace) {
  const auto run_one = [](Element element, const Task& task, const void* arguments, void* workspace) {
    run<Pass>(element, task, *static_cast<const typename Pass::Arguments*>(arguments), workspace, Team());
  };
  const auto in_type = [&](auto zero) {
    using T = decltype(zero);
    return tiny_pass<Pass, T>(batch.n, arguments, run_one, std::make_integer_sequence<int, largest_tiny_order>{});
  };
  switch (element) {
    case Element::float32:
      return run_groups<float, float>(element, batch, first, last, in_type(0.f), workspace);
    case Element::float64:
      return run_groups<double, double>(element, batch, first, last, in_type(0.), workspace);
    case Element::float16:
      return run_groups<float, Half>(element, batch, first, last, in_type(0.f), workspace);
    case Element::bfloat16:
      return run_groups<float, BFloat16>(element, batch, first, last, in_type(0.f), workspace);
  }
}

}  // namespace

const Kernels kernels = {
#define PASS(Type, file) {Type::matrices, Type::adds_to_output, &run<Type>, &run_tiny<Type>},
#include "ops.def"
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

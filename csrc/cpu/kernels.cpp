// The table of passes. Compiled once for each instruction set (FASTSQRTM_ISA).
#include "cpu/kernels.h"

#include "cpu/tiny.h"
#include "cpu_passes.h"  // made by cmake/passes.cmake: every header that ops.def names

namespace fastsqrtm {
namespace FASTSQRTM_ISA {
namespace {

// Most passes have workspace for so many `matrices`; they take square matrices one by one, and tiny ones as many as a
// vector has lanes. Others say what they take.
template <class Pass>
Demand demand(Element element, int m, int n, const typename Pass::Arguments& arguments) {
  const int bytes = compute_bytes(element);
  if constexpr (Pass::matrices > 0)
    return demand_of(n, FASTSQRTM_VECTOR_BYTES / bytes,
                     workspace_bytes(n, Pass::matrices, FASTSQRTM_VECTOR_BYTES, bytes));
  else
    return bytes == 8 ? Pass::template demand<double>(m, n, arguments) : Pass::template demand<float>(m, n, arguments);
}

template <class Pass, class T, class Storage>
void run_as(const Task* tasks, int count, const typename Pass::Arguments& arguments, void* workspace,
            const Team& team) {
  if constexpr (Pass::matrices > 0)
    Pass::template run<T, Storage>(*tasks, arguments, Workspace<T>{workspace, tasks->n}, team);
  else
    Pass::template run<T, Storage>(tasks, count, arguments, workspace, team);
}

template <class Pass>
void run(Element element, const Task* tasks, int count, const typename Pass::Arguments& arguments, void* workspace,
         const Team& team) {
  switch (element) {
    case Element::float32:
      return run_as<Pass, float, float>(tasks, count, arguments, workspace, team);
    case Element::float64:
      return run_as<Pass, double, double>(tasks, count, arguments, workspace, team);
    case Element::float16:
      return run_as<Pass, float, Half>(tasks, count, arguments, workspace, team);
    case Element::bfloat16:
      return run_as<Pass, float, BFloat16>(tasks, count, arguments, workspace, team);
  }
}

template <class Pass>
void run_tiny(Element element, const Batch& batch, int64_t first, int64_t last,
              const typename Pass::Arguments& arguments, void* workspace, int64_t workspace_bytes) {
  const auto run_one = [](Element element, const Task& task, const void* arguments, void* workspace) {
    run<Pass>(element, &task, 1, *static_cast<const typename Pass::Arguments*>(arguments), workspace, Team());
  };
  const auto in_type = [&](auto zero) {
    using T = decltype(zero);
    return tiny_pass<Pass, T>(batch.n, arguments, run_one, std::make_integer_sequence<int, largest_unrolled_order>{});
  };
  switch (element) {
    case Element::float32:
      return run_groups<float, float>(element, batch, first, last, in_type(0.f), workspace, workspace_bytes);
    case Element::float64:
      return run_groups<double, double>(element, batch, first, last, in_type(0.), workspace, workspace_bytes);
    case Element::float16:
      return run_groups<float, Half>(element, batch, first, last, in_type(0.f), workspace, workspace_bytes);
    case Element::bfloat16:
      return run_groups<float, BFloat16>(element, batch, first, last, in_type(0.f), workspace, workspace_bytes);
  }
}

template <class Pass>
constexpr auto run_tiny_of() -> decltype(&run_tiny<Pass>) {
  if constexpr (Pass::matrices > 0)
    return &run_tiny<Pass>;
  else
    return nullptr;
}

}  // namespace

const Kernels kernels = {
#define PASS(Type, file) {Type::adds_to_output, &demand<Type>, &run<Type>, run_tiny_of<Type>()},
#include "ops.def"
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

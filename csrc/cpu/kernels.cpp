// The table of passes. Compiled once for each instruction set (FASTSQRTM_ISA).
#include "cpu/kernels.h"

#include "cpu_passes.h"  // made by cmake/passes.cmake: every header that ops.def names

namespace fastsqrtm {
namespace FASTSQRTM_ISA {
namespace {

// Most passes take square matrices one by one, with room for so many `matrices`. Others say what they take.
template <class Pass>
Demand demand(Element element, int m, int n, const typename Pass::Arguments& arguments) {
  const int bytes = compute_bytes(element);
  if constexpr (Pass::matrices > 0)
    return {1, workspace_bytes(n, Pass::matrices, FASTSQRTM_VECTOR_BYTES, bytes)};
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

}  // namespace

const Kernels kernels = {
#define PASS(Type, file) {Type::adds_to_output, &demand<Type>, &run<Type>},
#include "ops.def"
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

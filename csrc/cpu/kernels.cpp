// The table of passes. Compiled once for each instruction set (FASTSQRTM_ISA).
#include "cpu/kernels.h"

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

}  // namespace

const Kernels kernels = {
#define PASS(Type, file) {Type::matrices, Type::adds_to_output, &run<Type>},
#include "ops.def"
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// The path for large matrices on the device, by cuBLAS and cuSOLVER. No torch header.
#pragma once

#include "cuda/launch.h"

namespace fastsqrtm {
namespace cuda {

#define PASS(Type, file) void run_by_library(const passes::Type& pass, const Operands& operands, Context& context);
#include "ops.def"

}  // namespace cuda
}  // namespace fastsqrtm

// The passes for ops.cpp: one table for each instruction set, one row for each PASS of ops.def.
#pragma once

#include <cstdint>

#include "cpu/matrix/team.h"
#include "cpu/plan.h"
#include "element.h"
#include "passes.h"

namespace fastsqrtm {

// Element (i, j) of an input is data[i * row_stride + j * column_stride]. An absent input has data == nullptr.
struct MatrixIn {
  const void* data;
  int64_t row_stride, column_stride;
};

constexpr int most_lanes = 16;  // of any instruction set and type

// One m x n matrix of a batch: its inputs and outputs in the order of passes.h. Outputs are contiguous, or nullptr.
struct Task {
  int m, n;
  MatrixIn in[max_inputs];
  void* out[max_outputs];
};

// A batch of square matrices that lie at equal distances, in elements; outputs are contiguous.
struct BatchIn {
  const void* data;
  int64_t matrix_stride, row_stride, column_stride;
};
struct Batch {
  int n;
  int64_t matrices;
  BatchIn in[max_inputs];
  struct Out {
    void* data;
    int64_t bytes;  // of one matrix, or of the number that belongs to it
  } out[max_outputs];
};

// `workspace` is aligned to 64 bytes and zero before its first use: old bits in the padding would not harm the results,
// but denormal numbers are slow.
template <class Arguments>
struct Kernel {
  bool adds_to_output;  // writes its output twice, so that half types would be rounded twice
  Demand (*demand)(Element, int m, int n, const Arguments&);
  void (*run)(Element, const Task* tasks, int count, const Arguments&, void* workspace, const Team&);
  // Path::tiny: matrices first, ..., last - 1, side by side in the lanes of vectors. nullptr if `run` does that itself.
  // The workspace is for those that go by `run`, and is zeroed for the first of them.
  void (*run_tiny)(Element, const Batch&, int64_t first, int64_t last, const Arguments&, void* workspace,
                   int64_t workspace_bytes);
};

struct Kernels {
#define PASS(Type, file) Kernel<passes::Type> Type;
#include "ops.def"
};

#define PASS(Type, file) \
  inline const Kernel<passes::Type>& kernel_of(const Kernels& kernels, const passes::Type&) { return kernels.Type; }
#include "ops.def"

namespace baseline {
extern const Kernels kernels;
}
#ifdef FASTSQRTM_HAVE_X86_ISAS
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

}  // namespace fastsqrtm

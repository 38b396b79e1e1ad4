// What ops.cpp calls: whole forward and whole backward passes of one matrix, one table for each instruction set.
#pragma once

#include <cstdint>

#include "cpu/matrix/team.h"
#include "scalars/zolotarev.h"

namespace fastsqrtm {

enum class Element { float32, float64, float16, bfloat16 };

// Element (i, j) of an input is data[i * row_stride + j * column_stride]; outputs are contiguous n x n.
struct MatrixIn {
  const void* data;
  int64_t row_stride, column_stride;
};

// A forward method and its scalars (coefficients.h), made once for the batch.
struct RootMethod {
  enum class Kind { pade, taylor, newton_schulz } kind;
  bool inverse;                    // A^(-1/2) or A^(1/2)
  int degree;                      // newton_schulz: the number of steps
  const double *shifts, *weights;  // pade: t_1..t_degree and w_1..w_degree
  const double* coefficients;      // taylor: c_0..c_degree
};

// What the accurate backward pass gets: S = A^(1/2), Z = A^(-1/2) and their cotangents; data == nullptr: not there.
struct Cotangents {
  MatrixIn S, Z, G, H;
};

// The workspace of a pass (workspace_bytes in layout.h) is aligned to 64 bytes and zero before its first use: padding
// that holds old bits would do no harm to results, but denormal numbers are slow.
struct Kernels {
  void (*root)(Element, int n, const RootMethod&, MatrixIn A, void* out, void* workspace, const Team&);
  void (*sqrtm_lya_backward)(Element, int n, int iterations, MatrixIn A, MatrixIn S, MatrixIn G, void* out,
                             void* workspace, const Team&);
  void (*inv_sqrtm_lya_backward)(Element, int n, int iterations, MatrixIn Z, MatrixIn G, void* out, void* workspace,
                                 const Team&);
  // float32 and float64 only: the solutions for the symmetric and the skew part of C are added up in `out`.
  void (*lyapunov)(Element, int n, int iterations, MatrixIn B, MatrixIn C, void* out, void* workspace, const Team&);
  void (*root_backward)(Element, int n, const RootMethod&, MatrixIn A, MatrixIn G, void* out, void* workspace,
                        const Team&);
  void (*accurate_roots)(Element, int n, const RootDesign&, MatrixIn A, void* root, void* inverse, void* workspace,
                         const Team&);
  void (*accurate_backward)(Element, int n, double tolerance, const Cotangents&, void* out, void* workspace,
                            const Team&);
  void (*lyapunov_newton)(Element, int n, double tolerance, MatrixIn B, MatrixIn C, void* out, void* workspace,
                          const Team&);  // float32 and float64 only, as lyapunov
};

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

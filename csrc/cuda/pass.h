// The members and the arguments of the passes in csrc/cuda/passes. Plain C++ but for the bodies of kernels, so that the
// plan of every pass is known without nvcc.
//
// A pass is a type with the name it has in ops.def and these members; one that is missing does not compile:
//   template <typename T> struct Arguments          of its kernel, by value; T is the type of the computation;
//                                                   made of (passes::Type, Operands, Plan)
//                                                   with `bool inverse` for a Power: to compare one takes registers
//                                                   that MpaBackward and NsBackward do not have at n = 96 in float64
//   shared_elements(shape, teams)                   shared memory of one matrix
//   max_threads(shape)                              of a block; the compiler bounds the registers by it
//   most_teams(shape)                               that may work on one matrix
//   registers(shape)                                about those of a thread, as ptxas -v has them
//   half_sweeps(terms, teams)                       the time of a matrix, for the choice of its teams
//   kept_elements(shape, problem)                   global memory of one matrix in addition to its results
//   only_symmetric_part_of(input)                   true if only the symmetric part of that input counts
//   terms(pass)                                     shifts or poles that can be worked on at once, else 1
//   order(problem)                                  the plan's size: n, unless matrices may be rectangular
//   takes_any_size                                  true if the kernel works without the shared memory of that size,
//                                                   and there is no path for large matrices
//   largest_tiny_order, tiny_operands               up to that n a thread works on a matrix; the number of inputs or of
//                                                   results, whichever is larger. The kernel: tiny/kernel.cuh
//   template <class V> run(arguments)               the kernel: the work of one thread
//   large_matrices(pass), large_terms(pass)         workspace of the path for large matrices: see library/large.h
//   template <class Large> run_large(large, arguments)  that path
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/plan.h"
#include "element.h"
#include "passes.h"

// FASTSQRTM_KERNELS is defined if the compiler compiles the bodies of kernels.
#if defined(__CUDACC__)
#define FASTSQRTM_KERNELS
#define FASTSQRTM_DEVICE __device__ __forceinline__
#elif defined(FASTSQRTM_EMULATION)
#define FASTSQRTM_KERNELS
#define FASTSQRTM_DEVICE inline
#else
#define FASTSQRTM_DEVICE inline
#endif

namespace fastsqrtm {
namespace cuda {

// A batch of m x n matrices and how their elements lie in memory.
struct Problem {
  int64_t batch;
  int m;
  int n;
  int columns;  // of the widest among the inputs and the results
  Element element;

  static Problem square(int64_t batch, int n, Element element) { return {batch, n, n, n, element}; }
};

// The location of the matrices of an input, strides in elements. An absent input has data == nullptr.
struct Input {
  const void* data;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t column_stride;
};

// A contiguous result. A result that is not asked for has data == nullptr.
struct Output {
  void* data;
  int64_t matrix_bytes;  // from one matrix to the next
};

// The inputs and outputs of a pass, in the order of the comments in csrc/passes.h.
struct Operands {
  Problem problem;
  Input in[max_inputs];
  Output out[max_outputs];
  void* kept;  // batch x kept_elements, in the type of the computation
};

// What most passes have in common, to derive from: one team works on a matrix, one term after the other, keeps nothing
// in global memory and reads only symmetric parts. A pass declares again what it has otherwise.
struct OneTeam {
  static FASTSQRTM_HOST_DEVICE constexpr int max_threads(const Shape& s) { return threads_of_single_teams(s); }
  static FASTSQRTM_HOST_DEVICE constexpr int most_teams(const Shape&) { return 1; }
  static constexpr int registers(const Shape& s) { return registers_within(threads_of_single_teams(s)); }
  // Loads, norm, sum and store take half as long as a sweep.
  static constexpr int half_sweeps(int terms, int teams) { return 2 * ((terms + teams - 1) / teams) + 1; }
  static constexpr int64_t kept_elements(const Shape&, const Problem&) { return 0; }
  static constexpr bool only_symmetric_part_of(int) { return true; }
  static constexpr int64_t order(const Problem& problem) { return problem.n; }
  static constexpr bool takes_any_size = false;
  static constexpr int largest_tiny_order = 4, tiny_operands = 2;
  template <class Pass>
  static int terms(const Pass&) {
    return 1;
  }
  template <class Pass>
  static int64_t large_terms(const Pass&) {
    return 1;
  }
};

// A pass for matrices of any shape, which lie in shared memory, or in global memory where they are too large for that.
// `Pass` has elements(problem), the numbers of one matrix, and elements_of_order(order), those that its shape has room
// for.
template <class Pass>
struct AnyShape : OneTeam {
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) {
    return static_cast<int>(Pass::elements_of_order(s.padded)) + s.scratch_elements();
  }
  static constexpr int64_t kept_elements(const Shape& s, const Problem& problem) {
    return Pass::elements(problem) > Pass::elements_of_order(s.padded) ? Pass::elements(problem) : 0;
  }
  static int64_t order(const Problem& problem) {
    int64_t order = 1;
    while (Pass::elements_of_order(order) < Pass::elements(problem)) ++order;
    return order;
  }
  static constexpr bool takes_any_size = true;
  static constexpr int largest_tiny_order = 0;
  static constexpr bool only_symmetric_part_of(int) { return false; }
};

}  // namespace cuda
}  // namespace fastsqrtm

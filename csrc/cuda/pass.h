// What the passes of csrc/cuda/passes are made of and what they are given. Plain C++ but for the bodies of kernels, so
// that the plan of every pass is known without nvcc.
//
// A pass is a type with the name it has in ops.def and these members; one that is missing does not compile:
//   template <typename T> struct Arguments          what its kernel gets by value, T being the type of the computation;
//                                                   made of (passes::Type, Operands, Plan)
//   shared_elements(shape, teams)                   shared memory of one matrix
//   max_threads(shape)                              of a block; the compiler bounds the registers by it
//   teams_join(shape, batch, multiprocessors)       whether several teams may work on one matrix
//   kept_elements(shape, problem)                   global memory of one matrix beside its results
//   only_symmetric_part_of(input)                   whether input number `input` counts by its symmetric part alone
//   terms(pass)                                     shifts or poles that can be worked on at once, else 1
//   template <class V> run(arguments)               the kernel, what one thread does
//   large_matrices(pass), large_terms(pass)         workspace of the path for large matrices: see library/large.h
//   template <class Large> run_large(large, arguments)  that path
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/plan.h"
#include "element.h"
#include "passes.h"

// FASTSQRTM_KERNELS: the compiler is one that compiles the bodies of kernels.
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

// A batch of n x n matrices and how their elements lie in memory.
struct Problem {
  int64_t batch;
  int n;
  Element element;
};

// Where the matrices of an input are, strides in elements. data == nullptr: the input is absent.
struct Input {
  const void* data;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t column_stride;
};

// A contiguous result. data == nullptr: nobody asks for it.
struct Output {
  void* data;
  int64_t matrix_bytes;  // from one matrix to the next
};

// What a pass reads and writes, in the order of the comments in csrc/passes.h.
constexpr int max_inputs = 4, max_outputs = 2;
struct Operands {
  Problem problem;
  Input in[max_inputs];
  Output out[max_outputs];
  void* kept;  // batch x kept_elements, in the type of the computation
};

}  // namespace cuda
}  // namespace fastsqrtm

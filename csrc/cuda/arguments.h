// What a fused kernel is given: plain structures, passed by value.
#pragma once

#include <cstdint>

#include "../coefficients.h"
#include "variants.h"

namespace fastsqrtm {
namespace cuda {

// How the elements lie in memory; float16 and bfloat16 are computed in float32.
enum class Storage { float64, float32, float16, bfloat16 };
inline int storage_bytes(Storage storage) {
  return storage == Storage::float64 ? 8 : storage == Storage::float32 ? 4 : 2;
}

// A batch of n x n matrices, strides in elements.
struct Input {
  const void* data;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t column_stride;
};

struct Problem {
  void* out;  // contiguous
  int64_t batch;
  int n;
  Storage storage;
};

// root:         y = constant + sum_j weight[j] * H (I + H)^-1,    H = scale[j] X, scale = 1 / t_j
// inverse root: y = constant + sum_j weight[j] * -(I + H)^-1,     H = scale[j] X, scale = t_j, weight negated
template <typename T>
struct MpaArguments {
  Problem problem;
  Input a;
  int groups;           // teams per matrix
  int shared_elements;  // of one matrix, as the plan has it
  int degree;
  bool inverse;
  T constant;
  T scale[max_pade_degree];
  T weight[max_pade_degree];
};

template <typename T>
struct MtpArguments {
  Problem problem;
  Input a;
  int degree;
  bool inverse;
  T coefficient[max_taylor_degree + 3];  // zero beyond the degree
};

struct SqrtmLyaBackwardArguments {
  Problem problem;
  Input a;
  Input root;
  Input cotangent;
  int iterations;
};

struct InvSqrtmLyaBackwardArguments {
  Problem problem;
  Input inverse_root;
  Input cotangent;
  int iterations;
};

struct LyapunovArguments {
  Problem problem;
  Input b;
  Input c;
  int iterations;
  void* kept;  // batch x n x n in the type of the computation: `out` itself, or a workspace if that is narrower
};

template <typename T>
struct MpaBackwardArguments {
  MpaArguments<T> series;
  Input cotangent;
  T* kept;  // batch x kept_elements
};

template <typename T>
struct MtpBackwardArguments {
  MtpArguments<T> series;
  Input cotangent;
  T* kept;  // batch x kept_elements
};

template <typename T>
inline MpaArguments<T> mpa_arguments(const Problem& problem, const Input& a, int degree, bool inverse,
                                     const FusedPlan& plan) {
  MpaArguments<T> arguments{};
  arguments.problem = problem;
  arguments.a = a;
  arguments.groups = plan.groups;
  arguments.shared_elements = static_cast<int>(plan.shared_bytes / plan.matrices_per_block / sizeof(T));
  arguments.degree = degree;
  arguments.inverse = inverse;
  arguments.constant = static_cast<T>(pade_constant(degree));
  for (int j = 1; j <= degree; ++j) {
    const PadeTerm term = pade_term(degree, j);
    arguments.scale[j - 1] = static_cast<T>(inverse ? term.shift : 1 / term.shift);
    arguments.weight[j - 1] = static_cast<T>(inverse ? -term.weight : term.weight);
  }
  return arguments;
}

template <typename T>
inline MtpArguments<T> mtp_arguments(const Problem& problem, const Input& a, int degree, bool inverse) {
  MtpArguments<T> arguments{};
  arguments.problem = problem;
  arguments.a = a;
  arguments.degree = degree;
  arguments.inverse = inverse;
  double coefficient = 1;
  for (int k = 0; k <= degree; ++k) {
    if (k > 0) coefficient = taylor_next(coefficient, k, inverse ? -0.5 : 0.5);
    arguments.coefficient[k] = static_cast<T>(coefficient);
  }
  return arguments;
}

}  // namespace cuda
}  // namespace fastsqrtm

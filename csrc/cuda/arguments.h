// What a fused kernel is given: plain structures, passed by value.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "scalars/coefficients.h"
#include "scalars/zolotarev.h"

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

struct NewtonSchulzArguments {
  Problem problem;
  Input a;
  int iterations;
  bool inverse;
};

struct NewtonSchulzBackwardArguments {
  NewtonSchulzArguments steps;
  Input cotangent;
  void* kept;  // batch x kept_elements in the type of the computation
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

// `ridges` of csrc/zolotarev.h, which device code cannot index.
constexpr int ridge_count = 5;
FASTSQRTM_HOST_DEVICE constexpr int ridge_of(int attempt) {
  return attempt == 0 ? 0 : attempt == 1 ? 1 : attempt == 2 ? 8 : attempt == 3 ? 64 : 1024;
}
static_assert(sizeof(ridges) / sizeof(double) == ridge_count && ridges[1] == ridge_of(1) && ridges[2] == ridge_of(2) &&
              ridges[3] == ridge_of(3) && last_ridge == ridge_of(4));
template <typename T>
FASTSQRTM_HOST_DEVICE constexpr T machine_epsilon() {
  return static_cast<T>(sizeof(T) == 8 ? 0x1p-52 : 0x1p-23);
}
// What the ridges of a root's inverse count in: the last covers the rounding of entries of half precision, which can
// make a matrix as indefinite as that. Of a root it is the last one alone.
template <typename T>
FASTSQRTM_HOST_DEVICE constexpr T ridge_unit(Storage storage) {
  return storage == Storage::bfloat16  ? T(0x1p-8 / last_ridge)
         : storage == Storage::float16 ? T(0x1p-11 / last_ridge)
                                       : machine_epsilon<T>();
}
inline double last_ridge_of(Storage storage) {
  return last_ridge * (storage == Storage::float64 ? ridge_unit<double>(storage) : ridge_unit<float>(storage));
}

// The scalars are those of csrc/zolotarev.h. Where both roots are wanted, `out` has two matrices for each of `a`.
template <typename T>
struct AccurateRootsArguments {
  Problem problem;
  Input a;
  bool root;
  bool inverse;
  int groups;  // teams per matrix
  int poles;
  int newton_steps;
  T constant;
  T inverse_shift[max_poles];
  T weight[max_poles];
  T half_scale[max_newton_steps];
  T last_ridge;
  T largest_inverse;
};

// The roots and their cotangents; data == nullptr: not there.
struct AccurateBackwardArguments {
  Problem problem;
  Input root;
  Input inverse_root;
  Input root_cotangent;
  Input inverse_cotangent;
  double tolerance;
};

struct LyapunovNewtonArguments {
  Problem problem;
  Input b;
  Input c;
  double tolerance;
  void* kept;  // as in LyapunovArguments
};

template <typename T>
inline AccurateRootsArguments<T> accurate_roots_arguments(const Problem& problem, const Input& a, bool root,
                                                          bool inverse, const RootDesign& design, int groups = 1) {
  AccurateRootsArguments<T> arguments{};
  arguments.problem = problem;
  arguments.a = a;
  arguments.root = root;
  arguments.inverse = inverse;
  arguments.groups = groups;
  arguments.poles = design.poles;
  arguments.newton_steps = design.newton_steps;
  arguments.constant = static_cast<T>(design.constant);
  for (int j = 0; j < design.poles; ++j) {
    arguments.inverse_shift[j] = static_cast<T>(1 / design.shifts[j]);
    arguments.weight[j] = static_cast<T>(design.weights[j]);
  }
  for (int k = 0; k < design.newton_steps; ++k) arguments.half_scale[k] = static_cast<T>(design.scales[k] / 2);
  arguments.largest_inverse = static_cast<T>(design.largest_inverse(machine_epsilon<T>()));
  arguments.last_ridge = static_cast<T>(last_ridge_of(problem.storage));
  return arguments;
}

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

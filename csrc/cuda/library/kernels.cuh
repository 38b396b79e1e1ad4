// The elementwise kernels between the library calls of the path for large matrices (large.h). Tile kernels: a block of
// 32 x 8 threads has one 32 x 32 tile of one matrix and, through shared memory, the transposed tile of the mirror
// place. blockIdx.x counts the tiles of a matrix, blockIdx.y the matrices.
#pragma once

#include "cuda/steps/newton_schulz.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"

namespace fastsqrtm {
namespace cuda {

constexpr int tile_edge = 32;
constexpr int tile_rows = 8;
constexpr int norm_threads = 256;

// Calls f(row, column, value, mirrored value) for this thread's elements of the tile, value(row, column) being read
// once.
template <typename T, class Read, class F>
__device__ __forceinline__ void for_tile(int n, Read read, F f) {
  T* mirror = reinterpret_cast<T*>(dynamic_shared());  // 32 x 33
  const int tiles = (n + tile_edge - 1) / tile_edge;
  const int row0 = static_cast<int>(blockIdx.x) / tiles * tile_edge;
  const int column0 = static_cast<int>(blockIdx.x) % tiles * tile_edge;
  for (int y = threadIdx.y; y < tile_edge; y += tile_rows) {
    const int row = column0 + y, column = row0 + static_cast<int>(threadIdx.x);
    mirror[y * (tile_edge + 1) + threadIdx.x] = row < n && column < n ? read(row, column) : T(0);
  }
  __syncthreads();
  for (int y = threadIdx.y; y < tile_edge; y += tile_rows) {
    const int row = row0 + y, column = column0 + static_cast<int>(threadIdx.x);
    if (row < n && column < n) f(row, column, read(row, column), mirror[threadIdx.x * (tile_edge + 1) + y]);
  }
}

// Sum of squares in units of 4^exponent: a partial norm that neither over- nor underflows.
template <typename T>
struct PartialNorm {
  T largest;
  T sum;  // of (x 2^-exponent)^2
  int exponent;
};

// Reduces the values of a block of 256 threads by f, in a fixed order, for thread 0.
template <typename T, class F>
__device__ __forceinline__ T reduce_block(T value, T* shared, F f) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  shared[thread] = value;
  for (int step = norm_threads / 2; step >= 1; step /= 2) {
    __syncthreads();
    if (thread < step) shared[thread] = f(shared[thread], shared[thread + step]);
  }
  __syncthreads();
  value = shared[0];
  __syncthreads();
  return value;
}

// symmetric = (A + A^T) / 2 and its partial norms, one per tile.
template <typename T>
__global__ void symmetrise_kernel(Problem problem, Input in, T* symmetric, PartialNorm<T>* partial) {
  const int n = problem.n;
  const int64_t matrix = blockIdx.y;
  T* out = symmetric + matrix * n * n;
  // Values are pushed along, not indexed: an index unknown to the compiler would put them into local memory.
  T values[tile_edge / tile_rows] = {};
  T largest = 0;
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    const S* source = static_cast<const S*>(in.data) + matrix * in.batch_stride;
    for_tile<T>(
        n, [&](int i, int j) { return from_element<T>(source[i * in.row_stride + j * in.column_stride]); },
        [&](int i, int j, T x, T mirrored) {
          const T value = T(0.5) * x + T(0.5) * mirrored;
          out[static_cast<int64_t>(i) * n + j] = value;
          for (int k = tile_edge / tile_rows - 1; k > 0; --k) values[k] = values[k - 1];
          values[0] = value;
          largest = max_or_nan(largest, std::fabs(value));
        });
  });
  __syncthreads();
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  largest = reduce_block(largest, shared, [](T a, T b) { return max_or_nan(a, b); });
  const int exponent = even_exponent(largest);
  const T down = power_of_two<T>(-exponent);
  T sum = 0;
  for (T value : values) sum += (value * down) * (value * down);
  sum = reduce_block(sum, shared, [](T a, T b) { return a + b; });
  if (threadIdx.x == 0 && threadIdx.y == 0) partial[matrix * gridDim.x + blockIdx.x] = {largest, sum, exponent};
}

// One block of 256 threads a matrix. The norms count as 1 if `as_one`.
template <typename T>
__global__ void norm_kernel(const PartialNorm<T>* partial, int count, Norm<T>* norms, bool as_one) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  partial += static_cast<int64_t>(blockIdx.y) * count;
  T largest = 0;
  for (int i = threadIdx.x; i < count; i += norm_threads) largest = max_or_nan(largest, partial[i].largest);
  largest = reduce_block(largest, shared, [](T a, T b) { return max_or_nan(a, b); });
  Norm<T> norm;
  norm.exponent = even_exponent(largest);
  T sum = 0;
  for (int i = threadIdx.x; i < count; i += norm_threads) {
    const int difference = partial[i].exponent - norm.exponent;  // not positive; below -60 nothing is left
    if (difference > -60) sum += partial[i].sum * power_of_two<T>(difference) * power_of_two<T>(difference);
  }
  sum = reduce_block(sum, shared, [](T a, T b) { return a + b; });
  norm.finish(largest, sum);
  if (threadIdx.x == 0) norms[blockIdx.y] = as_one ? norm.as_one() : norm;
}

enum class Scale { one, norm, inverse_norm, inverse_root };

template <typename T>
__device__ __forceinline__ T scaled(T x, const Norm<T>& norm, Scale scale) {
  if (scale == Scale::norm) return norm.restore(x);
  return scale == Scale::one ? x : scale == Scale::inverse_norm ? norm.normalise(x) : x * norm.inverse_root();
}

struct ElementPlace {
  int64_t matrix;
  int row, column;
};

// Where an element of contiguous matrices stands. A single matrix may have more than 2^31 elements.
FASTSQRTM_HOST_DEVICE constexpr ElementPlace place_of(int64_t element, int n) {
  const int64_t row = element / n;  // among the rows of all matrices
  return {row / n, static_cast<int>(row % n), static_cast<int>(element % n)};
}

// Calls f(matrix, row, column, offset) for every element of `matrices` matrices, in a grid-stride loop.
template <class F>
__device__ __forceinline__ void for_elements(int64_t matrices, int n, F f) {
  const int64_t size = static_cast<int64_t>(n) * n;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < matrices * size; i += step) {
    const ElementPlace place = place_of(i, n);
    f(place.matrix, place.row, place.column, i);
  }
}

// x <- diagonal I + factor * scaled x
template <typename T>
__global__ void scale_kernel(T* x, int64_t matrices, int n, const Norm<T>* norms, Scale scale, T factor, T diagonal) {
  for_elements(matrices, n, [&](int64_t m, int i, int j, int64_t at) {
    x[at] = (i == j ? diagonal : T(0)) + factor * scaled(x[at], norms[m], scale);
  });
}

// x <- c0 I + c1 W + c2 W^2
template <typename T>
__global__ void taylor_block_kernel(T* x, int64_t matrices, int n, const T* w, const T* w_squared, T c0, T c1, T c2) {
  for_elements(matrices, n, [&](int64_t, int i, int j, int64_t at) {
    x[at] = (i == j ? c0 : T(0)) + c1 * w[at] + (c2 == T(0) ? T(0) : c2 * w_squared[at]);
  });
}

// Matrix m * degree + j: factor = I + H (without the identity: H), right = root[j] I, H = scale[j] X, for term j of the
// derivative sum_j (root[j] R) G (root[j] R), R = (I + H)^-1. Also writes the addresses for batched calls.
template <typename T>
struct DerivativeShifts {
  int64_t batch;
  int n;
  int degree;
  T scale[max_pade_degree];
  T root[max_pade_degree];
  const T* x;
  const T* cotangent;
  const Norm<T>* norms;
  T* factor;
  T* right;
  T** factors;
  T** rights;
  const T** cotangents;  // of the matrix that the term belongs to
  bool with_identity;
};

template <typename T>
__global__ void derivative_shift_kernel(DerivativeShifts<T> a) {
  const int64_t size = static_cast<int64_t>(a.n) * a.n;
  for_elements(a.batch * a.degree, a.n, [&](int64_t m, int i, int j, int64_t at) {
    const int64_t matrix = m / a.degree;
    const int term = static_cast<int>(m % a.degree);
    const T x = a.norms[matrix].normalise(a.x[at + (matrix - m) * size]);
    a.factor[at] = (i == j && a.with_identity ? T(1) : T(0)) + a.scale[term] * x;
    a.right[at] = i == j ? a.root[term] : T(0);
    if (i == 0 && j == 0) {
      a.factors[m] = a.factor + m * size;
      a.rights[m] = a.right + m * size;
      a.cotangents[m] = a.cotangent + matrix * size;
    }
  });
}

// right = root[j] R for factor = -R
template <typename T>
__global__ void derivative_terms_kernel(DerivativeShifts<T> a) {
  for_elements(a.batch * a.degree, a.n,
               [&](int64_t m, int, int, int64_t at) { a.right[at] = -a.root[m % a.degree] * a.factor[at]; });
}

// The elementwise part of a step of the Taylor series and of its derivative:
// h <- c0 I + c1 W + c2 W^2,  d <- c1 G + c2 (W G + G W).
template <typename T>
__global__ void taylor_derivative_kernel(T* h, T* d, int64_t matrices, int n, const T* w, const T* w_squared,
                                         const T* g, const T* squared_derivative, T c0, T c1, T c2) {
  for_elements(matrices, n, [&](int64_t, int i, int j, int64_t at) {
    h[at] = (i == j ? c0 : T(0)) + c1 * w[at] + (c2 == T(0) ? T(0) : c2 * w_squared[at]);
    d[at] = c1 * g[at] + (c2 == T(0) ? T(0) : c2 * squared_derivative[at]);
  });
}

// The start of the steps in newton_schulz.h: X, followed by the derivative if there are two `parts`.
template <typename T>
__global__ void newton_schulz_start_kernel(T* m, int64_t batch, int parts, int n, const T* x, const T* g,
                                           const Norm<T>* norms) {
  const int64_t size = static_cast<int64_t>(n) * n;
  for_elements(batch * parts, n, [&](int64_t part, int, int, int64_t at) {
    const int64_t matrix = part / parts;
    const int64_t from = at + (matrix - part) * size;
    m[at] = part % parts == 0 ? norms[matrix].normalise(x[from]) : g[from];
  });
}

// The elementwise part of a step, or of a pair of them: the factors E^2 (in `squared`, which holds M^2 before) and H,
// and the rest of P. It is linear but for the identity, so derivatives use the same formulas without it.
// E^2 = M^2 - 2 M + I is off by a rounding of 1, as P is.
template <typename T>
__global__ void newton_schulz_step_kernel(const T* m, int64_t batch, int parts, int n, bool pair, T* squared, T* factor,
                                          T* p) {
  for_elements(batch * parts, n, [&](int64_t part, int i, int j, int64_t at) {
    const T identity = i == j && part % parts == 0 ? T(1) : T(0);
    const T x = m[at];
    if (pair) {
      const T e = identity - T(2) * x + squared[at];
      squared[at] = e;
      factor[at] = two_steps_factor(e, x) + T(two_steps_identity) * identity;
    }
    p[at] = T(1.5) * identity - T(0.5) * x;
  });
}

// W = U^T - U/2
template <typename T>
__global__ void transpose_minus_half_kernel(T* w, const T* u, int n) {
  const int64_t start = static_cast<int64_t>(blockIdx.y) * n * n;
  for_tile<T>(
      n, [&](int i, int j) { return u[start + static_cast<int64_t>(i) * n + j]; },
      [&](int i, int j, T x, T mirrored) { w[start + static_cast<int64_t>(i) * n + j] = mirrored - T(0.5) * x; });
}

// C <- (3 C - V - V^T) / 2, and identity <- 3/2 I
template <typename T>
__global__ void symmetric_step_kernel(T* c, const T* v, T* identity, int n) {
  const int64_t start = static_cast<int64_t>(blockIdx.y) * n * n;
  for_tile<T>(
      n, [&](int i, int j) { return v[start + static_cast<int64_t>(i) * n + j]; },
      [&](int i, int j, T x, T mirrored) {
        const int64_t at = start + static_cast<int64_t>(i) * n + j;
        c[at] = T(1.5) * c[at] - T(0.5) * (x + mirrored);
        identity[at] = i == j ? T(1.5) : T(0);
      });
}

// (U, Q) <- (U - Q/2, Q - U/2), and identity <- 3/2 I
template <typename T>
__global__ void general_step_kernel(T* u, T* q, T* identity, int64_t matrices, int n) {
  for_elements(matrices, n, [&](int64_t, int i, int j, int64_t at) {
    const T a = u[at], b = q[at];
    u[at] = a - T(0.5) * b;
    q[at] = b - T(0.5) * a;
    identity[at] = i == j ? T(1.5) : T(0);
  });
}

// x <- the matrix, not symmetrised, in the type of the computation, scaled. Its norms may be another matrix's.
template <typename T>
__global__ void load_kernel(Problem problem, Input in, T* x, const Norm<T>* norms, Scale scale) {
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    const S* source = static_cast<const S*>(in.data);
    for_elements(problem.batch, problem.n, [&](int64_t m, int i, int j, int64_t at) {
      x[at] = scaled(from_element<T>(source[m * in.batch_stride + i * in.row_stride + j * in.column_stride]), norms[m],
                     scale);
    });
  });
}

// The last operation on the sum of terms.
enum class Finish { root, inverse_root, gradient, inverse_gradient, plain };

inline Finish finish_of(bool inverse) { return inverse ? Finish::inverse_root : Finish::root; }

// out = finish(constant I + sum_k weight[k] term[k]), `count` terms a matrix one after the other. Symmetrised unless
// plain. A matrix with a term that could not be factored (info > 0) is NaN.
template <typename T>
struct FinishArguments {
  Problem problem;
  void* out;
  const T* terms;
  const Norm<T>* norms;
  const int* info;              // per term, or null
  const int* is_zero_gradient;  // per matrix, or null: the gradient is 0 by definition
  int count;
  Finish finish;
  T constant;
  T weight[max_pade_degree];
};

template <typename T>
__global__ void finish_kernel(FinishArguments<T> a) {
  const int n = a.problem.n;
  const int64_t matrix = blockIdx.y;
  const int64_t size = static_cast<int64_t>(n) * n;
  const T* terms = a.terms + matrix * a.count * size;
  const Norm<T> norm = a.norms[matrix];
  bool failed = false;
  for (int k = 0; a.info && k < a.count; ++k) failed = failed || a.info[matrix * a.count + k] != 0;
  const bool zero = norm.is_zero || (a.is_zero_gradient && a.is_zero_gradient[matrix] != 0);
  with_element<T>(a.problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    S* out = static_cast<S*>(a.out) + matrix * size;
    for_tile<T>(
        n,
        [&](int i, int j) {
          T sum = i == j ? a.constant : T(0);
          for (int k = 0; k < a.count; ++k)
            sum = std::fma(a.weight[k], terms[k * size + static_cast<int64_t>(i) * n + j], sum);
          return sum;
        },
        [&](int i, int j, T x, T mirrored) {
          T value = a.finish == Finish::plain ? x : T(0.5) * (x + mirrored);
          if (a.finish == Finish::root) value *= norm.root();
          if (a.finish == Finish::inverse_root) value *= norm.inverse_root();
          if (a.finish == Finish::inverse_gradient) value = norm.restore(norm.restore(norm.restore(value)));
          if (failed) value = not_a_number<T>();
          if (zero) value = a.finish == Finish::inverse_root && i == j ? infinity<T>() : T(0);
          out[static_cast<int64_t>(i) * n + j] = to_element<S>(value);
        });
  });
}

// flag[m] = 1 if matrix m is infinite on the diagonal and 0 elsewhere. One block of 256 threads a matrix.
template <typename T>
__global__ void infinite_identity_kernel(const T* x, int n, int* flag) {
  const T* matrix = x + static_cast<int64_t>(blockIdx.y) * n * n;
  int other = 0;
  for (int64_t i = threadIdx.x; i < static_cast<int64_t>(n) * n; i += norm_threads) {
    other |= !(matrix[i] == (i % (n + 1) == 0 ? infinity<T>() : T(0)));
  }
  const int any = __syncthreads_or(other);
  if (threadIdx.x == 0) flag[blockIdx.y] = !any;
}

// The exact gradient of a series (steps/derivative.cuh) from L = sign * derivative and from the value
// constant I + sum_k weight[k] (term[k] - identity[k] I), `count` terms a matrix one after the other.
template <typename T>
struct ExactGradient {
  Problem problem;
  void* out;
  const T* x;
  const T* cotangent;
  const T* derivative;
  const T* terms;
  const Norm<T>* norms;
  const int* info;  // per term, or null
  T* partial;       // per tile: its part of the factor of X
  int count;
  int term_step, derivative_step;  // strides from one matrix to the next, in matrices
  bool inverse;
  T sign;
  T constant;
  T weight[max_pade_degree];
  T identity[max_pade_degree];
  bool radial;  // false for the gradient at a fixed norm
};

template <typename T>
__global__ void radial_kernel(ExactGradient<T> a) {
  const int n = a.problem.n;
  const int tiles = (n + tile_edge - 1) / tile_edge;
  const int64_t matrix = blockIdx.y;
  const int64_t size = static_cast<int64_t>(n) * n;
  const T* terms = a.terms + matrix * a.term_step * size;
  const T* derivative = a.derivative + matrix * a.derivative_step * size;
  const int column = static_cast<int>(blockIdx.x) % tiles * tile_edge + static_cast<int>(threadIdx.x);
  T sum = 0;
  for (int y = threadIdx.y; y < tile_edge; y += tile_rows) {
    const int row = static_cast<int>(blockIdx.x) / tiles * tile_edge + y;
    if (row >= n || column >= n) continue;
    const int64_t at = static_cast<int64_t>(row) * n + column;
    const T on_diagonal = row == column ? T(1) : T(0);
    T value = a.constant * on_diagonal;
    for (int k = 0; k < a.count; ++k) value += a.weight[k] * (terms[k * size + at] - a.identity[k] * on_diagonal);
    sum += (a.inverse ? T(-0.5) : T(0.5)) * a.cotangent[matrix * size + at] * value -
           a.sign * derivative[at] * a.norms[matrix].normalise(a.x[matrix * size + at]);
  }
  sum = reduce_block(sum, reinterpret_cast<T*>(dynamic_shared()), [](T p, T q) { return p + q; });
  if (threadIdx.x == 0 && threadIdx.y == 0) a.partial[matrix * gridDim.x + blockIdx.x] = sum;
}

template <typename T>
__global__ void exact_gradient_kernel(ExactGradient<T> a) {
  const int n = a.problem.n;
  const int64_t matrix = blockIdx.y;
  const int64_t start = matrix * n * n;
  const T* derivative = a.derivative + a.derivative_step * start;
  const Norm<T> norm = a.norms[matrix];
  bool failed = false;
  for (int k = 0; a.info && k < a.count; ++k) failed = failed || a.info[matrix * a.count + k] != 0;
  T radial = 0;
  for (int tile = threadIdx.y * tile_edge + threadIdx.x; a.radial && tile < static_cast<int>(gridDim.x);
       tile += norm_threads) {
    radial += a.partial[matrix * gridDim.x + tile];
  }
  radial = reduce_block(radial, reinterpret_cast<T*>(dynamic_shared()), [](T p, T q) { return p + q; });
  const T scale = norm.inverse_root();
  with_element<T>(a.problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    S* out = static_cast<S*>(a.out) + start;
    for_tile<T>(
        n,
        [&](int i, int j) {
          const int64_t at = static_cast<int64_t>(i) * n + j;
          return a.sign * derivative[at] + radial * norm.normalise(a.x[start + at]);
        },
        [&](int i, int j, T x, T mirrored) {
          T value = T(0.5) * (x + mirrored) * scale;
          if (a.inverse) value = value * scale * scale;
          if (failed) value = not_a_number<T>();
          if (norm.is_zero) value = 0;
          out[static_cast<int64_t>(i) * n + j] = to_element<S>(value);
        });
  });
}

}  // namespace cuda
}  // namespace fastsqrtm

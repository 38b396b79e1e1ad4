// The elementwise kernels of the accurate methods for large matrices (newton_steps.h). The device decides the next step
// of a matrix in its NewtonState, so nothing waits for the host.
#pragma once

#include "cuda/library/kernels.cuh"
#include "cuda/steps/diagonal.cuh"

namespace fastsqrtm {
namespace cuda {

// Sums over the entries of one column off the diagonal, and its diagonal entry.
template <typename T>
struct ColumnSums {
  T absolute;
  T squares;
  T diagonal;
};

template <typename T>
struct NewtonState {
  T bound;          // roots: of the largest eigenvalue of A / ||A||_F
  Entries entries;  // roots: of A
  int singular;     // the inverse is too large
  T trace;          // roots: of A / (||A||_F bound)
  T factor;         // roots: by which to scale the root
  T unit;           // of the ridges
  T ridge;          // added to the diagonal
  T norm_b;         // 1-norm of B
  T keep, take;     // a step is keep (B, C) + take (W, W C W)
  T theta;          // mean of the diagonal of B
  int has_ridge;    // it has been found
  int done;         // B is near enough to theta I: further steps change nothing
};

// One column a lane; a block of 32 x 8 threads has 32 columns of matrix blockIdx.y.
template <typename T>
__global__ void column_sums_kernel(const T* x, int n, ColumnSums<T>* sums) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());  // 2 x 8 x 32
  const int column = static_cast<int>(blockIdx.x) * tile_edge + static_cast<int>(threadIdx.x);
  const T* matrix = x + static_cast<int64_t>(blockIdx.y) * n * n;
  T absolute = 0, squares = 0;
  for (int row = threadIdx.y; row < n && column < n; row += tile_rows) {
    const T value = row == column ? T(0) : matrix[static_cast<int64_t>(row) * n + column];
    absolute += std::fabs(value);
    squares += value * value;
  }
  T* own = shared + threadIdx.y * tile_edge + threadIdx.x;
  own[0] = absolute;
  own[tile_rows * tile_edge] = squares;
  __syncthreads();
  if (threadIdx.y > 0 || column >= n) return;
  for (int y = 1; y < tile_rows; ++y) {
    absolute += own[y * tile_edge];
    squares += own[(tile_rows + y) * tile_edge];
  }
  sums[static_cast<int64_t>(blockIdx.y) * n + column] = {absolute, squares,
                                                         matrix[static_cast<int64_t>(column) * (n + 1)]};
}

// Largest absolute column sum of M - theta I, from the column sums of M.
template <typename T>
__device__ __forceinline__ T one_norm_of(const ColumnSums<T>* sums, int n, T theta, T* shared) {
  T largest = 0;
  for (int c = threadIdx.x; c < n; c += norm_threads) {
    largest = max_or_nan(largest, sums[c].absolute + std::fabs(sums[c].diagonal - theta));
  }
  return reduce_block(largest, shared, [](T a, T b) { return max_or_nan(a, b); });
}

// The kernels that follow have one block of 256 threads a matrix.

// The initial state of a matrix whose root is taken, from its column sums. It will be divided by `bound`.
template <typename T>
__global__ void begin_roots_kernel(const ColumnSums<T>* sums, int n, NewtonState<T>* states) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  sums += static_cast<int64_t>(blockIdx.x) * n;
  const T norm = one_norm_of(sums, n, T(0), shared);
  NewtonState<T> state = {};
  state.bound = norm > T(0) && norm < T(1) ? norm : T(1);
  T worst = 0, trace = 0;
  for (int c = threadIdx.x; c < n; c += norm_threads) {
    trace += sums[c].diagonal;
    const bool other = !(sums[c].absolute == T(0) && sums[c].diagonal == sums[c].diagonal);
    const bool negative = sums[c].diagonal < T(-largest_negative) * state.bound;
    worst = max_or_nan(worst, rank_of_entries<T>(other, negative));
  }
  worst = reduce_block(worst, shared, [](T a, T b) { return max_or_nan(a, b); });
  trace = reduce_block(trace, shared, [](T a, T b) { return a + b; });
  if (threadIdx.x > 0) return;
  state.entries = entries_of_rank(worst);
  state.trace = trace * reciprocal(state.bound);
  state.factor = T(1);
  states[blockIdx.x] = state;
}

// The initial state, from the column sums of the matrix that the ridges may be added to, in units of `unit` of its
// norm.
template <typename T>
__global__ void begin_newton_kernel(const ColumnSums<T>* sums, int n, T unit, NewtonState<T>* states) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  const T norm = one_norm_of(sums + static_cast<int64_t>(blockIdx.x) * n, n, T(0), shared);
  if (threadIdx.x > 0) return;
  NewtonState<T> state = {};
  state.unit = unit * norm;
  state.ridge = not_a_number<T>();  // stays so if every ridge leaves the matrix indefinite
  states[blockIdx.x] = state;
}

// Decides from the column sums of an inverse if its estimated norm is more than `largest`, or NaN.
template <typename T>
__global__ void singular_inverse_kernel(const ColumnSums<T>* sums, int n, T largest, NewtonState<T>* states) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  const auto add = [](T a, T b) { return a + b; };
  sums += static_cast<int64_t>(blockIdx.x) * n;
  T trace = 0, squares = 0;
  for (int c = threadIdx.x; c < n; c += norm_threads) {
    trace += sums[c].diagonal;
    squares += sums[c].squares + sums[c].diagonal * sums[c].diagonal;
  }
  trace = reduce_block(trace, shared, add);
  squares = reduce_block(squares, shared, add);
  if (threadIdx.x == 0 && !(squares <= largest * trace)) states[blockIdx.x].singular = 1;
}

// The factor of a root from its column sums, for a design of this error.
template <typename T>
__global__ void factor_kernel(const ColumnSums<T>* sums, int n, T error, NewtonState<T>* states) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  sums += static_cast<int64_t>(blockIdx.x) * n;
  T squares = 0;
  for (int c = threadIdx.x; c < n; c += norm_threads) {
    squares += sums[c].squares + sums[c].diagonal * sums[c].diagonal;
  }
  squares = reduce_block(squares, shared, [](T a, T b) { return a + b; });
  NewtonState<T>& state = states[blockIdx.x];
  if (threadIdx.x == 0 && !state.singular) state.factor = unbiased(state.trace, squares, error);
}

// norm_b, the 1-norm of B
template <typename T>
__global__ void begin_steps_kernel(const ColumnSums<T>* sums, int n, NewtonState<T>* states) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  const T norm = one_norm_of(sums + static_cast<int64_t>(blockIdx.x) * n, n, T(0), shared);
  if (threadIdx.x == 0) states[blockIdx.x].norm_b = norm;
}

// The scaling of a step, from the column sums of W.
template <typename T>
__global__ void scaling_kernel(const ColumnSums<T>* sums, int n, NewtonState<T>* states) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  const T norm = one_norm_of(sums + static_cast<int64_t>(blockIdx.x) * n, n, T(0), shared);
  NewtonState<T>& state = states[blockIdx.x];
  if (threadIdx.x > 0) return;
  const T mu = square_root(norm * reciprocal(state.norm_b));
  state.keep = T(0.5) * mu;
  state.take = T(0.5) * reciprocal(mu);
}

// Decides from the column sums of B if it is near enough to theta I.
template <typename T>
__global__ void progress_kernel(const ColumnSums<T>* sums, int n, T tolerance, NewtonState<T>* states) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  const auto add = [](T a, T b) { return a + b; };
  sums += static_cast<int64_t>(blockIdx.x) * n;
  T trace = 0;
  for (int c = threadIdx.x; c < n; c += norm_threads) trace += sums[c].diagonal;
  const T theta = reduce_block(trace, shared, add) * reciprocal(T(n));
  T squares = 0;
  for (int c = threadIdx.x; c < n; c += norm_threads) {
    const T diagonal = sums[c].diagonal - theta;
    squares += sums[c].squares + diagonal * diagonal;
  }
  const T frobenius = square_root(reduce_block(squares, shared, add));
  const T norm_b = one_norm_of(sums, n, T(0), shared);
  const T column_norm = one_norm_of(sums, n, theta, shared);
  if (threadIdx.x > 0) return;
  NewtonState<T>& state = states[blockIdx.x];
  const T bound = (frobenius < column_norm ? frobenius : column_norm) * reciprocal(theta);
  state.theta = theta;
  state.norm_b = norm_b;
  if (!(bound * bound * bound > tolerance)) state.done = 1;
}

// The kernels that follow are elementwise again.

// M <- M / bound
template <typename T>
__global__ void divide_by_bound_kernel(T* matrix, int64_t matrices, int n, const NewtonState<T>* states) {
  for_elements(matrices, n, [&](int64_t m, int, int, int64_t at) { matrix[at] *= reciprocal(states[m].bound); });
}

// factor = M + (shift + ridge) I with the ridge in units of the matrix's own, and its address.
template <typename T>
__global__ void ridge_trial_kernel(const T* matrix, int64_t matrices, int n, const NewtonState<T>* states, T shift,
                                   T ridge, T* factor, T** factors) {
  const int64_t size = static_cast<int64_t>(n) * n;
  for_elements(matrices, n, [&](int64_t m, int i, int j, int64_t at) {
    factor[at] = matrix[at] + (i == j ? shift + ridge * states[m].unit : T(0));
    if (i == 0 && j == 0) factors[m] = factor + m * size;
  });
}

// The first ridge with which the factorisation succeeds.
template <typename T>
__global__ void ridge_choice_kernel(const int* info, int64_t matrices, T ridge, NewtonState<T>* states) {
  const int64_t m = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (m >= matrices || states[m].has_ridge || info[m] != 0) return;
  states[m].has_ridge = 1;
  states[m].ridge = ridge * states[m].unit;
}

// out = M + (shift + the chosen ridge) I
template <typename T>
__global__ void add_ridge_kernel(const T* matrix, int64_t matrices, int n, const NewtonState<T>* states, T shift,
                                 T* out) {
  for_elements(matrices, n, [&](int64_t m, int i, int j, int64_t at) {
    const T off = states[m].has_ridge ? T(0) : not_a_number<T>();
    out[at] = matrix[at] + (i == j ? shift + states[m].ridge : off);
  });
}

// M <- M + ridge I + floor^2 R for the singular matrices M, with R = (M + (ridge + floor) I)^-1.
template <typename T>
__global__ void lift_kernel(T* matrix, int64_t matrices, int n, const NewtonState<T>* states, T floor, const T* r) {
  for_elements(matrices, n, [&](int64_t m, int i, int j, int64_t at) {
    if (states[m].singular) matrix[at] += floor * floor * r[at] + (i == j ? states[m].ridge : T(0));
  });
}

// factor = M, right = I, and their addresses.
template <typename T>
__global__ void inverse_kernel(const T* matrix, int64_t matrices, int n, T* factor, T* right, T** factors, T** rights) {
  const int64_t size = static_cast<int64_t>(n) * n;
  for_elements(matrices, n, [&](int64_t m, int i, int j, int64_t at) {
    factor[at] = matrix[at];
    right[at] = i == j ? T(1) : T(0);
    if (i == 0 && j == 0) {
      factors[m] = factor + m * size;
      rights[m] = right + m * size;
    }
  });
}

// out = keep out + take (R + R^T) / 2; if keep is 0, out is not read. A matrix whose factorisation failed is NaN.
template <typename T>
__global__ void add_inverse_kernel(const T* inverse, const int* info, int n, T keep, T take, T* out) {
  const int64_t matrix = blockIdx.y;
  const int64_t start = matrix * n * n;
  const bool failed = info[matrix] != 0;
  for_tile<T>(
      n, [&](int i, int j) { return inverse[start + static_cast<int64_t>(i) * n + j]; },
      [&](int i, int j, T x, T mirrored) {
        const int64_t at = start + static_cast<int64_t>(i) * n + j;
        const T value = take * (T(0.5) * (x + mirrored)) + (keep == T(0) ? T(0) : keep * out[at]);
        out[at] = failed ? not_a_number<T>() : value;
      });
}

// C <- keep C + take V, B <- keep B + take W
template <typename T>
__global__ void newton_step_kernel(T* c, const T* v, T* b, const T* w, int64_t matrices, int n,
                                   const NewtonState<T>* states) {
  for_elements(matrices, n, [&](int64_t m, int, int, int64_t at) {
    const NewtonState<T>& state = states[m];
    if (state.done) return;
    c[at] = state.keep * c[at] + state.take * v[at];
    b[at] = state.keep * b[at] + state.take * w[at];
  });
}

// B <- (B - theta I) / (2 theta), C <- C / (2 theta)
template <typename T>
__global__ void corrections_kernel(T* b, T* c, int64_t matrices, int n, const NewtonState<T>* states) {
  for_elements(matrices, n, [&](int64_t m, int i, int j, int64_t at) {
    const T half = T(0.5) * reciprocal(states[m].theta);
    b[at] = half * (b[at] - (i == j ? states[m].theta : T(0)));
    c[at] = half * c[at];
  });
}

// out = x, or out + x / nu^2
template <typename T>
__global__ void copy_kernel(const T* x, int64_t matrices, int n, T* out) {
  for_elements(matrices, n, [&](int64_t, int, int, int64_t at) { out[at] = x[at]; });
}
template <typename T>
__global__ void add_normalised_kernel(const T* x, int64_t matrices, int n, const Norm<T>* norms, T* out) {
  for_elements(matrices, n,
               [&](int64_t m, int, int, int64_t at) { out[at] += norms[m].normalise(norms[m].normalise(x[at])); });
}

}  // namespace cuda
}  // namespace fastsqrtm

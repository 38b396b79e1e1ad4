// The elementwise kernels of the accurate passes for large matrices (newton_steps.h). What a matrix does next is
// decided on the device, in its NewtonState: nothing waits for the host.
#pragma once

#include "cuda/library/kernels.cuh"

namespace fastsqrtm {
namespace cuda {

// Of one column: sums over what is off the diagonal.
template <typename T>
struct ColumnSums {
  T absolute;
  T squares;
  T diagonal;
};

template <typename T>
struct NewtonState {
  T bound;        // roots: of the largest eigenvalue of A / ||A||_F
  T unit;         // of the ridges
  T ridge;        // what is added to the diagonal
  T norm_b;       // 1-norm of B
  T keep, take;   // a step is keep (B, C) + take (W, W C W)
  T theta;        // mean of the diagonal of B
  int has_ridge;  // it has been found
  int done;       // B is near enough to theta I: steps change nothing any more
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

// Of M - theta I, from the column sums of M: the largest sum of the absolute values of a column.
template <typename T>
__device__ __forceinline__ T one_norm_of(const ColumnSums<T>* sums, int n, T theta, T* shared) {
  T largest = 0;
  for (int c = threadIdx.x; c < n; c += norm_threads) {
    largest = max_or_nan(largest, sums[c].absolute + std::fabs(sums[c].diagonal - theta));
  }
  return reduce_block(largest, shared, [](T a, T b) { return max_or_nan(a, b); });
}

// The kernels that follow have one block of 256 threads a matrix.

// The state at the start, from the column sums of the matrix that the ridges may be added to, in units of `unit` of its
// norm. Roots: the matrix is to be divided by `bound`, after which its norm counts as 1.
template <typename T>
__global__ void begin_newton_kernel(const ColumnSums<T>* sums, int n, bool roots, T unit, NewtonState<T>* states) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  const T norm = one_norm_of(sums + static_cast<int64_t>(blockIdx.x) * n, n, T(0), shared);
  if (threadIdx.x > 0) return;
  NewtonState<T> state = {};
  state.bound = roots && norm > T(0) && norm < T(1) ? norm : T(1);
  state.unit = unit * (roots ? T(1) : norm);
  state.ridge = not_a_number<T>();  // for what stays indefinite with every ridge
  states[blockIdx.x] = state;
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

// Whether B is near enough to theta I, from its column sums.
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

// From here on elementwise kernels again.

// factor = M / bound + shift I with shift in units of the matrix's own, and its address.
template <typename T>
__global__ void ridge_trial_kernel(const T* matrix, int64_t matrices, int n, const NewtonState<T>* states, T shift,
                                   T* factor, T** factors) {
  const int64_t size = static_cast<int64_t>(n) * n;
  for_elements(matrices, n, [&](int64_t m, int i, int j, int64_t at) {
    factor[at] = matrix[at] * reciprocal(states[m].bound) + (i == j ? shift * states[m].unit : T(0));
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

// M <- M / bound + ridge I
template <typename T>
__global__ void add_ridge_kernel(T* matrix, int64_t matrices, int n, const NewtonState<T>* states) {
  for_elements(matrices, n, [&](int64_t m, int i, int j, int64_t at) {
    const T off = states[m].has_ridge ? T(0) : not_a_number<T>();
    matrix[at] = matrix[at] * reciprocal(states[m].bound) + (i == j ? states[m].ridge : off);
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

// out = keep out + take (R + R^T) / 2, or that without out where keep is 0. A matrix whose factorisation failed is NaN.
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

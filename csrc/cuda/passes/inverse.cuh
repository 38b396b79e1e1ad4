// A -> A^-1 and log det A by one sweep, one launch, and the gradient of the inverse by two products. A matrix that is
// not positive definite gives NaN; the zero matrix gives +inf on the diagonal and a gradient of zero. Counterparts:
// csrc/cpu/passes/inverse.h and fastsqrtm/_reference/spd.py.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct Inverse : OneTeam {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input a;
    void* inverse;
    void* log_determinant;  // one number a matrix; nullptr: not asked for

    Arguments(const passes::Inverse&, const Operands& operands, const Plan&)
        : problem(operands.problem),
          a(operands.in[0]),
          inverse(operands.out[0].data),
          log_determinant(operands.out[1].data) {}
  };

  // Input and output share one place.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) {
    return s.matrix_elements() + s.panel_elements() + s.scratch_elements();
  }
  static int64_t large_matrices(const passes::Inverse&) { return 3; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

struct InverseBackward : OneTeam {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input inverse;
    Input cotangent;
    void* out;

    Arguments(const passes::InverseBackward&, const Operands& operands, const Plan&)
        : problem(operands.problem), inverse(operands.in[0]), cotangent(operands.in[1]), out(operands.out[0].data) {}
  };

  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) {
    return 2 * s.matrix_elements() + s.scratch_elements();
  }
  static int64_t large_matrices(const passes::InverseBackward&) { return 4; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/large.h"
#include "cuda/steps/infinite_identity.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tile/product.cuh"
#include "cuda/tile/sweep.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/inverse.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<Inverse> : TinyGradient<one_lane::Inverse> {
  static constexpr int number = 1;
  static FASTSQRTM_DEVICE double at_zero(const passes::Inverse&) { return infinity<double>(); }
};
template <>
struct TinyPass<InverseBackward> : TinyGradient<one_lane::InverseBackward> {
  static FASTSQRTM_DEVICE bool of_inverse(const Operands&) { return true; }
};

template <class V>
FASTSQRTM_DEVICE void Inverse::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_sweep;
  constexpr int shared = shared_elements(V::shape, 1);
  const Problem& problem = arguments.problem;
  const int n = problem.n;
  const int used_tiles = (n + V::tile - 1) / V::tile;
  T* work = reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared;
  const Panels<V> panels(work + V::matrix_elements);
  T* scratch = work + V::matrix_elements + V::panel_elements;
  const Owner<V, split> owner;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;

  load_matrix<V>(work, arguments.a, problem, index, threadIdx.x, V::threads);
  sync_team<V>();
  Fragment<V, split> h;
  read_part(work, T(1), owner, h);
  const Norm<T> norm = frobenius_norm(h, scratch);
  const bool finite = norm.ratio == norm.ratio;
  const T pivot = sweep_own(h, owner, n, used_tiles, panels);
  h.apply([finite](T value) { return finite ? -value : not_a_number<T>(); });
  if (norm.is_zero) {
    h.apply([](T) { return T(0); });
    h.add_to_diagonal(owner, infinity<T>());
  }
  write_lower(work, owner, h);
  sync_team<V>();
  store_matrix<V>(work, arguments.inverse, problem, index, threadIdx.x, V::threads);
  if (arguments.log_determinant != nullptr) {
    const T sum = team_sum<V>(std::log(pivot), scratch);
    const T value = norm.is_zero ? -infinity<T>() : finite ? sum : not_a_number<T>();
    if (threadIdx.x == 0 && index < problem.batch) store_number(value, arguments.log_determinant, problem, index);
  }
}

template <class V>
FASTSQRTM_DEVICE void InverseBackward::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  constexpr int shared = shared_elements(V::shape, 1);
  const Problem& problem = arguments.problem;
  const int used_tiles = (problem.n + V::tile - 1) / V::tile;
  T* z = reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared;
  T* c = z + V::matrix_elements;
  T* scratch = c + V::matrix_elements;
  const Owner<V, split> owner;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;

  load_matrix<V>(z, arguments.inverse, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(c, arguments.cotangent, problem, index, threadIdx.x, V::threads);
  sync_team<V>();
  Fragment<V, split> f, g;
  read_part(z, T(1), owner, f);
  const Norm<T> norm = frobenius_norm(f, scratch);
  const bool infinite = is_infinite_identity(f, owner, problem.n, scratch);  // by all lanes, so not behind ||
  const bool finite = norm.ratio == norm.ratio;
  read_part(c, T(1), owner, g);
  sync_team<V>();  // all have read the inputs
  write(z, owner, f, T(1));
  write(c, owner, g, T(1));
  sync_team<V>();
  {
    FullProduct<V> u;
    u.multiply(c, z, used_tiles);
    sync_team<V>();  // all have read the cotangent
    u.write(c);
  }
  sync_team<V>();
  symmetric_product(z, c, used_tiles, owner, f);
  f.apply([infinite, finite](T value) { return infinite ? T(0) : finite ? -value : not_a_number<T>(); });
  sync_team<V>();  // all have read the factors
  write(c, owner, f, T(1));
  sync_team<V>();
  store_matrix<V>(c, arguments.out, problem, index, threadIdx.x, V::threads);
}

// out = x, or what belongs to a zero matrix or to one that is not finite.
template <typename T>
__global__ void store_inverse_kernel(Problem problem, const T* x, const Norm<T>* norms, void* out) {
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    for_elements(problem.batch, problem.n, [&](int64_t m, int i, int j, int64_t at) {
      T value = norms[m].ratio == norms[m].ratio ? x[at] : not_a_number<T>();
      if (norms[m].is_zero) value = i == j ? infinity<T>() : T(0);
      static_cast<S*>(out)[at] = to_element<S>(value);
    });
  });
}

// The logarithm of the determinant of L L^T, for the Cholesky factors L.
template <typename T>
__global__ void log_determinant_kernel(Problem problem, const T* factor, const int* info, const Norm<T>* norms,
                                       void* out) {
  const int64_t matrix = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (matrix >= problem.batch) return;
  const int64_t n = problem.n;
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::log(factor[(matrix * n + i) * n + i]);
  const bool good = info[matrix] == 0 && norms[matrix].ratio == norms[matrix].ratio;
  const T value = norms[matrix].is_zero ? -infinity<T>() : good ? 2 * sum : not_a_number<T>();
  store_number(value, out, problem, matrix);
}

template <class Large>
void Inverse::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  T* x = large.matrices();
  T* factor = large.matrices();
  T* right = large.matrices();
  const Factorisations<T> f = large.factorisations(1);
  large.symmetrise(arguments.a, x);
  large.find_norms();
  large.elements(large.batch, &inverse_kernel<T>, x, large.batch, large.n, factor, right, f.factors, f.rights);
  large.solve(f, large.batch);
  large.tiles(&add_inverse_kernel<T>, right, f.info, large.n, T(0), T(1), x);
  large.elements(large.batch, &store_inverse_kernel<T>, large.problem(), x, large.norms(), arguments.inverse);
  if (arguments.log_determinant != nullptr) {
    large.library().run(&log_determinant_kernel<T>, (large.batch + 255) / 256, 1, 256, 1, 0, large.problem(), factor,
                        f.info, large.norms(), arguments.log_determinant);
  }
}

// out = -(x + x^T) / 2; 0 where the inverse was that of the zero matrix, else NaN where it was not finite.
template <typename T>
__global__ void store_inverse_gradient_kernel(Problem problem, const T* x, const Norm<T>* norms, const int* infinite,
                                              void* out) {
  const int n = problem.n;
  const int64_t start = static_cast<int64_t>(blockIdx.y) * n * n;
  const bool zero = infinite[blockIdx.y] != 0, finite = norms[blockIdx.y].ratio == norms[blockIdx.y].ratio;
  with_element<T>(problem.element, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    for_tile<T>(
        n, [&](int i, int j) { return x[start + static_cast<int64_t>(i) * n + j]; },
        [&](int i, int j, T value, T mirrored) {
          static_cast<S*>(out)[start + static_cast<int64_t>(i) * n + j] =
              to_element<S>(zero     ? T(0)
                            : finite ? T(-0.5) * (value + mirrored)
                                     : not_a_number<T>());
        });
  });
}

template <class Large>
void InverseBackward::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  T* z = large.matrices();
  T* g = large.matrices();
  T* u = large.matrices();
  T* x = large.matrices();
  int* infinite = large.template take<int>(large.batch);
  large.symmetrise(arguments.inverse, z);
  large.find_norms();
  large.library().run(&infinite_identity_kernel<T>, 1, large.batch, norm_threads, 1, 0, z, large.n, infinite);
  large.symmetrise(arguments.cotangent, g);
  large.gemm(1, g, z, 0, u);
  large.gemm(1, z, u, 0, x);
  large.tiles(&store_inverse_gradient_kernel<T>, large.problem(), x, large.norms(), infinite, arguments.out);
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

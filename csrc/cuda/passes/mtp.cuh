// Root or inverse root by the Taylor polynomial in W = I - A/nu, Paterson-Stockmeyer with W, W^2 and W^3: one launch.
// Counterparts: mtp_lya and mtp_lya_inv in csrc/cpu and fastsqrtm/_reference/series.py.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct Mtp : OneTeam {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input a;
    void* out;
    int degree;
    bool inverse;
    T coefficient[max_taylor_degree + 3] = {};  // zero beyond the degree

    Arguments(const passes::Mtp& pass, const Operands& operands, const Plan&)
        : problem(operands.problem),
          a(operands.in[0]),
          out(operands.out[0].data),
          degree(pass.degree),
          inverse(pass.inverse()) {
      for (int k = 0; k <= degree; ++k) coefficient[k] = static_cast<T>(pass.coefficients[k]);
    }
  };

  // Two factors of a product, and the powers W and W^2 as packed triangles.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) {
    return 2 * s.matrix_elements() + 2 * s.triangle_elements(s.split_symmetric) + s.scratch_elements();
  }
  static int64_t large_matrices(const passes::Mtp&) { return 6; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/large.h"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tile/product.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/mtp.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<Mtp> : TinyRoot<one_lane::Mtp> {
  template <typename T>
  using Numbers = MtpNumbers<T>;
};

template <class V>
FASTSQRTM_DEVICE void Mtp::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  constexpr int shared = shared_elements(V::shape, 1);
  constexpr int triangle = Triangle<V, split>::elements;
  const int used_tiles = (arguments.problem.n + V::tile - 1) / V::tile;
  T* factor = reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared;
  T* cube = factor + V::matrix_elements;
  const Triangle<V, split> w{cube + V::matrix_elements};
  const Triangle<V, split> w_squared{w.data + triangle};
  T* scratch = w_squared.data + triangle;
  const Owner<V, split> owner;
  const int degree = arguments.degree;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  load_matrix<V>(factor, arguments.a, arguments.problem, index, threadIdx.x, V::threads);
  sync_team<V>();
  Fragment<V, split> f;
  read_part(factor, T(1), owner, f);
  T final_scale;
  {
    const Norm<T> norm = frobenius_norm(f, scratch);
    f.apply([norm](T value) { return -norm.normalise(value); });
    final_scale = result_scale(norm, arguments.inverse);
  }
  f.add_to_diagonal(owner, T(1));
  w.store(f);
  sync_team<V>();  // all have read the input
  write(factor, owner, f, T(1));
  sync_team<V>();
  if (degree >= 2) {
    symmetric_product(factor, factor, used_tiles, owner, f);
    w_squared.store(f);
  }
  if (degree >= 3) {
    write(cube, owner, f, T(1));
    sync_team<V>();
    symmetric_product(factor, cube, used_tiles, owner, f);
    sync_team<V>();
    write(cube, owner, f, T(1));
  }
  // Horner in W^3 from the highest block c[3q] I + c[3q+1] W + c[3q+2] W^2 down.
  f.apply([](T) { return T(0); });
  for (int block = degree / 3; block >= 0; --block) {
    if (block < degree / 3) {
      sync_team<V>();
      symmetric_product(factor, cube, used_tiles, owner, f);
      sync_team<V>();
    }
    const T* coefficient = arguments.coefficient + 3 * block;
    const T c1 = coefficient[1], c2 = coefficient[2];
    f.add_to_diagonal(owner, coefficient[0]);
    w.combine_into(f, [c1](T sum, T value) { return sum + c1 * value; });
    if (degree >= 2) w_squared.combine_into(f, [c2](T sum, T value) { return sum + c2 * value; });
    if (block > 0) write(factor, owner, f, T(1));
  }
  scale_result(f, owner, final_scale, arguments.inverse);
  sync_team<V>();
  write(factor, owner, f, T(1));
  sync_team<V>();
  store_matrix<V>(factor, arguments.out, arguments.problem, index, threadIdx.x, V::threads);
}

template <class Large>
void Mtp::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  const int n = large.n, degree = arguments.degree;
  T* w = large.matrices();
  T* w_squared = large.matrices();
  T* w_cubed = large.matrices();
  T* sum = large.matrices();
  T* next = large.matrices();
  large.symmetrise(arguments.a, w);
  large.find_norms();
  large.scale(w, Scale::inverse_norm, T(-1), T(1));
  if (degree >= 2) large.gemm(1, w, w, 0, w_squared);
  if (degree >= 3) large.gemm(1, w, w_squared, 0, w_cubed);
  for (int block = degree / 3; block >= 0; --block) {
    const T* c = arguments.coefficient + 3 * block;
    large.elements(large.batch, &taylor_block_kernel<T>, next, large.batch, n, w, w_squared, c[0], c[1], c[2]);
    if (block < degree / 3) large.gemm(1, sum, w_cubed, 1, next);
    std::swap(sum, next);
  }
  large.tiles(&finish_kernel<T>, large.finish_arguments(arguments.out, sum, finish_of(arguments.inverse)));
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

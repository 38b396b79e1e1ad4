// Root or inverse root by the Taylor polynomial in W = I - A/nu, Paterson-Stockmeyer with W, W^2 and W^3: one launch.
// Counterparts: mtp_lya and mtp_lya_inv in csrc/cpu and fastsqrtm/reference.py.
#pragma once

#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tile/product.cuh"

namespace fastsqrtm {
namespace cuda {

template <class V>
__global__ void __launch_bounds__(max_threads(Fused::mtp, V::shape), 1)
    mtp_kernel(const __grid_constant__ MtpArguments<typename V::scalar> arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  constexpr int triangle = Triangle<V, split>::elements;
  const int blocks = (arguments.problem.n + V::tile - 1) / V::tile;
  T* factor =
      reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared_elements(Fused::mtp, V::shape, 1);
  T* cube = factor + V::matrix_elements;
  const Triangle<V, split> w{cube + V::matrix_elements};
  const Triangle<V, split> w_squared{w.data + triangle};
  T* scratch = w_squared.data + triangle;
  const Owner<V, split> owner;
  const int degree = arguments.degree;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  load_matrix<V>(factor, arguments.a, arguments.problem, index, threadIdx.x, V::threads);
  sync_team<V::threads>();
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
  sync_team<V::threads>();  // all have read the input
  write(factor, owner, f, T(1));
  sync_team<V::threads>();
  if (degree >= 2) {
    symmetric_product(factor, factor, blocks, owner, f);
    w_squared.store(f);
  }
  if (degree >= 3) {
    write(cube, owner, f, T(1));
    sync_team<V::threads>();
    symmetric_product(factor, cube, blocks, owner, f);
    sync_team<V::threads>();
    write(cube, owner, f, T(1));
  }
  // Horner in W^3 from the highest block c[3q] I + c[3q+1] W + c[3q+2] W^2 down.
  f.apply([](T) { return T(0); });
  for (int block = degree / 3; block >= 0; --block) {
    if (block < degree / 3) {
      sync_team<V::threads>();
      symmetric_product(factor, cube, blocks, owner, f);
      sync_team<V::threads>();
    }
    const T* coefficient = arguments.coefficient + 3 * block;
    const T c1 = coefficient[1], c2 = coefficient[2];
    f.add_to_diagonal(owner, coefficient[0]);
    w.combine_into(f, [c1](T sum, T value) { return sum + c1 * value; });
    if (degree >= 2) w_squared.combine_into(f, [c2](T sum, T value) { return sum + c2 * value; });
    if (block > 0) write(factor, owner, f, T(1));
  }
  scale_result(f, owner, final_scale, arguments.inverse);
  sync_team<V::threads>();
  write(factor, owner, f, T(1));
  sync_team<V::threads>();
  store_matrix<V>(factor, arguments.problem, index, threadIdx.x, V::threads);
}

}  // namespace cuda
}  // namespace fastsqrtm

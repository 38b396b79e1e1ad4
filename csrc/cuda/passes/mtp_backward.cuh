// The exact gradient of the Taylor polynomial: its Horner steps in W^2 and their derivatives, one launch.
// Counterparts: mtp_backward and mtp_inv_backward in csrc/cpu and fastsqrtm/reference.py.
#pragma once

#include "cuda/steps/derivative.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/product.cuh"

namespace fastsqrtm {
namespace cuda {

// H <- W^2 H + c_2i I + c_2i+1 W,  D <- W^2 D + (W G + G W) H + c_2i+1 G,  W = I - X: half products, as all are
// symmetric. Three matrices are enough: once W^2 D is in registers, W G + G W takes the place of D. The derivative with
// respect to X is -D.
template <class V>
__global__ void __launch_bounds__(max_threads(Fused::mtp_backward, V::shape), 1)
    mtp_backward_kernel(const __grid_constant__ MtpBackwardArguments<typename V::scalar> arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  constexpr int kept = kept_elements(Fused::mtp_backward, V::shape);
  const MtpArguments<T>& series = arguments.series;
  const Problem& problem = series.problem;
  const int blocks = (problem.n + V::tile - 1) / V::tile;
  T* square = reinterpret_cast<T*>(dynamic_shared()) +
              static_cast<int>(threadIdx.y) * shared_elements(Fused::mtp_backward, V::shape, 1);
  T* value = square + V::matrix_elements;
  T* derivative = value + V::matrix_elements;
  T* scratch = derivative + V::matrix_elements;
  const Owner<V, split> owner;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  T* place = arguments.kept + index * kept;
  Held<V, split, kept != 0> w{place}, g{place + kept / 4}, square_derivative{place + kept / 2}, d{place + kept / 4 * 3};
  load_matrix<V>(square, series.a, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(derivative, arguments.cotangent, problem, index, threadIdx.x, V::threads);
  sync_team<V::threads>();
  Fragment<V, split> f;
  read_part(square, T(1), owner, f);
  T scale;
  {
    const Norm<T> norm = frobenius_norm(f, scratch);
    f.apply([norm](T x) { return -norm.normalise(x); });
    scale = norm.inverse_root();
  }
  f.add_to_diagonal(owner, T(1));
  w.store(f);
  write(value, owner, f, T(1));
  read_part(derivative, T(1), owner, f);
  g.store(f);
  sync_team<V::threads>();  // all have read the inputs
  write(derivative, owner, f, T(1));
  sync_team<V::threads>();

  const T* c = series.coefficient;
  int i = (series.degree - 1) / 2;
  const auto load = [&f](const auto& held) {
    f.apply([](T) { return T(0); });  // for lanes without a tile
    held.combine_into(f, [](T, T x) { return x; });
  };
  const auto add = [&f](const auto& held, T factor) {
    held.combine_into(f, [factor](T sum, T x) { return sum + factor * x; });
  };
  // The highest three coefficients, of which the first is 0 if the degree is odd, need no product.
  const auto times_highest = [&f, highest = c[2 * i + 2]] { f.apply([highest](T x) { return highest * x; }); };
  product_plus_transpose(value, derivative, T(1), blocks, owner, f);
  square_derivative.store(f);
  times_highest();
  add(g, c[2 * i + 1]);
  d.store(f);
  symmetric_product(value, value, blocks, owner, f);
  write(square, owner, f, T(1));
  times_highest();
  add(w, c[2 * i + 1]);
  f.add_to_diagonal(owner, c[2 * i]);
  while (--i >= 0) {
    sync_team<V::threads>();  // all have read value and derivative
    write(value, owner, f, T(1));
    load(d);
    write(derivative, owner, f, T(1));
    FASTSQRTM_SEEDED_SYNC(sync_team<V::threads>());
    symmetric_product(square, derivative, blocks, owner, f);
    d.store(f);
    load(square_derivative);
    sync_team<V::threads>();  // all have read derivative
    write(derivative, owner, f, T(1));
    sync_team<V::threads>();
    symmetric_product(derivative, value, blocks, owner, f);
    add(d, T(1));
    add(g, c[2 * i + 1]);
    d.store(f);
    symmetric_product(square, value, blocks, owner, f);
    add(w, c[2 * i + 1]);
    f.add_to_diagonal(owner, c[2 * i]);
  }

  Fragment<V, split> other = f;
  load(g);
  T radial = (series.inverse ? T(-0.5) : T(0.5)) * inner_product(other, f, T(0), owner);
  load(w);
  other = f;
  load(d);
  radial -= inner_product(f, other, T(-1), owner);  // <L, X> = <-D, I - W>
  f.apply([](T x) { return -x; });
  other.apply([](T x) { return -x; });
  other.add_to_diagonal(owner, T(1));
  finish_gradient(f, other, radial, scale, series.inverse, scratch);
  sync_team<V::threads>();  // all have read value
  write(value, owner, f, T(1));
  sync_team<V::threads>();
  store_matrix<V>(value, problem, index, threadIdx.x, V::threads);
}

}  // namespace cuda
}  // namespace fastsqrtm

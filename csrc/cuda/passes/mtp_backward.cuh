// The exact gradient of the Taylor polynomial: its Horner steps in W^2 and their derivatives, one launch.
// Counterparts: mtp_backward and mtp_inv_backward in csrc/cpu and fastsqrtm/_reference/series.py.
#pragma once

#include "cuda/passes/mtp.cuh"

namespace fastsqrtm {
namespace cuda {

struct MtpBackward : OneTeam {
  template <typename T>
  struct Arguments {
    Mtp::Arguments<T> series;
    Input cotangent;
    T* kept;  // batch x kept_elements

    Arguments(const passes::MtpBackward& pass, const Operands& operands, const Plan& plan)
        : series(pass, operands, plan), cotangent(operands.in[1]), kept(static_cast<T*>(operands.kept)) {}
  };

  // W^2, H and one place that D and W G + G W share.
  static FASTSQRTM_HOST_DEVICE constexpr int shared_elements(const Shape& s, int) { return three_matrices(s); }
  static constexpr int64_t kept_elements(const Shape& s, const Problem&) { return four_kept_triangles(s); }
  static int64_t large_matrices(const passes::MtpBackward&) { return 8; }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
  template <class Large>
  static void run_large(Large& large, const Arguments<typename Large::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include "cuda/library/derivative.h"
#include "cuda/steps/derivative.cuh"
#include "cuda/tile/memory.cuh"
#include "cuda/tile/product.cuh"
#include "cuda/tiny/kernel.cuh"
// Functions of vectors with one lane.
#include "cpu/passes/mtp_backward.h"

namespace fastsqrtm {
namespace cuda {

template <>
struct TinyPass<MtpBackward> : TinyGradient<one_lane::MtpBackward> {
  template <typename T>
  using Numbers = MtpNumbers<T>;
};

// H <- W^2 H + c_2i I + c_2i+1 W,  D <- W^2 D + (W G + G W) H + c_2i+1 G,  W = I - X: half products, as all are
// symmetric. Three matrices are enough: once W^2 D is in registers, W G + G W takes the place of D. The derivative with
// respect to X is -D.
template <class V>
FASTSQRTM_DEVICE void MtpBackward::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_symmetric;
  constexpr int shared = shared_elements(V::shape, 1);
  constexpr int kept = four_kept_triangles(V::shape);
  const Mtp::Arguments<T>& series = arguments.series;
  const Problem& problem = series.problem;
  const int used_tiles = (problem.n + V::tile - 1) / V::tile;
  T* square = reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared;
  T* value = square + V::matrix_elements;
  T* derivative = value + V::matrix_elements;
  T* scratch = derivative + V::matrix_elements;
  const Owner<V, split> owner;

  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  T* place = arguments.kept + index * kept;
  Held<V, split, kept != 0> w{place}, g{place + kept / 4}, square_derivative{place + kept / 2}, d{place + kept / 4 * 3};
  load_matrix<V>(square, series.a, problem, index, threadIdx.x, V::threads);
  load_matrix<V>(derivative, arguments.cotangent, problem, index, threadIdx.x, V::threads);
  sync_team<V>();
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
  sync_team<V>();  // all have read the inputs
  write(derivative, owner, f, T(1));
  sync_team<V>();

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
  product_plus_transpose(value, derivative, T(1), used_tiles, owner, f);
  square_derivative.store(f);
  times_highest();
  add(g, c[2 * i + 1]);
  d.store(f);
  symmetric_product(value, value, used_tiles, owner, f);
  write(square, owner, f, T(1));
  times_highest();
  add(w, c[2 * i + 1]);
  f.add_to_diagonal(owner, c[2 * i]);
  while (--i >= 0) {
    sync_team<V>();  // all have read value and derivative
    write(value, owner, f, T(1));
    load(d);
    write(derivative, owner, f, T(1));
    FASTSQRTM_SEEDED_SYNC(sync_team<V>());
    symmetric_product(square, derivative, used_tiles, owner, f);
    d.store(f);
    load(square_derivative);
    sync_team<V>();  // all have read derivative
    write(derivative, owner, f, T(1));
    sync_team<V>();
    symmetric_product(derivative, value, used_tiles, owner, f);
    add(d, T(1));
    add(g, c[2 * i + 1]);
    d.store(f);
    symmetric_product(square, value, used_tiles, owner, f);
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
  sync_team<V>();  // all have read value
  write(value, owner, f, T(1));
  sync_team<V>();
  store_matrix<V>(value, series.out, problem, index, threadIdx.x, V::threads);
}

template <class Large>
void MtpBackward::run_large(Large& large, const Arguments<typename Large::scalar>& arguments) {
  using T = typename Large::scalar;
  const Mtp::Arguments<T>& series = arguments.series;
  const int n = large.n;
  const int64_t batch = large.batch;
  T* w = large.matrices();
  T* g = large.matrices();
  T* w_squared = large.matrices();
  T* squared_derivative = large.matrices();
  T* h = large.matrices();
  T* d = large.matrices();
  T* next_h = large.matrices();
  T* next_d = large.matrices();
  large.symmetrise(series.a, w);
  large.find_norms();
  large.symmetrise(arguments.cotangent, g);
  large.scale(w, Scale::inverse_norm, T(-1), T(1));
  large.gemm(1, w, w, 0, w_squared);
  large.gemm(1, w, g, 0, squared_derivative);
  large.gemm(1, g, w, 1, squared_derivative);
  const auto without_products = [&](T* value, T* derivative, T c0, T c1, T c2) {
    large.elements(batch, &taylor_derivative_kernel<T>, value, derivative, batch, n, w, w_squared, g,
                   squared_derivative, c0, c1, c2);
  };
  const T* c = series.coefficient;
  int i = (series.degree - 1) / 2;
  without_products(h, d, c[2 * i], c[2 * i + 1], c[2 * i + 2]);
  while (--i >= 0) {
    without_products(next_h, next_d, c[2 * i], c[2 * i + 1], T(0));
    large.gemm(1, w_squared, d, 1, next_d);
    large.gemm(1, squared_derivative, h, 1, next_d);
    large.gemm(1, w_squared, h, 1, next_h);
    std::swap(h, next_h);
    std::swap(d, next_d);
  }
  // The gradient needs X = I - W, which W has replaced.
  large.symmetrise(series.a, w);
  ExactGradient<T> gradient = gradient_of(large, series.out, series.inverse, w, g, d, h, T(-1));
  gradient.weight[0] = T(1);
  finish_gradient(large, gradient);
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

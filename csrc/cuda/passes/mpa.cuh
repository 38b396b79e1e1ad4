// Root or inverse root by the diagonal Pade approximant in partial fractions: one sweep per shift, one launch.
// Counterparts: mpa_lya and mpa_lya_inv in csrc/cpu and fastsqrtm/reference.py.
#pragma once

#include "cuda/tile/memory.cuh"
#include "cuda/tile/norm.cuh"
#include "cuda/tile/sweep.cuh"

namespace fastsqrtm {
namespace cuda {

// Block: threadIdx.y = matrix in the block * groups + group. Group g takes the shifts g, g + groups, ...; their sum is
// taken in the order of the shifts, so the number of groups changes no bit.
template <class V>
__global__ void __launch_bounds__(max_threads(Fused::mpa, V::shape), 1)
    mpa_kernel(const __grid_constant__ MpaArguments<typename V::scalar> arguments) {
  using T = typename V::scalar;
  constexpr int split = V::split_sweep;
  const int groups = arguments.groups;
  // A matrix of whole warps has its block for itself: its place need not be kept in registers.
  constexpr bool alone = V::threads >= 32;
  const int group = alone ? static_cast<int>(threadIdx.y) : static_cast<int>(threadIdx.y) % groups;
  const int local = alone ? 0 : static_cast<int>(threadIdx.y) / groups;
  const int matrices = alone ? 1 : static_cast<int>(blockDim.y) / groups;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * matrices + local;
  const int member = group * V::threads + static_cast<int>(threadIdx.x);  // among all threads of this matrix
  const int members = groups * V::threads;
  const int blocks = (arguments.problem.n + V::tile - 1) / V::tile;

  constexpr int triangle = Triangle<V, split>::elements;
  constexpr int work_elements = larger(V::matrix_elements, 2 * triangle);
  T* work = reinterpret_cast<T*>(dynamic_shared()) + local * arguments.shared_elements;
  T* after_work = work + work_elements;
  T* team = after_work + (groups > 1 ? groups * triangle : 0) + group * (V::panel_elements + V::scratch_elements);
  const Triangle<V, split> x{work};
  const Triangle<V, split> y{work + triangle};
  const Triangle<V, split> swept{after_work + group * triangle};
  const Panels<V> panels(team);
  T* scratch = team + V::panel_elements;
  const auto sync_matrix = [groups] {
    if (groups > 1) {
      __syncthreads();
    } else {
      sync_team<V::threads>();
    }
  };

  const Owner<V, split> owner;
  load_matrix<V>(work, arguments.a, arguments.problem, index, member, members);
  sync_matrix();
  Fragment<V, split> h;
  read_part(work, T(1), owner, h);
  {
    const Norm<T> norm = frobenius_norm(h, scratch);
    h.apply([norm](T value) { return norm.normalise(value); });
    sync_matrix();  // the packed triangles take the place of the input, what scales the result that of the norm
    if (threadIdx.x == 0) scratch[0] = result_scale(norm, arguments.inverse);
  }
  if (group == 0) {
    x.store(h);
    h.apply([](T) { return T(0); });
    h.add_to_diagonal(owner, arguments.constant);
    y.store(h);
  }
  sync_matrix();
  for (int round = 0; round < arguments.degree; round += groups) {
    const T scale = round + group < arguments.degree ? arguments.scale[round + group] : T(0);
    x.combine_into(h, [scale](T, T value) { return scale * value; });
    sweep(h, owner, blocks, !arguments.inverse, panels);
    if (groups == 1) {
      const T weight = arguments.weight[round];
      y.combine_into(h, [weight](T value, T sum) { return std::fma(weight, value, sum); });
      y.store(h);
      continue;
    }
    swept.store(h);
    sync_matrix();
    if (group == 0) {
      y.combine_into(h, [](T, T sum) { return sum; });
      for (int g = 0; g < groups && round + g < arguments.degree; ++g) {
        const T weight = arguments.weight[round + g];
        const Triangle<V, split> other{after_work + g * triangle};
        other.combine_into(h, [weight](T sum, T value) { return std::fma(weight, value, sum); });
      }
      y.store(h);
    }
    sync_matrix();
  }
  if (group == 0) {
    y.combine_into(h, [](T, T sum) { return sum; });
    scale_result(h, owner, scratch[0], arguments.inverse);
  }
  sync_matrix();  // the output takes the place of the packed triangles
  if (group == 0) write_lower(work, owner, h);
  sync_matrix();
  store_matrix<V>(work, arguments.problem, index, member, members);
}

}  // namespace cuda
}  // namespace fastsqrtm

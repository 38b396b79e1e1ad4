// The path for matrices that do not fit a block: library products and factorisations, fused elementwise kernels
// between. The order of the steps stands here, apart from the libraries, so that it runs on the host as well: `Library`
// is cuBLAS and cuSOLVER in large.cu and plain loops in tests/emulation.
//
// Library: run(kernel, blocks_x, blocks_y, threads_x, threads_y, shared_bytes, arguments...)
//          gemm(alpha, X, Y, beta, out, n, batch)      out = alpha X Y + beta out, row-major
//          solve(factors, rights, info, n, count)      right <- factor^-1 right by Cholesky; factor is destroyed
#pragma once

#include <cstddef>
#include <utility>

#include "large_kernels.cuh"
#include "large_newton_kernels.cuh"

namespace fastsqrtm {
namespace cuda {

struct LargeOp {
  Fused op;
  Problem problem;
  Input first, second, third;
  int degree;
  int iterations;
  bool inverse;
};

// Matrices of workspace for one matrix of the batch.
inline int64_t large_terms(Fused op, int degree) {
  if (op == Fused::accurate_roots) return degree > 2 ? degree : 2;  // the poles; X and Y
  return op == Fused::mpa ? degree : 1;
}
inline int64_t large_matrices(Fused op, int degree) {
  if (op == Fused::accurate_roots) return 3 + 2 * large_terms(op, degree);
  return op == Fused::mpa ? 1 + 2 * degree : 6;
}

inline int64_t large_tiles(int64_t n) {
  const int64_t edge = (n + tile_edge - 1) / tile_edge;
  return edge * edge;
}

// Bytes of workspace for `batch` matrices.
inline int64_t large_workspace_bytes(Fused op, int64_t batch, int64_t n, int degree, int element_bytes) {
  const int64_t partial = element_bytes == 8 ? sizeof(PartialNorm<double>) : sizeof(PartialNorm<float>);
  const int64_t norm = element_bytes == 8 ? sizeof(Norm<double>) : sizeof(Norm<float>);
  const int64_t sums = element_bytes == 8 ? sizeof(ColumnSums<double>) : sizeof(ColumnSums<float>);
  const int64_t state = element_bytes == 8 ? sizeof(NewtonState<double>) : sizeof(NewtonState<float>);
  const int64_t bytes = large_matrices(op, degree) * n * n * element_bytes + large_tiles(n) * partial + norm +
                        large_terms(op, degree) * (2 * sizeof(void*) + sizeof(int)) + sizeof(int) + n * sums + state;
  return batch * bytes + 16 * 256;  // every part starts at a multiple of 256 bytes
}

// As many matrices at a time as a gigabyte of workspace and the second dimension of a grid allow.
inline int64_t large_chunk(Fused op, int64_t batch, int64_t n, int degree, int element_bytes) {
  constexpr int64_t limit = int64_t(1) << 30;
  const int64_t each = large_workspace_bytes(op, 1, n, degree, element_bytes);
  int64_t chunk = limit / each;
  chunk = chunk < 1 ? 1 : chunk > 32768 ? 32768 : chunk;
  return chunk < batch ? chunk : batch;
}

template <typename T, class Library>
class Large {
 public:
  Large(Library& library, const LargeOp& op, void* workspace)
      : library_(library),
        o_(op),
        n_(op.problem.n),
        batch_(op.problem.batch),
        next_(static_cast<unsigned char*>(workspace)) {
    partial_ = take<PartialNorm<T>>(batch_ * large_tiles(n_));
    norms_ = take<Norm<T>>(batch_);
  }

  void run() {
    switch (o_.op) {
      case Fused::mpa:
        return mpa();
      case Fused::mtp:
        return mtp();
      case Fused::sqrtm_lya_backward:
        return sqrtm_lya_backward();
      case Fused::inv_sqrtm_lya_backward:
        return inv_sqrtm_lya_backward();
      case Fused::lyapunov:
        return lyapunov();
      default:
        return;  // the accurate methods: large_newton.h
    }
  }

 protected:
  template <class S>
  S* take(int64_t count) {
    S* start = reinterpret_cast<S*>(next_);
    next_ += (count * sizeof(S) + 255) / 256 * 256;
    return start;
  }
  T* matrices(int64_t count = 1) { return take<T>(count * batch_ * n_ * n_); }

  template <class Kernel, class... Arguments>
  void elements(int64_t count, Kernel kernel, const Arguments&... arguments) {
    const int64_t blocks = (count * n_ * n_ + 255) / 256;
    library_.run(kernel, blocks < 8192 ? blocks : 8192, 1, 256, 1, 0, arguments...);
  }
  template <class Kernel, class... Arguments>
  void tiles(Kernel kernel, const Arguments&... arguments) {
    library_.run(kernel, large_tiles(n_), batch_, tile_edge, tile_rows, tile_edge * (tile_edge + 1) * sizeof(T),
                 arguments...);
  }
  void gemm(T alpha, const T* x, const T* y, T beta, T* out) { library_.gemm(alpha, x, y, beta, out, n_, batch_); }

  void symmetrise(const Input& in, T* out) { tiles(&symmetrise_kernel<T>, o_.problem, in, out, partial_); }
  // of what was symmetrised last
  void find_norms() {
    library_.run(&norm_kernel<T>, 1, batch_, norm_threads, 1, norm_threads * sizeof(T),
                 static_cast<const PartialNorm<T>*>(partial_), static_cast<int>(large_tiles(n_)), norms_);
  }
  void scale(T* x, Scale how, T factor, T diagonal) {
    elements(batch_, &scale_kernel<T>, x, batch_, n_, static_cast<const Norm<T>*>(norms_), how, factor, diagonal);
  }
  FinishArguments<T> finish_arguments(const T* terms, Finish finish) {
    FinishArguments<T> a{o_.problem, terms, norms_, nullptr, nullptr, 1, finish, T(0), {}};
    a.weight[0] = T(1);
    return a;
  }

  void mpa() {
    MpaArguments<T> arguments = mpa_arguments<T>(o_.problem, o_.first, o_.degree, o_.inverse, {0, 1, 1, 0, 0});
    const int64_t count = batch_ * o_.degree;
    T* x = matrices();
    T* factor = matrices(o_.degree);
    T* right = matrices(o_.degree);
    T** factors = take<T*>(count);
    T** rights = take<T*>(count);
    int* info = take<int>(count);
    symmetrise(o_.first, x);
    find_norms();
    elements(count, &shift_kernel<T>, arguments, static_cast<const T*>(x), static_cast<const Norm<T>*>(norms_), factor,
             right, factors, rights);
    library_.solve(factors, rights, info, n_, count);
    FinishArguments<T> finish = finish_arguments(right, o_.inverse ? Finish::inverse_root : Finish::root);
    finish.info = info;
    finish.count = o_.degree;
    finish.constant = arguments.constant;
    // The weights of the inverse root are those of the sweep, which ends with -(I + H)^-1.
    for (int j = 0; j < o_.degree; ++j) finish.weight[j] = o_.inverse ? -arguments.weight[j] : arguments.weight[j];
    tiles(&finish_kernel<T>, finish);
  }

  void mtp() {
    const MtpArguments<T> arguments = mtp_arguments<T>(o_.problem, o_.first, o_.degree, o_.inverse);
    T* w = matrices();
    T* w_squared = matrices();
    T* w_cubed = matrices();
    T* sum = matrices();
    T* next = matrices();
    symmetrise(o_.first, w);
    find_norms();
    scale(w, Scale::inverse_norm, T(-1), T(1));
    if (o_.degree >= 2) gemm(1, w, w, 0, w_squared);
    if (o_.degree >= 3) gemm(1, w, w_squared, 0, w_cubed);
    for (int block = o_.degree / 3; block >= 0; --block) {
      const T* c = arguments.coefficient + 3 * block;
      elements(batch_, &taylor_block_kernel<T>, next, batch_, n_, static_cast<const T*>(w),
               static_cast<const T*>(w_squared), c[0], c[1], c[2]);
      if (block < o_.degree / 3) gemm(1, sum, w_cubed, 1, next);
      std::swap(sum, next);
    }
    tiles(&finish_kernel<T>, finish_arguments(sum, o_.inverse ? Finish::inverse_root : Finish::root));
  }

  // Returns where C is after the steps from b and c, both symmetric and scaled.
  T* symmetric_steps(T* b, T* c, T* first, T* second, T* third) {
    for (int k = 0; k < o_.iterations; ++k) {
      gemm(1, c, b, 0, first);
      tiles(&transpose_minus_half_kernel<T>, second, static_cast<const T*>(first), n_);
      gemm(1, b, second, 0, first);
      tiles(&symmetric_step_kernel<T>, c, static_cast<const T*>(first), second, n_);
      if (k + 1 == o_.iterations) break;
      gemm(T(-0.5), b, b, 1, second);
      gemm(1, b, second, 0, third);
      std::swap(b, third);
    }
    return c;
  }

  void sqrtm_lya_backward() {
    T* b = matrices();
    T* c = matrices();
    T* first = matrices();
    T* second = matrices();
    T* third = matrices();
    symmetrise(o_.first, first);
    find_norms();
    symmetrise(o_.second, b);
    symmetrise(o_.third, c);
    scale(b, Scale::inverse_root, T(1), T(0));
    scale(c, Scale::inverse_root, T(1), T(0));
    finish_gradient(symmetric_steps(b, c, first, second, third), Finish::gradient, nullptr);
  }

  void inv_sqrtm_lya_backward() {
    T* b = matrices();
    T* c = matrices();
    T* first = matrices();
    T* second = matrices();
    T* third = matrices();
    int* infinite = take<int>(batch_);
    symmetrise(o_.first, b);
    find_norms();
    library_.run(&infinite_identity_kernel<T>, 1, batch_, norm_threads, 1, 0, static_cast<const T*>(b), n_, infinite);
    scale(b, Scale::inverse_norm, T(1), T(0));
    symmetrise(o_.second, second);
    gemm(1, b, b, 0, first);
    gemm(1, first, second, 0, third);
    gemm(-1, third, first, 0, c);
    finish_gradient(symmetric_steps(b, c, first, second, third), Finish::inverse_gradient, infinite);
  }

  void lyapunov() {
    T* b = matrices();
    T* c = matrices();
    T* u = matrices();
    T* q = matrices();
    T* m = matrices();
    T* next = matrices();
    symmetrise(o_.first, b);
    find_norms();
    scale(b, Scale::inverse_norm, T(1), T(0));
    elements(batch_, &load_kernel<T>, o_.problem, o_.second, c, static_cast<const Norm<T>*>(norms_),
             Scale::inverse_norm);
    // C without symmetry: B^2 C - B C B + C B^2 = B (Q - U/2) + (U - Q/2) B with U = C B, Q = B C.
    for (int k = 0; k < o_.iterations; ++k) {
      gemm(1, c, b, 0, u);
      gemm(1, b, c, 0, q);
      elements(batch_, &general_step_kernel<T>, u, q, m, batch_, n_);
      gemm(T(-0.5), b, q, T(1.5), c);
      gemm(T(-0.5), u, b, 1, c);
      if (k + 1 == o_.iterations) break;
      gemm(T(-0.5), b, b, 1, m);
      gemm(1, b, m, 0, next);
      std::swap(b, next);
    }
    finish_gradient(c, Finish::plain, nullptr);
  }

  void finish_gradient(const T* c, Finish finish, const int* is_zero_gradient) {
    FinishArguments<T> a = finish_arguments(c, finish);
    a.weight[0] = T(0.5);
    a.is_zero_gradient = is_zero_gradient;
    tiles(&finish_kernel<T>, a);
  }

  Library& library_;
  const LargeOp o_;
  const int n_;
  const int64_t batch_;
  unsigned char* next_;
  PartialNorm<T>* partial_;
  Norm<T>* norms_;
};

}  // namespace cuda
}  // namespace fastsqrtm

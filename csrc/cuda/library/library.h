// The path for matrices that do not fit a block: library products and factorisations, fused elementwise kernels
// between. The order of the steps stands here, apart from the libraries, so that it runs on the host as well: `Library`
// is cuBLAS and cuSOLVER in large.cu and plain loops in tests/emulation.
//
// Library: run(kernel, blocks_x, blocks_y, threads_x, threads_y, shared_bytes, arguments...)
//          gemm(alpha, X, Y, beta, out, n, batch, rows)  out = alpha X Y + beta out, row-major
//          solve(factors, rights, info, n, count)      right <- factor^-1 right by Cholesky; factor is destroyed
//          products(x, y, out, n, count)               out[i] = x[i] y[i], by addresses
#pragma once

#include <cstddef>
#include <utility>

#include "cuda/library/kernels.cuh"
#include "cuda/library/newton_kernels.cuh"

namespace fastsqrtm {
namespace cuda {

// Of X and of the result of a product, `count` matrices one upon the other take part; what belongs to the next of the
// batch starts so many matrices further.
struct Rows {
  int count = 1;
  int x = 1, y = 1, out = 1;
};

struct LargeOp {
  Fused op;
  Problem problem;
  Input first, second, third;
  int degree;
  int iterations;
  bool inverse;
};

// Terms that are factored and solved at once, for one matrix of the batch.
inline int64_t large_terms(Fused op, int degree) {
  switch (op) {
    case Fused::accurate_roots:
      return degree > 2 ? degree : 2;  // the poles; X and Y
    case Fused::mpa:
    case Fused::mpa_backward:
      return degree;
    default:
      return 1;
  }
}
// Matrices of workspace for one matrix of the batch.
inline int64_t large_matrices(Fused op, int degree) {
  switch (op) {
    case Fused::accurate_roots:
      return 3 + 2 * large_terms(op, degree);
    case Fused::mpa:
      return 1 + 2 * degree;
    case Fused::mpa_backward:
      return 3 + 2 * degree;
    case Fused::mtp_backward:
      return 8;
    case Fused::ns_backward:
      return 12;
    default:
      return 6;
  }
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
  const int64_t bytes = large_matrices(op, degree) * n * n * element_bytes +
                        large_tiles(n) * (partial + element_bytes) + norm + n * sums + state +
                        large_terms(op, degree) * (3 * sizeof(void*) + sizeof(int)) + sizeof(int);
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

// Calls f with the op on `chunk` matrices at a time.
template <class F>
void in_parts(const LargeOp& whole, int64_t chunk, F f) {
  const Problem& problem = whole.problem;
  const int64_t bytes = storage_bytes(problem.storage);
  for (int64_t first = 0; first < problem.batch; first += chunk) {
    LargeOp part = whole;
    part.problem.batch = problem.batch - first < chunk ? problem.batch - first : chunk;
    part.problem.out = static_cast<char*>(problem.out) + first * problem.n * problem.n * bytes;
    for (Input* in : {&part.first, &part.second, &part.third}) {
      if (in->data) in->data = static_cast<const char*>(in->data) + first * in->batch_stride * bytes;
    }
    f(part);
  }
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
      case Fused::ns:
        return ns();
      case Fused::sqrtm_lya_backward:
        return sqrtm_lya_backward();
      case Fused::inv_sqrtm_lya_backward:
        return inv_sqrtm_lya_backward();
      case Fused::lyapunov:
        return lyapunov();
      case Fused::mpa_backward:
        return mpa_backward();
      case Fused::mtp_backward:
        return mtp_backward();
      case Fused::ns_backward:
        return ns_backward();
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

  // x y. Of `parts` 2 every matrix is followed by its derivative, and so is the product.
  void times(int parts, const T* x, const T* y, T beta, T* out) {
    const int64_t size = static_cast<int64_t>(n_) * n_;
    library_.gemm(1, x, y, beta, out, n_, batch_, {parts, parts, parts, parts});
    if (parts == 2) library_.gemm(1, x, y + size, 1, out + size, n_, batch_, {1, parts, parts, parts});
  }

  // Returns Y after the steps of newton_schulz.cuh from X, and with 2 parts its derivative along `g` behind it. All
  // steps of all matrices: to ask which have converged would have the host wait, and they stay where they are.
  T* newton_schulz(int parts, const T* x, const T* g) {
    T* m = matrices(parts);
    T* y = matrices(parts);
    T* p = matrices(parts);
    T* squared = matrices(parts);
    T* factor = matrices(parts);
    elements(batch_ * parts, &newton_schulz_start_kernel<T>, m, batch_, parts, n_, x, g,
             static_cast<const Norm<T>*>(norms_));
    bool first = true;
    for (int left = o_.iterations; left > 0; first = false) {
      const bool pair = left % 2 == 0;
      left -= pair ? 2 : 1;
      if (pair) times(parts, m, m, 0, squared);
      elements(batch_ * parts, &newton_schulz_step_kernel<T>, static_cast<const T*>(m), batch_, parts, n_, pair,
               squared, factor, p);
      if (pair) times(parts, squared, factor, 1, p);
      const T* step = p;
      if (first && o_.inverse) {
        std::swap(y, p);  // Y was I
      } else {
        times(parts, first ? m : y, step, 0, factor);
        std::swap(y, factor);
      }
      if (left == 0) break;
      const T* n = y;  // of the first root, where Y was M
      if (!first || o_.inverse) {
        times(parts, m, step, 0, squared);
        n = squared;
      }
      times(parts, n, step, 0, m);
    }
    return y;
  }

  void ns() {
    T* x = matrices();
    symmetrise(o_.first, x);
    find_norms();
    const T* y = newton_schulz(1, x, nullptr);
    tiles(&finish_kernel<T>, finish_arguments(y, o_.inverse ? Finish::inverse_root : Finish::root));
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

  // The terms R_j carry the root of their weight in the derivative sum_j R_j G R_j, which the products then build up.
  void mpa_backward() {
    const MpaArguments<T> series = mpa_arguments<T>(o_.problem, o_.first, o_.degree, o_.inverse, {0, 1, 1, 0, 0});
    const int64_t count = batch_ * o_.degree;
    T* x = matrices();
    T* g = matrices();
    T* derivative = matrices();
    T* factor = matrices(o_.degree);
    T* right = matrices(o_.degree);
    T** factors = take<T*>(count);
    T** rights = take<T*>(count);
    const T** cotangents = take<const T*>(count);
    int* info = take<int>(count);
    symmetrise(o_.first, x);
    find_norms();
    symmetrise(o_.second, g);
    DerivativeShifts<T> shifts{batch_, n_, o_.degree, {}, {}, x, g, norms_, factor, right, factors, rights, cotangents};
    ExactGradient<T> gradient = exact_gradient(x, g, derivative, right, o_.inverse ? T(-1) : T(1));
    gradient.info = info;
    gradient.count = o_.degree;
    gradient.term_step = o_.degree;
    gradient.constant = series.constant;
    for (int j = 0; j < o_.degree; ++j) {
      const T root = std::sqrt(std::fabs(series.weight[j]) * series.scale[j]);
      shifts.scale[j] = series.scale[j];
      shifts.root[j] = root;
      gradient.weight[j] = -series.weight[j] / root;  // of the root's terms I - R, of the inverse root's terms R
      gradient.identity[j] = o_.inverse ? T(0) : root;
    }
    elements(count, &derivative_shift_kernel<T>, shifts);
    library_.solve(factors, rights, info, n_, count);
    library_.products(cotangents, rights, factors, n_, count);
    // One product for each term: a single one of all terms, its sums as many times as long, would round more.
    for (int j = 0; j < o_.degree; ++j) {
      const int64_t term = static_cast<int64_t>(j) * n_ * n_;
      library_.gemm(1, right + term, factor + term, j > 0 ? 1 : 0, derivative, n_, batch_,
                    {1, o_.degree, o_.degree, 1});
    }
    finish_exact(gradient);
  }

  void mtp_backward() {
    const MtpArguments<T> series = mtp_arguments<T>(o_.problem, o_.first, o_.degree, o_.inverse);
    T* w = matrices();
    T* g = matrices();
    T* w_squared = matrices();
    T* squared_derivative = matrices();
    T* h = matrices();
    T* d = matrices();
    T* next_h = matrices();
    T* next_d = matrices();
    symmetrise(o_.first, w);
    find_norms();
    symmetrise(o_.second, g);
    scale(w, Scale::inverse_norm, T(-1), T(1));
    gemm(1, w, w, 0, w_squared);
    gemm(1, w, g, 0, squared_derivative);
    gemm(1, g, w, 1, squared_derivative);
    const auto without_products = [&](T* value, T* derivative, T c0, T c1, T c2) {
      elements(batch_, &taylor_derivative_kernel<T>, value, derivative, batch_, n_, static_cast<const T*>(w),
               static_cast<const T*>(w_squared), static_cast<const T*>(g), static_cast<const T*>(squared_derivative),
               c0, c1, c2);
    };
    const T* c = series.coefficient;
    int i = (o_.degree - 1) / 2;
    without_products(h, d, c[2 * i], c[2 * i + 1], c[2 * i + 2]);
    while (--i >= 0) {
      without_products(next_h, next_d, c[2 * i], c[2 * i + 1], T(0));
      gemm(1, w_squared, d, 1, next_d);
      gemm(1, squared_derivative, h, 1, next_d);
      gemm(1, w_squared, h, 1, next_h);
      std::swap(h, next_h);
      std::swap(d, next_d);
    }
    // W has the place of X = I - W, which the gradient wants.
    symmetrise(o_.first, w);
    ExactGradient<T> gradient = exact_gradient(w, g, d, h, T(-1));
    gradient.weight[0] = T(1);
    finish_exact(gradient);
  }

  void ns_backward() {
    T* x = matrices();
    T* g = matrices();
    symmetrise(o_.first, x);
    find_norms();
    symmetrise(o_.second, g);
    const T* y = newton_schulz(2, x, g);
    ExactGradient<T> gradient = exact_gradient(x, g, y + static_cast<int64_t>(n_) * n_, y, T(1));
    gradient.weight[0] = T(1);
    gradient.term_step = gradient.derivative_step = 2;
    finish_exact(gradient);
  }

  ExactGradient<T> exact_gradient(const T* x, const T* g, const T* derivative, const T* terms, T sign) {
    return {o_.problem, x, g, derivative, terms, norms_, nullptr, take<T>(batch_ * large_tiles(n_)),
            1,          1, 1, o_.inverse, sign,  T(0),   {},      {}};
  }

  void finish_exact(const ExactGradient<T>& gradient) {
    tiles(&radial_kernel<T>, gradient);
    tiles(&exact_gradient_kernel<T>, gradient);
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

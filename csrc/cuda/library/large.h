// The path for matrices that do not fit a block: library products and factorisations with fused elementwise kernels in
// between. The steps of every pass (run_large) are separate from the libraries, so that they run on the host as well:
// `Library` is cuBLAS and cuSOLVER in library.cu and plain loops in tests/emulation. A library is a type with
//   run(kernel, blocks_x, blocks_y, threads_x, threads_y, shared_bytes, arguments...)
//   gemm(alpha, X, Y, beta, out, n, batch, rows)  out = alpha X Y + beta out, row-major
//   factor(factors, info, n, count)               Cholesky
//   solve(factors, rights, info, n, count)        right <- factor^-1 right by Cholesky; factor is destroyed
//   products(x, y, out, n, count)                 out[i] = x[i] y[i], by addresses
//   sweeps_in_blocks()                            whether blocked_sweep.cuh takes the place of solve where it can
#pragma once

#include <cstddef>
#include <utility>

#include "cuda/library/kernels.cuh"
#include "cuda/library/newton_kernels.cuh"
#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

// A product takes `count` matrices, one upon the other, of X and of the result. The operands of the next matrix of the
// batch start `x`, `y` and `out` matrices further on.
struct Rows {
  int count = 1;
  int x = 1, y = 1, out = 1;
};

// The addresses and results of batched factorisations and solves.
template <typename T>
struct Factorisations {
  T** factors;
  T** rights;
  int* info;  // 0 where a matrix was positive definite
};

// Tiles of the elementwise kernels that cover a matrix.
inline int64_t large_tiles(int64_t n) {
  const int64_t edge = (n + tile_edge - 1) / tile_edge;
  return edge * edge;
}

// Bytes of workspace for `batch` matrices. Each has Pass::large_matrices(pass) matrices, the pointers and info of the
// Pass::large_terms(pass) matrices that are factored at once, norms and the state of Newton steps.
template <class Pass, class Told>
int64_t large_workspace_bytes(const Told& pass, int64_t batch, int64_t n, int element_bytes) {
  const int64_t partial = element_bytes == 8 ? sizeof(PartialNorm<double>) : sizeof(PartialNorm<float>);
  const int64_t norm = element_bytes == 8 ? sizeof(Norm<double>) : sizeof(Norm<float>);
  const int64_t sums = element_bytes == 8 ? sizeof(ColumnSums<double>) : sizeof(ColumnSums<float>);
  const int64_t state = element_bytes == 8 ? sizeof(NewtonState<double>) : sizeof(NewtonState<float>);
  const int64_t bytes = Pass::large_matrices(pass) * n * n * element_bytes +
                        large_tiles(n) * (partial + element_bytes) + norm + n * sums + state +
                        Pass::large_terms(pass) * (3 * sizeof(void*) + sizeof(int)) + sizeof(int);
  return batch * bytes + 16 * 256;  // every part starts at a multiple of 256 bytes
}

// The matrices of one chunk: as many as a gigabyte of workspace and the second dimension of a grid allow.
template <class Pass, class Told>
int64_t large_chunk(const Told& pass, int64_t batch, int64_t n, int element_bytes) {
  constexpr int64_t limit = int64_t(1) << 30;
  const int64_t each = large_workspace_bytes<Pass>(pass, 1, n, element_bytes);
  int64_t chunk = limit / each;
  chunk = chunk < 1 ? 1 : chunk > 32768 ? 32768 : chunk;
  return chunk < batch ? chunk : batch;
}

// Calls f with the operands of `chunk` matrices at a time.
template <class F>
void in_parts(const Operands& whole, int64_t chunk, F f) {
  const int64_t bytes = storage_bytes(whole.problem.element);
  for (int64_t first = 0; first < whole.problem.batch; first += chunk) {
    Operands part = whole;
    part.problem.batch = whole.problem.batch - first < chunk ? whole.problem.batch - first : chunk;
    for (Input& in : part.in) {
      if (in.data) in.data = static_cast<const char*>(in.data) + first * in.batch_stride * bytes;
    }
    for (Output& out : part.out) {
      if (out.data) out.data = static_cast<char*>(out.data) + first * out.matrix_bytes;
    }
    f(part);
  }
}

// The context of run_large: `batch` matrices, their workspace and the steps that the passes share.
template <typename T, class Library>
class Large {
 public:
  using scalar = T;
  const int n;
  const int64_t batch;

  // `workspace` has the size large_workspace_bytes and is aligned to 256 bytes.
  Large(Library& library, const Problem& problem, void* workspace)
      : n(problem.n),
        batch(problem.batch),
        library_(library),
        problem_(problem),
        next_(static_cast<unsigned char*>(workspace)) {
    partial_ = take<PartialNorm<T>>(batch * large_tiles(n));
    norms_ = take<Norm<T>>(batch);
  }

  // Workspace.
  template <class S>
  S* take(int64_t count) {
    S* start = reinterpret_cast<S*>(next_);
    next_ += (count * sizeof(S) + 255) / 256 * 256;
    return start;
  }
  T* matrices(int64_t for_each = 1) { return take<T>(for_each * batch * n * n); }
  Factorisations<T> factorisations(int64_t for_each) {
    const int64_t count = for_each * batch;
    return {take<T*>(count), take<T*>(count), take<int>(count)};
  }

  // Launches: an elementwise kernel over `count` matrices, a tile kernel, a kernel with a block for each matrix.
  template <class Kernel, class... Arguments>
  void elements(int64_t count, Kernel kernel, const Arguments&... arguments) {
    const int64_t blocks = (count * n * n + 255) / 256;
    library_.run(kernel, blocks < 8192 ? blocks : 8192, 1, 256, 1, 0, arguments...);
  }
  template <class Kernel, class... Arguments>
  void tiles(Kernel kernel, const Arguments&... arguments) {
    library_.run(kernel, large_tiles(n), batch, tile_edge, tile_rows, tile_edge * (tile_edge + 1) * sizeof(T),
                 arguments...);
  }
  Library& library() { return library_; }

  void gemm(T alpha, const T* x, const T* y, T beta, T* out, const Rows& rows = {}) {
    library_.gemm(alpha, x, y, beta, out, n, batch, rows);
  }
  void solve(const Factorisations<T>& f, int64_t count, int64_t first = 0) {
    library_.solve(f.factors + first, f.rights + first, f.info + first, n, count);
  }

  // out = (A + A^T) / 2
  void symmetrise(const Input& in, T* out) { tiles(&symmetrise_kernel<T>, problem_, in, out, partial_); }
  // The norms of the matrices symmetrised last, which count as 1 if `as_one`.
  void find_norms(bool as_one = false) {
    library_.run(&norm_kernel<T>, 1, batch, norm_threads, 1, norm_threads * sizeof(T), partial_,
                 static_cast<int>(large_tiles(n)), norms_, as_one);
  }
  const Norm<T>* norms() const { return norms_; }
  const Problem& problem() const { return problem_; }
  // x <- diagonal I + factor * x, scaled by its norm as `how` says
  void scale(T* x, Scale how, T factor, T diagonal) {
    elements(batch, &scale_kernel<T>, x, batch, n, norms_, how, factor, diagonal);
  }
  // The arguments of finish_kernel for one term of weight `weight` a matrix.
  FinishArguments<T> finish_arguments(void* out, const T* terms, Finish finish, T weight = 1) {
    FinishArguments<T> a{problem_, out, terms, norms_, nullptr, nullptr, 1, finish, T(0), {}};
    a.weight[0] = weight;
    return a;
  }

 private:
  Library& library_;
  const Problem problem_;
  unsigned char* next_;
  PartialNorm<T>* partial_;
  Norm<T>* norms_;
};

// Runs a pass on as many matrices as the workspace holds.
template <class Pass, typename T, class Library, class Told>
void run_large_part(Library& library, const Told& pass, const Operands& part, void* workspace) {
  Large<T, Library> large(library, part.problem, workspace);
  Pass::run_large(large, typename Pass::template Arguments<T>(pass, part, Plan()));
}

}  // namespace cuda
}  // namespace fastsqrtm

// A -> Q, R and, with pivots, the order of the columns, by Householder reflections in one launch: R first, and then Q
// in its place. The matrix lies in shared memory, or in global memory where it is too large for that. Counterparts:
// csrc/cpu/passes/qr.h and fastsqrtm/_reference/qr.py.
#pragma once

#include "cuda/pass.h"

namespace fastsqrtm {
namespace cuda {

struct Qr : AnyShape<Qr> {
  template <typename T>
  struct Arguments {
    Problem problem;
    Input a;
    void* q;
    void* r;
    int64_t* order;  // nullptr: no pivots
    int q_columns;   // as many as R has rows
    T* kept;         // nullptr: the matrix fits into shared memory

    Arguments(const passes::Qr& pass, const Operands& operands, const Plan&)
        : problem(operands.problem),
          a(operands.in[0]),
          q(operands.out[0].data),
          r(operands.out[1].data),
          order(static_cast<int64_t*>(operands.out[2].data)),
          q_columns(pass.complete ? problem.m : smaller(problem.m, problem.n)),
          kept(static_cast<T*>(operands.kept)) {}
  };

  // One place for A and for Q, and four numbers a column. Rows have an odd length, or the elements of a column would
  // share a bank of the shared memory.
  static FASTSQRTM_HOST_DEVICE constexpr int64_t elements(const Problem& p) {
    return static_cast<int64_t>(p.m) * (p.columns | 1) + 4 * p.columns;
  }
  static FASTSQRTM_HOST_DEVICE constexpr int64_t elements_of_order(int64_t order) { return order * (order + 5); }

  template <class V>
  static FASTSQRTM_DEVICE void run(const Arguments<typename V::scalar>& arguments);
};

}  // namespace cuda
}  // namespace fastsqrtm

#ifdef FASTSQRTM_KERNELS

#include <limits>

#include "cuda/tile/rows.cuh"

namespace fastsqrtm {
namespace cuda {

// One matrix in the memory of its team. Columns stay where they are; `place` says which is which.
template <class V>
class Reflections {
 public:
  using T = typename V::scalar;
  // Constants, because a kernel may not call what computes them.
  static constexpr T smallest = std::numeric_limits<T>::min(), precision = std::numeric_limits<T>::epsilon();

  __device__ __forceinline__ Reflections(T* memory, T* scratch, const Problem& problem)
      : m_(problem.m),
        n_(problem.n),
        row_(problem.columns | 1),
        a_(memory),
        now_(a_ + static_cast<int64_t>(m_) * row_),
        then_(now_ + problem.columns),
        tau_(then_ + problem.columns),
        place_(reinterpret_cast<int*>(tau_ + problem.columns)),
        scratch_(scratch) {}

  __device__ __forceinline__ T& at(int i, int j) const { return a_[static_cast<int64_t>(i) * row_ + place_[j]]; }
  __device__ __forceinline__ int64_t place(int j) const { return place_[j]; }

  // Loads A, or zeros if it is not finite. Returns whether it is.
  __device__ __forceinline__ bool load(const Input& in, const Problem& problem, int64_t index, int columns) const {
    const T worst = load_rows<V>(a_, row_, in, problem, index, m_, n_);
    for (int j = threadIdx.x; j < columns; j += V::threads) place_[j] = j;
    const bool finite = team_max<V>(worst, scratch_) < infinity<T>();
    for (int64_t item = threadIdx.x; !finite && item < static_cast<int64_t>(m_) * n_; item += V::threads)
      a_[item / n_ * row_ + item % n_] = 0;
    sync_team<V>();
    return finite;
  }

  // A becomes R and, under its diagonal, the vectors v of the reflectors I - tau v v^T, whose first entry is 1.
  __device__ __forceinline__ void factor(bool with_pivots) const {
    const int k = smaller(m_, n_);
    if (with_pivots) {
      for (int j = threadIdx.x; j < n_; j += V::threads) now_[j] = then_[j] = norm(j, 0);
    }
    for (int i = 0; i < k; ++i) {
      if (with_pivots) choose(i);
      reflect_column(i);
      reflect_columns(i, i + 1, n_);
      sync_team<V>();
      if (with_pivots) shorten(i);
    }
    sync_team<V>();
  }

  // The vectors become the columns of Q.
  __device__ __forceinline__ void form_q(int q_columns) const {
    const int k = smaller(m_, n_);
    for (int64_t item = threadIdx.x; item < static_cast<int64_t>(m_) * (q_columns - k); item += V::threads) {
      const int i = static_cast<int>(item / (q_columns - k)), j = k + static_cast<int>(item % (q_columns - k));
      at(i, j) = i == j ? T(1) : T(0);
    }
    sync_team<V>();
    for (int j = k - 1; j >= 0; --j) {
      reflect_columns(j, j + 1, q_columns);
      sync_team<V>();
      for (int i = threadIdx.x; i < m_; i += V::threads)
        at(i, j) = i < j ? T(0) : i == j ? T(1) - tau_[j] : -tau_[j] * at(i, j);
      sync_team<V>();
    }
  }

 private:
  // Of column j from row `first` on, by one thread.
  __device__ __forceinline__ T norm(int j, int first) const {
    T largest = 0, sum = 0;
    for (int i = first; i < m_; ++i) largest = max_or_nan(largest, std::fabs(at(i, j)));
    if (largest == T(0)) return 0;
    const T scale = T(1) / max_or_nan(largest, smallest);
    for (int i = first; i < m_; ++i) sum += at(i, j) * scale * (at(i, j) * scale);
    return std::sqrt(sum) / scale;
  }

  // The longest column, the first of several, comes to place k.
  __device__ __forceinline__ void choose(int k) const {
    sync_team<V>();
    T longest = 0;
    for (int j = k + threadIdx.x; j < n_; j += V::threads) longest = max_or_nan(longest, now_[j]);
    longest = team_max<V>(longest, scratch_);
    int first = n_;
    for (int j = k + threadIdx.x; j < n_; j += V::threads) {
      if (now_[j] == longest) first = smaller(first, j);
    }
    sync_team<V>();
    first = reduce_team<V>(first, reinterpret_cast<int*>(scratch_), [](int a, int b) { return smaller(a, b); });
    sync_team<V>();
    if (threadIdx.x == 0) {
      const int place = place_[k];
      place_[k] = place_[first];
      place_[first] = place;
      now_[first] = now_[k];
      then_[first] = then_[k];
    }
    sync_team<V>();
  }

  // Column k becomes beta and the rest of v. As in LAPACK the reflector is the identity where that rest is zero.
  __device__ __forceinline__ void reflect_column(int k) const {
    T rest = 0, sum = 0;
    for (int i = k + 1 + threadIdx.x; i < m_; i += V::threads) rest = max_or_nan(rest, std::fabs(at(i, k)));
    rest = team_max<V>(rest, scratch_);
    const T first = at(k, k), size = max_or_nan(max_or_nan(rest, std::fabs(first)), smallest);
    const T scale = T(1) / size, alpha = first * scale;
    for (int i = k + 1 + threadIdx.x; i < m_; i += V::threads) sum += at(i, k) * scale * (at(i, k) * scale);
    sum = team_sum<V>(sum, scratch_);
    const T length = std::sqrt(sum + alpha * alpha), beta = alpha < T(0) ? length : -length;
    const bool none = rest == T(0);
    const T factor = none ? T(0) : T(1) / (alpha - beta);
    sync_team<V>();  // all have read the first entry
    for (int i = k + 1 + threadIdx.x; i < m_; i += V::threads) at(i, k) = at(i, k) * scale * factor;
    if (threadIdx.x == 0) {
      at(k, k) = none ? first : beta * size;
      tau_[k] = none ? T(0) : (beta - alpha) / beta;
    }
    sync_team<V>();
  }

  // Reflector k on the columns from `first` to before `end`, each by `split` lanes.
  __device__ __forceinline__ void reflect_columns(int k, int first, int end) const {
    int split = 1;
    while (2 * split * (end - first) <= V::threads && split < V::width) split *= 2;
    const int lane = threadIdx.x % split;
    const T tau = tau_[k];
    for (int start = first; start < end; start += V::threads / split) {
      const int column = start + static_cast<int>(threadIdx.x) / split;
      const bool inside = column < end;  // all lanes exchange, those outside nothing of use
      const int j = inside ? column : k;
      T w = 0;
      for (int i = k + lane; i < m_; i += split) w += (i == k ? T(1) : at(i, k)) * at(i, j);
      for (int step = split / 2; step >= 1; step /= 2) w += __shfl_xor_sync(all_lanes, w, step, V::width);
      w *= tau;
      for (int i = k + lane; inside && i < m_; i += split) at(i, j) -= (i == k ? T(1) : at(i, k)) * w;
    }
  }

  // Takes row k of R off the norms, and computes those anew that lose too many digits with it.
  __device__ __forceinline__ void shorten(int k) const {
    const T limit = std::sqrt(precision / 2);
    for (int j = k + 1 + threadIdx.x; j < n_; j += V::threads) {
      const T now = now_[j];
      if (now == T(0)) continue;
      const T part = std::fabs(at(k, j)) / now, rest = T(1) - part * part, left = rest > T(0) ? rest : T(0);
      const T ratio = now / then_[j];
      if (left * (ratio * ratio) <= limit) {
        now_[j] = then_[j] = norm(j, k + 1);
      } else {
        now_[j] = now * std::sqrt(left);
      }
    }
  }

  const int m_, n_;
  const int64_t row_;
  T *const a_, *const now_, *const then_, *const tau_;  // norms of the columns' rests, and when last computed
  int* const place_;
  T* const scratch_;
};

template <class V>
FASTSQRTM_DEVICE void Qr::run(const Arguments<typename V::scalar>& arguments) {
  using T = typename V::scalar;
  constexpr int shared = shared_elements(V::shape, 1);
  const Problem& problem = arguments.problem;
  const int n = problem.n, q_columns = arguments.q_columns;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  T* own = reinterpret_cast<T*>(dynamic_shared()) + static_cast<int>(threadIdx.y) * shared;
  T* memory = arguments.kept ? arguments.kept + index * elements(problem) : own;
  const Reflections<V> matrix(memory, own + elements_of_order(V::padded), problem);

  const bool finite = matrix.load(arguments.a, problem, index, problem.columns);
  matrix.factor(arguments.order != nullptr);
  const auto store = [&](void* out, int rows, int columns, auto element) {
    store_rows<V>(out, problem, index, rows, columns,
                  [&](int i, int j) { return finite ? element(i, j) : not_a_number<T>(); });
  };
  store(arguments.r, q_columns, n, [&](int i, int j) { return i <= j ? matrix.at(i, j) : T(0); });
  for (int j = threadIdx.x; arguments.order && index < problem.batch && j < n; j += V::threads)
    arguments.order[index * n + j] = matrix.place(j);
  sync_team<V>();
  matrix.form_q(q_columns);
  store(arguments.q, problem.m, q_columns, [&](int i, int j) { return matrix.at(i, j); });
}

}  // namespace cuda
}  // namespace fastsqrtm

#endif

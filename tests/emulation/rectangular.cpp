// QR and its gradient in the emulation: matrices of any shape, three results and one of them integers, which the cases
// of the other passes do not have.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cases.h"
#include "cuda/passes/qr.cuh"
#include "cuda/passes/qr_backward.cuh"
#include "run_pass.h"

namespace emulation {
namespace {

struct Sizes {
  int m, n, q_columns;
};

struct Factors {
  std::vector<double> q, r;
  std::vector<int64_t> order;
};

int failures = 0;

void expect(bool good, const std::string& what) {
  if (good) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

std::vector<double> random_numbers(int count) {
  const int edge = static_cast<int>(std::ceil(std::sqrt(count)));
  std::vector<double> numbers = random_matrix(edge);
  numbers.resize(count);
  return numbers;
}

// Runs the pass on float or double matrices whose columns are contiguous, with `shared_bytes` of shared memory.
template <typename T>
std::vector<Factors> run(const std::vector<std::vector<double>>& matrices, const Sizes& sizes, bool pivots,
                         std::size_t shared_bytes) {
  const auto [m, n, q_columns] = sizes;
  const int64_t count = static_cast<int64_t>(matrices.size()), pitch = m + 3;
  std::vector<T> a(count * n * pitch), q(count * m * q_columns), r(count * q_columns * n);
  std::vector<int64_t> order(count * n);
  for (int64_t x = 0; x < count; ++x) {
    for (int i = 0; i < m * n; ++i) a[x * n * pitch + i % n * pitch + i / n] = static_cast<T>(matrices[x][i]);
  }
  Operands operands = {};
  operands.problem = {count, m, n, std::max(n, q_columns), sizeof(T) == 8 ? Element::float64 : Element::float32};
  operands.in[0] = {a.data(), n * pitch, 1, pitch};
  operands.out[0] = {q.data(), static_cast<int64_t>(sizeof(T)) * m * q_columns};
  operands.out[1] = {r.data(), static_cast<int64_t>(sizeof(T)) * q_columns * n};
  if (pivots) operands.out[2] = {order.data(), 8 * n};
  const Plan plan = plan_pass<cuda::Qr>(count, cuda::Qr::order(operands.problem), sizeof(T), 1, {shared_bytes, 132});
  std::vector<T> kept(count * cuda::Qr::kept_elements(shape_of(plan, sizeof(T)), operands.problem));
  if (!kept.empty()) operands.kept = kept.data();
  run_in_blocks(passes::Qr(pivots, q_columns == m), operands, plan);
  std::vector<Factors> results;
  for (int64_t x = 0; x < count; ++x) {
    results.push_back({{q.begin() + x * m * q_columns, q.begin() + (x + 1) * m * q_columns},
                       {r.begin() + x * q_columns * n, r.begin() + (x + 1) * q_columns * n},
                       {order.begin() + x * n, order.begin() + (x + 1) * n}});
    for (int j = 0; !pivots && j < n; ++j) results.back().order[j] = j;
  }
  return results;
}

// Householder's R of A in the order given, m x n.
std::vector<double> reference(const std::vector<double>& a, const Sizes& sizes, const std::vector<int64_t>& order) {
  const auto [m, n, q_columns] = sizes;
  std::vector<double> r(m * n), v(m);
  for (int i = 0; i < m * n; ++i) r[i] = a[i / n * n + order[i % n]];
  for (int k = 0; k < std::min(m - 1, n); ++k) {
    double length = 0;
    for (int i = k; i < m; ++i) length += r[i * n + k] * r[i * n + k];
    length = std::sqrt(length);
    double squares = 0;
    for (int i = k; i < m; ++i) v[i] = r[i * n + k];
    v[k] += v[k] < 0 ? -length : length;
    for (int i = k; i < m; ++i) squares += v[i] * v[i];
    for (int j = k; squares > 0 && j < n; ++j) {
      double w = 0;
      for (int i = k; i < m; ++i) w += v[i] * r[i * n + j];
      for (int i = k; i < m; ++i) r[i * n + j] -= 2 * w / squares * v[i];
    }
  }
  return r;
}

void check_one(const Factors& got, const std::vector<double>& a, const Sizes& sizes, bool pivots, bool full_rank,
               double tolerance, const std::string& label) {
  const auto [m, n, q_columns] = sizes;
  std::vector<int64_t> sorted = got.order;
  std::sort(sorted.begin(), sorted.end());
  for (int j = 0; j < n; ++j) {
    if (sorted[j] == j) continue;
    expect(false, label + ": not a permutation");
    return;
  }
  const std::vector<double> r = reference(a, sizes, got.order);
  double size = 0, r_error = 0, orthogonality = 0;
  for (double x : a) size = std::fmax(size, std::fabs(x));
  for (int i = 0; i < q_columns * n; ++i) {
    if (i / n > i % n) expect(got.r[i] == 0, label + ": R is not upper triangular");
    if (i / n <= i % n) r_error = std::fmax(r_error, std::fabs(got.r[i] - r[i]) / size);
  }
  double factor_error = 0;
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = -a[i * n + got.order[j]];
      for (int k = 0; k < q_columns; ++k) sum += got.q[i * q_columns + k] * got.r[k * n + j];
      factor_error = std::fmax(factor_error, std::fabs(sum) / size);
    }
  }
  for (int i = 0; i < q_columns; ++i) {
    for (int j = 0; j < q_columns; ++j) {
      double sum = i == j ? -1 : 0;
      for (int k = 0; k < m; ++k) sum += got.q[k * q_columns + i] * got.q[k * q_columns + j];
      orthogonality = std::fmax(orthogonality, std::fabs(sum));
    }
  }
  std::printf("%-60s R %.1e, Q R %.1e, Q^T Q %.1e\n", label.c_str(), r_error, factor_error, orthogonality);
  // As the condition makes it. Where a rest is rounding alone, it has another direction.
  expect(r_error <= 100 * tolerance || !full_rank, label + ": R differs");
  expect(factor_error <= tolerance && orthogonality <= tolerance, label + ": the error is too large");
  for (int k = 0; pivots && k < std::min(m, n); ++k) {
    for (int j = k + 1; j < n; ++j) {
      double rest = 0;
      for (int i = k; i <= std::min(j, q_columns - 1); ++i) rest += got.r[i * n + j] * got.r[i * n + j];
      expect(std::sqrt(rest) <= std::fabs(got.r[k * n + k]) + 10 * tolerance * size,
             label + ": not the longest column");
    }
  }
}

bool same(const Factors& a, const Factors& b) { return a.q == b.q && a.r == b.r && a.order == b.order; }

template <typename T>
void check(int m, int n, bool complete, bool pivots, std::size_t shared_bytes) {
  const Sizes sizes = {m, n, complete ? m : std::min(m, n)};
  const std::string label = "qr " + std::to_string(m) + " x " + std::to_string(n) + (complete ? " complete" : "") +
                            (pivots ? " pivoted" : "") + (sizeof(T) == 8 ? " float64" : " float32") +
                            (shared_bytes < 100000 ? " in global memory" : "");
  restart_random();
  std::vector<std::vector<double>> matrices;
  for (int x = 0; x < 3; ++x) matrices.push_back(random_numbers(m * n));
  for (auto& matrix : matrices)
    for (double& x : matrix) x = static_cast<T>(x);
  for (int i = 0; i < m && n > 1; ++i) matrices[2][i * n + 1] = 2 * matrices[2][i * n];  // a rank less than full
  const std::vector<Factors> results = run<T>(matrices, sizes, pivots, shared_bytes);
  const double tolerance = 20 * std::sqrt(std::max(m, n)) * std::numeric_limits<T>::epsilon();
  for (int x = 0; x < 2; ++x) check_one(results[x], matrices[x], sizes, pivots, true, tolerance, label);
  check_one(results[2], matrices[2], sizes, pivots, n == 1, tolerance, label + ", dependent columns");
  expect(same(run<T>({matrices[1]}, sizes, pivots, shared_bytes)[0], results[1]), label + ": the batch changes bits");
  for (double bad : {NAN, INFINITY}) {
    std::vector<std::vector<double>> with_bad = matrices;
    with_bad[1][m * n / 2] = bad;
    const std::vector<Factors> others = run<T>(with_bad, sizes, pivots, shared_bytes);
    expect(same(others[0], results[0]) && same(others[2], results[2]), label + ": NaN changes its neighbours");
    for (double x : others[1].q) expect(std::isnan(x), label + ": a Q without NaN");
    for (double x : others[1].r) expect(std::isnan(x), label + ": an R without NaN");
    for (int j = 0; j < n; ++j) expect(others[1].order[j] == j, label + ": the order of a matrix with NaN");
  }
}

// Q, R, G and H of one matrix by rows, and the gradient.
struct Gradient {
  std::vector<double> in[4], out;
};

// The upper triangle of a random matrix whose diagonal is far from zero.
std::vector<double> random_triangle(int n) {
  std::vector<double> r = random_numbers(n * n);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) r[i * n + j] *= i == j ? 1 : i < j ? 1.0 / n : 0;
    r[i * n + i] += r[i * n + i] < 0 ? -1 : 1;
  }
  return r;
}

template <typename T>
std::vector<std::vector<double>> run_backward(const std::vector<Gradient>& matrices, int m, int n,
                                              std::size_t shared_bytes) {
  const int64_t count = static_cast<int64_t>(matrices.size());
  std::vector<T> in[4], out(count * m * n);
  Operands operands = {};
  operands.problem = {count, m, n, n, sizeof(T) == 8 ? Element::float64 : Element::float32};
  for (int k = 0; k < 4; ++k) {
    for (const Gradient& matrix : matrices) in[k].insert(in[k].end(), matrix.in[k].begin(), matrix.in[k].end());
    operands.in[k] = {in[k].data(), k % 2 == 0 ? m * n : n * n, n, 1};
  }
  operands.out[0] = {out.data(), static_cast<int64_t>(sizeof(T)) * m * n};
  using Pass = cuda::QrBackward;
  const Plan plan = plan_pass<Pass>(count, Pass::order(operands.problem), sizeof(T), 1, {shared_bytes, 132});
  std::vector<T> kept(count * Pass::kept_elements(shape_of(plan, sizeof(T)), operands.problem));
  if (!kept.empty()) operands.kept = kept.data();
  run_in_blocks(passes::QrBackward(), operands, plan);
  std::vector<std::vector<double>> results;
  for (int64_t x = 0; x < count; ++x) results.push_back({out.begin() + x * m * n, out.begin() + (x + 1) * m * n});
  return results;
}

// ||X R^T - (G + Q S)|| with S from the lower triangle of R H^T - G^T Q, in units of the right side.
double residual(const Gradient& g, const std::vector<double>& x, int m, int n) {
  const auto& [q, r, cotangent, h] = g.in;
  std::vector<double> s(n * n);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      for (int l = i; l < n; ++l) s[i * n + j] += r[i * n + l] * h[j * n + l];
      for (int l = 0; l < m; ++l) s[i * n + j] -= cotangent[l * n + i] * q[l * n + j];
      s[j * n + i] = s[i * n + j];
    }
  }
  double largest = 0, error = 0;
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      double right = cotangent[i * n + j], left = 0;
      for (int l = 0; l < n; ++l) right += q[i * n + l] * s[l * n + j];
      for (int l = j; l < n; ++l) left += x[i * n + l] * r[j * n + l];
      largest = std::fmax(largest, std::fabs(right));
      error = std::fmax(error, std::fabs(left - right));
    }
  }
  return error / largest;
}

template <typename T>
void check_backward(int m, int n, std::size_t shared_bytes) {
  const std::string label = "qr_backward " + std::to_string(m) + " x " + std::to_string(n) +
                            (sizeof(T) == 8 ? " float64" : " float32") +
                            (shared_bytes < 100000 ? " in global memory" : "");
  restart_random();
  std::vector<Gradient> matrices(3);
  for (Gradient& matrix : matrices) {
    matrix.in[0] = random_numbers(m * n);
    matrix.in[1] = random_triangle(n);
    matrix.in[2] = random_numbers(m * n);
    matrix.in[3] = random_numbers(n * n);
    for (auto& input : matrix.in)
      for (double& x : input) x = static_cast<T>(x);
  }
  for (int i = 1; i < n; ++i) matrices[1].in[1][i * n] = matrices[1].in[3][i * n] = 7;  // has no part
  const auto results = run_backward<T>(matrices, m, n, shared_bytes);
  for (int x = 0; x < 3; ++x) {
    const double error = residual(matrices[x], results[x], m, n);
    std::printf("%-60s %.1e\n", label.c_str(), error);
    expect(error <= 20 * std::sqrt(std::max(m, n)) * std::numeric_limits<T>::epsilon(),
           label + ": the error is too large");
  }
  expect(run_backward<T>({matrices[1]}, m, n, shared_bytes)[0] == results[1], label + ": the batch changes bits");
  for (auto& input : matrices[1].in) {
    const double before = input.back();
    input.back() = INFINITY;
    const auto others = run_backward<T>(matrices, m, n, shared_bytes);
    expect(others[0] == results[0] && others[2] == results[2], label + ": Inf changes its neighbours");
    for (double x : others[1]) expect(std::isnan(x), label + ": no NaN");
    input.back() = before;
  }
}

}  // namespace

int check_rectangular(const std::string& dtype, int m, int n, bool in_global_memory) {
  // So little shared memory that a shape of 48 takes all larger matrices as well.
  const std::size_t shared_bytes = in_global_memory ? (dtype == "float64" ? 24000 : 12000) : 232448;
  if (dtype == "float64")
    check_backward<double>(m, n, in_global_memory ? 96000 : shared_bytes);
  else
    check_backward<float>(m, n, in_global_memory ? 48000 : shared_bytes);
  for (bool complete : {false, true}) {
    for (bool pivots : {false, true}) {
      if (dtype == "float64")
        check<double>(m, n, complete, pivots, shared_bytes);
      else
        check<float>(m, n, complete, pivots, shared_bytes);
    }
  }
  return failures;
}

}  // namespace emulation

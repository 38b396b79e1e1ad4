// Runs the fused kernels on the host and holds them against the reference. One line per failure; exit status 1 if any.
//   emulate values <op> <float64|float32|float16|bfloat16> <n>...   values, with general strides and three matrices
//   emulate hard <op> <float64|float32> <n>...                      the accurate ops on ill-conditioned matrices
//   emulate answers <op> <n>...                                     the documented answers: zero, NaN, singular
//   emulate manners                                                 what a user relies on beside the values
//   emulate large <n>...                                            the path for large matrices
//   emulate large_brief <n>...                                      every step of it once, for the slow builds
//   emulate far                                                     offsets beyond 2^31 elements
//   emulate plans                                                   the choice of variants, the walk over a large batch
//   emulate <seed_missing_barrier|seed_out_of_bounds> <the above>   with a fault in the kernels
//   emulate skipped_barrier                                         a kernel with a fault, to show that it is found
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "emulation.h"
#include "cuda/library/library.h"
#include "reference.h"
#include "run_kernels.h"

using namespace emulation;
using reference::Matrix;

namespace {

constexpr DeviceLimits h200 = {232448, 132};

struct Op {
  const char* name;
  Fused fused;
  bool inverse;
  int inputs;
  bool both = false;  // root and inverse root: two matrices for one

  bool is_root() const { return inputs == 1; }
  bool is_accurate() const {
    return fused == Fused::accurate_roots || fused == Fused::accurate_backward || fused == Fused::lyapunov_newton;
  }
  bool symmetric_result() const { return fused != Fused::lyapunov && fused != Fused::lyapunov_newton; }
};
constexpr Op ops[] = {
    {"mpa_lya", Fused::mpa, false, 1},
    {"mpa_lya_inv", Fused::mpa, true, 1},
    {"mtp_lya", Fused::mtp, false, 1},
    {"mtp_lya_inv", Fused::mtp, true, 1},
    {"ns", Fused::ns, false, 1},
    {"ns_inv", Fused::ns, true, 1},
    {"sqrtm_lya_backward", Fused::sqrtm_lya_backward, false, 3},
    {"inv_sqrtm_lya_backward", Fused::inv_sqrtm_lya_backward, true, 2},
    {"lyapunov", Fused::lyapunov, false, 2},
    {"mpa_backward", Fused::mpa_backward, false, 2},
    {"mtp_backward", Fused::mtp_backward, false, 2},
    {"mpa_inv_backward", Fused::mpa_backward, true, 2},
    {"mtp_inv_backward", Fused::mtp_backward, true, 2},
    {"ns_backward", Fused::ns_backward, false, 2},
    {"ns_inv_backward", Fused::ns_backward, true, 2},
    {"sqrtm", Fused::accurate_roots, false, 1},
    {"inv_sqrtm", Fused::accurate_roots, true, 1},
    {"sqrtm_and_inv", Fused::accurate_roots, false, 1, true},
    {"sqrtm_backward", Fused::accurate_backward, false, 2},
    {"inv_sqrtm_backward", Fused::accurate_backward, true, 2},
    {"sqrtm_and_inv_backward", Fused::accurate_backward, false, 4, true},
    {"lyapunov_newton", Fused::lyapunov_newton, false, 2},
};
bool by_shifts(const Op& op) { return op.fused == Fused::mpa || op.fused == Fused::mpa_backward; }
bool by_powers(const Op& op) { return op.fused == Fused::mtp || op.fused == Fused::mtp_backward; }
bool by_steps(const Op& op) { return op.fused == Fused::ns || op.fused == Fused::ns_backward; }
bool is_exact_gradient(const Op& op) { return op.inputs == 2 && (by_shifts(op) || by_powers(op) || by_steps(op)); }

constexpr const char* storages[] = {"float64", "float32", "float16", "bfloat16"};

int failures = 0;

void expect(bool good, const std::string& what) {
  if (good) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

std::size_t bytes_of(Storage s) { return s == Storage::float64 ? 8 : s == Storage::float32 ? 4 : 2; }

// A buffer of elements as they lie in memory, of the exact size, so that AddressSanitizer guards its ends.
struct Buffer {
  Storage storage;
  std::vector<unsigned char> bytes;

  Buffer(Storage s, int64_t count) : storage(s), bytes(count * bytes_of(s)) {}
  void set(int64_t i, double x) {
    unsigned char* place = bytes.data() + i * bytes_of(storage);
    const float f = static_cast<float>(x);
    const uint16_t half = __float2half_rn(f).bits, brain = __float2bfloat16_rn(f).bits;
    if (storage == Storage::float64) std::memcpy(place, &x, 8);
    if (storage == Storage::float32) std::memcpy(place, &f, 4);
    if (storage == Storage::float16) std::memcpy(place, &half, 2);
    if (storage == Storage::bfloat16) std::memcpy(place, &brain, 2);
  }
  double get(int64_t i) const {
    const unsigned char* place = bytes.data() + i * bytes_of(storage);
    double x;
    float f;
    uint16_t half;
    std::memcpy(&half, place, 2);
    if (storage == Storage::float16) return __half2float({half});
    if (storage == Storage::bfloat16) return __bfloat162float({half});
    std::memcpy(&f, place, 4);
    if (storage == Storage::float32) return f;
    std::memcpy(&x, place, 8);
    return x;
  }
};

enum class View { contiguous, transposed, padded };

// A batch in memory, seen through strides, and what the kernel reads through them.
struct Batch {
  Buffer buffer;
  Input input;
  std::vector<Matrix> values;
};

Batch make_batch(const std::vector<Matrix>& matrices, int n, Storage storage, View view) {
  const int pitch = view == View::padded ? n + 3 : n;
  // Ends with the last element of the last row, as a view of a larger tensor may.
  Batch batch{Buffer(storage, static_cast<int64_t>(matrices.size()) * n * pitch - (pitch - n)), {}, {}};
  const int64_t row = view == View::transposed ? 1 : pitch, column = view == View::transposed ? n : 1;
  batch.input = {nullptr, static_cast<int64_t>(n) * pitch, row, column};
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    Matrix seen(n * n);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        const int64_t place = m * batch.input.batch_stride + i * row + j * column;
        batch.buffer.set(place, matrices[m][i * n + j]);
        seen[i * n + j] = batch.buffer.get(place);
      }
    }
    batch.values.push_back(seen);
  }
  return batch;
}

struct Setting {
  int degree = 5;
  int iterations = 8;
  int groups = 0;              // 0: the plan's
  int matrices_per_block = 0;  // 0: the plan's
  bool large = false;          // by the path for large matrices
  int64_t chunk = 0;           // of that path, 0: what the workspace allows
  double rtol = 0;             // of the accurate ops
};

std::vector<Matrix> run_op(const Op& op, int n, std::vector<Batch>& inputs, const Setting& setting) {
  const Storage storage = inputs[0].buffer.storage;
  const int64_t count = static_cast<int64_t>(inputs[0].values.size());
  const int64_t size = static_cast<int64_t>(n) * n * (op.is_root() && op.both ? 2 : 1);
  Buffer out(storage, count * size);
  for (Batch& batch : inputs) batch.input.data = batch.buffer.bytes.data();
  const int element = storage == Storage::float64 ? 8 : 4;
  FusedPlan plan = plan_fused(op.fused, count, n, element, setting.degree, h200);
  if (plan.variant < 0) {
    expect(false, "no variant");
    return {};
  }
  const Shape& shape = (element == 8 ? double_shapes : float_shapes)[plan.variant];
  if (setting.groups > 0) plan.groups = setting.groups;
  if (setting.matrices_per_block > 0) plan.matrices_per_block = setting.matrices_per_block;
  plan.blocks = (count + plan.matrices_per_block - 1) / plan.matrices_per_block;
  plan.shared_bytes =
      static_cast<std::size_t>(shared_elements(op.fused, shape, plan.groups)) * plan.matrices_per_block * element;
  Operands operands{{out.bytes.data(), count, n, storage},
                    inputs[0].input,
                    {},
                    {},
                    setting.degree,
                    setting.iterations,
                    op.inverse,
                    nullptr};
  const int64_t kept_each =
      op.fused == Fused::lyapunov || op.fused == Fused::lyapunov_newton ? n * n : kept_elements(op.fused, shape);
  operands.both = op.both;
  operands.rtol = setting.rtol;
  Buffer kept(element == 8 ? Storage::float64 : Storage::float32, count * kept_each);
  const bool sums_up = op.fused == Fused::lyapunov || op.fused == Fused::lyapunov_newton;
  operands.kept = sums_up && bytes_of(storage) >= 4 ? out.bytes.data() : kept.bytes.data();
  if (op.inputs > 1) operands.second = inputs[1].input;
  if (op.inputs > 2) operands.third = inputs[2].input;
  if (op.inputs > 3) operands.fourth = inputs[3].input;
  if (setting.large) {
    run_large(op.fused, operands, setting.chunk);
  } else {
    run(op.fused, operands, plan);
  }
  std::vector<Matrix> results;
  for (int64_t m = 0; m < count; ++m) {
    Matrix result(size);
    for (int64_t i = 0; i < size; ++i) result[i] = out.get(m * size + i);
    results.push_back(result);
  }
  return results;
}

Matrix run_reference(const Op& op, int n, const std::vector<Batch>& inputs, std::size_t m, const Setting& setting) {
  const Matrix& first = inputs[0].values[m];
  switch (op.fused) {
    case Fused::mpa:
      return reference::root(first, n, true, setting.degree, op.inverse);
    case Fused::mtp:
      return reference::root(first, n, false, setting.degree, op.inverse);
    case Fused::sqrtm_lya_backward:
      return reference::sqrtm_lya_backward(first, inputs[1].values[m], inputs[2].values[m], n, setting.iterations);
    case Fused::inv_sqrtm_lya_backward:
      return reference::inv_sqrtm_lya_backward(first, inputs[1].values[m], n, setting.iterations);
    case Fused::mpa_backward:
      return reference::root_backward(first, inputs[1].values[m], n, true, setting.degree, op.inverse);
    case Fused::mtp_backward:
      return reference::root_backward(first, inputs[1].values[m], n, false, setting.degree, op.inverse);
    case Fused::ns:
      return reference::newton_schulz(first, n, setting.iterations, op.inverse);
    case Fused::ns_backward:
      return reference::newton_schulz_backward(first, inputs[1].values[m], n, setting.iterations, op.inverse);
    case Fused::accurate_roots: {
      Matrix result = reference::power(first, n, op.inverse ? -0.5 : 0.5);
      if (op.both) {
        const Matrix inverse = reference::power(first, n, -0.5);
        result.insert(result.end(), inverse.begin(), inverse.end());
      }
      return result;
    }
    case Fused::accurate_backward: {
      const Matrix cotangent = reference::symmetric_part(inputs[1].values[m], n);
      if (!op.inverse && !op.both) return reference::solve_lyapunov(first, cotangent, n);
      const Matrix z = reference::symmetric_part(inputs[op.both ? 2 : 0].values[m], n);
      const Matrix h = reference::symmetric_part(inputs[op.both ? 3 : 1].values[m], n);
      Matrix right = reference::multiply(reference::multiply(z, h, n), z, n);
      for (int i = 0; i < n * n; ++i) right[i] = (op.both ? cotangent[i] : 0) - right[i];
      return reference::solve_lyapunov(op.both ? first : reference::power(z, n, -1), right, n);
    }
    case Fused::lyapunov_newton:
      return reference::solve_lyapunov(first, inputs[1].values[m], n);
    default:
      return reference::lyapunov(first, inputs[1].values[m], n, setting.iterations);
  }
}

// The worst of the n x n matrices one after the other.
double relative_error(const Matrix& got, const Matrix& want, int n) {
  double worst = 0;
  for (std::size_t start = 0; start < got.size(); start += n * n) {
    double difference = 0, size = 0;
    for (std::size_t i = start; i < start + n * n; ++i) {
      difference += (got[i] - want[i]) * (got[i] - want[i]);
      size += want[i] * want[i];
    }
    const double error = std::sqrt(difference / size);
    worst = std::fmax(worst, std::isnan(error) ? INFINITY : error);
  }
  return worst;
}

std::mt19937_64 generator(20240611);

Matrix random_matrix(int n) {
  std::normal_distribution<double> normal;
  Matrix a(n * n);
  for (double& x : a) x = normal(generator);
  return a;
}

// Eigenvalues at least 0.02 of the mean: M M^T / n + 0.02 I.
Matrix random_spd(int n, double scale = 1) {
  const Matrix m = random_matrix(n);
  Matrix a(n * n, 0.0);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int k = 0; k < n; ++k) sum += m[i * n + k] * m[j * n + k];
      a[i * n + j] = scale * (sum / n + (i == j ? 0.02 : 0));
    }
  }
  return a;
}

// Eigenvalues from 1 down to 1/condition, evenly spaced in their logarithms.
Matrix random_hard(int n, double condition) {
  std::vector<double> eigenvalues(n);
  for (int i = 0; i < n; ++i) eigenvalues[i] = std::pow(condition, n > 1 ? -double(i) / (n - 1) : 0);
  return reference::with_eigenvalues(eigenvalues, random_matrix(n), n);
}

// condition > 0: of the roots, and of B.
std::vector<Batch> make_inputs(const Op& op, int n, int count, Storage storage, bool symmetric_c, double scale = 1,
                               double condition = 0) {
  std::vector<Matrix> first, second, third, fourth;
  for (int m = 0; m < count; ++m) {
    const bool of_root = op.fused == Fused::accurate_roots;
    const Matrix a = condition > 0 ? random_hard(n, of_root ? condition : condition * condition) : random_spd(n, scale);
    if (op.fused == Fused::accurate_backward) {
      first.push_back(reference::power(a, n, op.inverse ? -0.5 : 0.5));
      second.push_back(random_matrix(n));
      third.push_back(reference::power(a, n, -0.5));
      fourth.push_back(random_matrix(n));
    } else if (op.fused == Fused::lyapunov_newton && condition > 0) {
      first.push_back(reference::power(a, n, 0.5));
      second.push_back(random_matrix(n));
    } else if (op.fused == Fused::sqrtm_lya_backward) {
      first.push_back(a);
      second.push_back(reference::root(a, n, true, 5, false));
      third.push_back(random_matrix(n));
    } else if (op.fused == Fused::inv_sqrtm_lya_backward) {
      first.push_back(reference::root(a, n, true, 5, true));
      second.push_back(random_matrix(n));
    } else {
      first.push_back(a);
      const Matrix c = random_matrix(n);
      second.push_back(symmetric_c ? reference::symmetric_part(c, n) : c);
    }
  }
  std::vector<Batch> inputs = {make_batch(first, n, storage, View::padded)};
  if (op.inputs > 1) inputs.push_back(make_batch(second, n, storage, View::transposed));
  if (op.inputs > 2) inputs.push_back(make_batch(third, n, storage, View::contiguous));
  if (op.inputs > 3) inputs.push_back(make_batch(fourth, n, storage, View::padded));
  return inputs;
}

// Relative Frobenius error allowed against the same mathematics in float64 on the same (rounded) input. The Lyapunov
// iteration amplifies rounding up to its saturation, 0.5 * 1.5^8.
double tolerance(Storage storage, const Op& op) {
  const bool backward = op.fused != Fused::mpa && op.fused != Fused::mtp && op.fused != Fused::ns;
  if (op.is_accurate() && storage == Storage::float64) return 1e-13;
  if (op.is_accurate() && storage == Storage::float32) return 3e-5;
  switch (storage) {
    case Storage::float64:
      return backward ? 2e-13 : 1e-14;
    case Storage::float32:
      return backward ? 5e-5 : 3e-6;
    case Storage::float16:
      return 2e-3;
    default:
      return 1e-2;
  }
}

bool is_symmetric(const Matrix& a, int n) {
  for (std::size_t start = 0; start < a.size(); start += n * n) {
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < i; ++j) {
        if (a[start + i * n + j] != a[start + j * n + i]) return false;
      }
    }
  }
  return true;
}

void check_values(const Op& op, int n, std::vector<Batch> inputs, const Setting& setting, const std::string& label,
                  double allowed = 0) {
  const std::vector<Matrix> got = run_op(op, n, inputs, setting);
  double worst = 0;
  for (std::size_t m = 0; m < got.size(); ++m) {
    worst = std::fmax(worst, relative_error(got[m], run_reference(op, n, inputs, m, setting), n));
    if (op.symmetric_result()) expect(is_symmetric(got[m], n), label + ": the result is not symmetric");
  }
  std::printf("%-60s error %.2e\n", label.c_str(), worst);
  if (allowed == 0) allowed = tolerance(inputs[0].buffer.storage, op);
  expect(worst <= allowed, label + ": the error is too large");
}

const Op* find_op(const std::string& name) {
  for (const Op& op : ops) {
    if (name == op.name) return &op;
  }
  std::fprintf(stderr, "no op %s\n", name.c_str());
  std::exit(2);
}

void values(const std::string& name, const std::string& storage_name, int n) {
  const Op& op = *find_op(name);
  for (int s = 0; s < 4; ++s) {
    if (storage_name != storages[s]) continue;
    const Storage storage = static_cast<Storage>(s);
    const std::string label = name + " " + storage_name + " n=" + std::to_string(n);
    Setting setting;
    if (by_powers(op)) setting.degree = 10;
    if (by_steps(op)) setting.iterations = 5;
    if (op.fused == Fused::mpa) setting.groups = n <= 64 ? 2 : 1;
    check_values(op, n, make_inputs(op, n, 3, storage, op.fused == Fused::lyapunov && n == 31), setting, label);
  }
}

// Roots of matrices with condition 1e4 (float32) and 1e8, gradients for roots with 1e3 and 1e6. Errors grow with the
// condition of the problem, and so does what is allowed, a few roundings of the matrix.
void hard(const std::string& name, const std::string& storage_name, int n) {
  const Op& op = *find_op(name);
  const Storage storage = storage_name == "float64" ? Storage::float64 : Storage::float32;
  const bool wide = storage == Storage::float64;
  const double condition = op.is_root() ? (wide ? 1e8 : 1e4) : (wide ? 1e6 : 1e3);
  check_values(op, n, make_inputs(op, n, 3, storage, false, 1, condition), {},
               "hard " + name + " " + storage_name + " n=" + std::to_string(n),
               20 * condition * (wide ? 1.1e-16 : 6e-8));
}

bool same_bits(const Matrix& a, const Matrix& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

bool all_nan(const Matrix& a) {
  for (double x : a) {
    if (!std::isnan(x)) return false;
  }
  return true;
}

// Results when one matrix of three is another one: its own must be good, and the others' must not notice.
class OneOfThree {
 public:
  OneOfThree(const Op& op, int n, Storage storage, const Setting& setting = {})
      : op_(op),
        n_(n),
        storage_(storage),
        setting_(setting),
        inputs_(make_inputs(op, n, 3, storage, false)),
        before_(run_op(op, n, inputs_, setting)) {}

  // `others`: what the matrix's further inputs are multiplied by.
  void check(const Matrix& a, const char* what, bool (*good)(const Matrix&, int), int position = 0,
             double others = 1) const {
    std::vector<Batch> inputs = inputs_;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      std::vector<Matrix> changed = inputs[i].values;
      for (double& x : changed[1]) x *= others;
      if (static_cast<int>(i) == position) changed[1] = a;
      inputs[i] = make_batch(changed, n_, storage_, View::contiguous);
    }
    const std::vector<Matrix> after = run_op(op_, n_, inputs, setting_);
    const std::string label = std::string(setting_.large ? "large " : "") + op_.name + " " +
                              storages[static_cast<int>(storage_)] + " n=" + std::to_string(n_) + ": " + what;
    expect(good(after[1], n_), label);
    expect(same_bits(before_[0], after[0]) && same_bits(before_[2], after[2]), label + " changes its neighbours");
  }

 private:
  const Op& op_;
  const int n_;
  const Storage storage_;
  const Setting setting_;
  std::vector<Batch> inputs_;
  std::vector<Matrix> before_;
};

bool is_zero(const Matrix& a, int) {
  for (double x : a) {
    if (x != 0) return false;
  }
  return true;
}

bool is_zero_and_infinite(const Matrix& a, int n) {
  for (int i = 0; i < 2 * n * n; ++i) {
    if (a[i] != (i >= n * n && i % (n * n) % (n + 1) == 0 ? INFINITY : 0)) return false;
  }
  return true;
}

bool is_infinite_identity(const Matrix& a, int n) {
  for (int i = 0; i < n * n; ++i) {
    if (a[i] != (i % (n + 1) == 0 ? INFINITY : 0)) return false;
  }
  return true;
}

bool is_nan(const Matrix& a, int) { return all_nan(a); }

bool is_finite(const Matrix& a, int) {
  for (double x : a) {
    if (!std::isfinite(x)) return false;
  }
  return true;
}

// What the zero matrix gives, as the first input.
bool (*of_zero(const Op& op))(const Matrix&, int) {
  if (!op.is_root()) return is_zero;
  return op.both ? is_zero_and_infinite : op.inverse ? is_infinite_identity : is_zero;
}

Matrix indefinite_matrix(int n) {
  Matrix a(n * n, 0.0);
  for (int i = 0; i < n; ++i) a[i * (n + 1)] = i == n / 2 ? -1 : 0.01;
  return a;
}

// v v^T: singular, and by rounding as often as not indefinite.
Matrix rank_one(int n) {
  const Matrix v = random_matrix(n);
  Matrix a(n * n);
  for (int i = 0; i < n * n; ++i) a[i] = v[i / n] * v[i % n];
  return a;
}

// Small matrices share a warp: with enough steps some stop there while their neighbours go on.
Setting stopping(const Op& op, int n) {
  Setting setting;
  if (by_steps(op) && n <= 16) setting.iterations = 40;
  return setting;
}

// The answers that are documented beside the values.
void answers(const Op& op, int n, Storage storage, const Setting& setting) {
  const OneOfThree one(op, n, storage, setting);
  one.check(Matrix(n * n, 0.0), "zero matrix", of_zero(op));
  one.check(Matrix(n * n, 0.0), "zero matrix, the rest large", of_zero(op), 0, storage == Storage::float16 ? 1e3 : 1e6);
  Matrix bad = random_spd(n);
  bad[n * n / 2] = NAN;
  one.check(bad, "NaN", is_nan);
  if (is_exact_gradient(op)) one.check(bad, "NaN in the cotangent", is_nan, 1);
  if (op.inverse && !op.is_root() && !is_exact_gradient(op)) {
    Matrix infinite(n * n, 0.0);
    for (int i = 0; i < n; ++i) infinite[i * (n + 1)] = INFINITY;
    one.check(infinite, "gradient at the zero matrix", is_zero);
  }
  // Strongly indefinite: a pivot 1 + h is not positive.
  if (by_shifts(op) || op.is_accurate()) {
    one.check(indefinite_matrix(n), "indefinite matrix", is_nan);
  }
  if (!op.is_accurate()) return;
  bad[n * n / 2] = INFINITY;
  if (n > 1) one.check(bad, "infinite element", is_nan);
  one.check(rank_one(n), "rank one", is_finite);
  // By the rounding of its entries as indefinite as their precision is coarse: the last ridge.
  if (op.is_root()) OneOfThree(op, n, Storage::bfloat16, setting).check(rank_one(n), "rank one", is_finite);
}

void large_path(int n, bool brief) {
  Setting large;
  large.large = true;
  for (const Op& op : ops) {
    if (brief) {
      check_values(op, n, make_inputs(op, n, 2, Storage::float32, false), large,
                   std::string("large ") + op.name + " n=" + std::to_string(n));
      continue;
    }
    answers(op, n, Storage::float32, large);
    if (!op.is_accurate()) {
      std::vector<Batch> five = make_inputs(op, n, 5, Storage::bfloat16, false);
      Setting chunks = large;
      chunks.chunk = 2;
      const std::vector<Matrix> together = run_op(op, n, five, large), apart = run_op(op, n, five, chunks);
      for (int m = 0; m < 5; ++m) {
        expect(same_bits(together[m], apart[m]),
               std::string("large ") + op.name + ": a part of the batch changes bits");
      }
    }
    for (Storage storage : {Storage::float32, Storage::float64, Storage::bfloat16}) {
      Setting own = large;
      if (by_powers(op)) own.degree = 10;
      check_values(
          op, n, make_inputs(op, n, 3, storage, false), own,
          std::string("large ") + op.name + " " + storages[static_cast<int>(storage)] + " n=" + std::to_string(n));
    }
    if (op.is_accurate()) {
      // What the fixed number of steps is meant for.
      for (const auto& [storage, condition, precision] :
           {std::make_tuple(Storage::float32, 1e4, 6e-8), std::make_tuple(Storage::float64, 1e7, 1.1e-16)}) {
        check_values(op, n, make_inputs(op, n, 2, storage, false, 1, condition), large,
                     std::string("large hard ") + op.name + " " + storages[static_cast<int>(storage)] +
                         " n=" + std::to_string(n),
                     20 * condition * precision);
      }
    }
    for (int iterations : {1, 2, 3, 40}) {  // the order of the launches, so at one size
      if (!by_steps(op) || n > 16) continue;
      Setting own = large;
      own.iterations = iterations;
      check_values(op, n, make_inputs(op, n, 3, Storage::float64, false), own,
                   std::string("large ") + op.name + " iterations " + std::to_string(iterations));
    }
    if (op.is_root() || op.fused == Fused::sqrtm_lya_backward || (is_exact_gradient(op) && !op.inverse)) {
      for (double scale : {1e-30, 1e30}) {
        check_values(op, n, make_inputs(op, n, 2, Storage::float32, false, scale), large,
                     std::string("large ") + op.name + " n=" + std::to_string(n) + " far from one");
      }
    }
  }
}

void manners() {
  for (const Op& op : ops) {
    for (Storage storage : {Storage::float32, Storage::float64}) {
      for (int n : {1, 6, 13, 24, 40, 60}) {
        if (n == 60 && storage == Storage::float64) continue;
        if (op.is_accurate() && (n == 6 || n == 40)) continue;  // their kernels are the longest
        answers(op, n, storage, stopping(op, n));
      }
    }
  }
  // Far from one, the normaliser keeps squares in range.
  for (double scale : {1e-30, 1e30}) {
    for (const char* name : {"mpa_lya", "mtp_lya", "mpa_lya_inv", "mtp_lya_inv", "sqrtm_lya_backward", "mpa_backward",
                             "mtp_backward", "ns", "ns_inv", "ns_backward", "sqrtm_and_inv"}) {
      const Op& op = *find_op(name);
      check_values(op, 20, make_inputs(op, 20, 2, Storage::float32, false, scale), {},
                   std::string(name) + " scale " + std::to_string(std::log10(scale)));
    }
  }
  // Any degree and number of iterations.
  for (int degree : {1, 2, 3, 4, 7, 32}) {
    Setting setting;
    setting.degree = degree;
    setting.groups = 3;
    for (const Op& op : ops) {
      if (!by_shifts(op) && !by_powers(op)) continue;
      Setting own = setting;
      if (op.fused != Fused::mpa) own.groups = 0;
      check_values(op, 20, make_inputs(op, 20, 2, Storage::float64, false), own,
                   std::string(op.name) + " degree " + std::to_string(degree));
    }
  }
  for (int iterations : {1, 2, 30}) {
    Setting setting;
    setting.iterations = iterations;
    for (const char* name : {"sqrtm_lya_backward", "inv_sqrtm_lya_backward", "lyapunov"}) {
      const Op& op = *find_op(name);
      check_values(op, 20, make_inputs(op, 20, 2, Storage::float64, false), setting,
                   std::string(name) + " iterations " + std::to_string(iterations));
    }
  }
  // With 40 steps the kernels stop where M has become I.
  for (int iterations : {1, 2, 3, 8, 40}) {
    Setting setting;
    setting.iterations = iterations;
    for (const Op& op : ops) {
      if (!by_steps(op)) continue;
      for (int n : {7, 20}) {
        for (Storage storage : {Storage::float32, Storage::float64}) {
          check_values(op, n, make_inputs(op, n, 4, storage, false), setting,
                       std::string(op.name) + " " + storages[static_cast<int>(storage)] + " n=" + std::to_string(n) +
                           " iterations " + std::to_string(iterations));
        }
      }
    }
  }
  // The same bits whatever shares the block, however many teams share the matrix, wherever it stands in the batch.
  for (const Op& op : ops) {
    for (int n : {7, 15, 30, 61}) {
      std::vector<Batch> inputs = make_inputs(op, n, 5, Storage::float32, true);
      const Setting setting = stopping(op, n);
      const std::vector<Matrix> usual = run_op(op, n, inputs, setting);
      Setting other = setting;
      if (op.fused == Fused::mpa) other.groups = 4;
      if (op.fused == Fused::accurate_roots && n > 16) other.groups = n > 30 ? 2 : 1;
      if (n <= 16) other.matrices_per_block = 4;
      const std::vector<Matrix> grouped = run_op(op, n, inputs, other);
      std::vector<Batch> last = inputs;
      for (Batch& batch : last) batch = make_batch({batch.values[4]}, n, Storage::float32, View::contiguous);
      const std::vector<Matrix> alone = run_op(op, n, last, setting);
      for (int m = 0; m < 5; ++m) {
        expect(same_bits(usual[m], grouped[m]),
               std::string(op.name) + " n=" + std::to_string(n) + ": the block changes bits");
      }
      expect(same_bits(usual[4], alone[0]),
             std::string(op.name) + " n=" + std::to_string(n) + ": the batch changes bits");
    }
  }
}

// bfloat16 in memory that is there only where it is touched: what is beyond 2^31 elements without the gigabytes.
class Sparse {
 public:
  explicit Sparse(int64_t bytes) : bytes_(bytes) {
    data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      std::perror("mmap");
      std::exit(2);
    }
  }
  ~Sparse() { munmap(data, bytes_); }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
  __nv_bfloat16& operator[](int64_t i) { return static_cast<__nv_bfloat16*>(data)[i]; }

  void* data;

 private:
  int64_t bytes_;
};

// The last matrix of a batch of `count`, all others being zero; of the fused kernels, the last block alone runs.
Matrix run_last(const Op& op, int n, const std::vector<Batch>& inputs, int64_t count, Input view, bool large) {
  const int64_t last = count - 1, size = static_cast<int64_t>(n) * n;
  Sparse out(count * size * 2), kept(count * size * 4);
  Operands operands{{out.data, count, n, Storage::bfloat16}, {}, {}, {}, 5, 8, op.inverse, kept.data};
  std::vector<std::unique_ptr<Sparse>> memory;
  for (int k = 0; k < op.inputs; ++k) {
    const int64_t end = last * view.batch_stride + (n - 1) * (view.row_stride + view.column_stride) + 1;
    memory.push_back(std::make_unique<Sparse>(end * 2));
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        const int64_t place = last * view.batch_stride + i * view.row_stride + j * view.column_stride;
        (*memory[k])[place] = __float2bfloat16_rn(static_cast<float>(inputs[k].values[0][i * n + j]));
      }
    }
    view.data = memory[k]->data;
    (k == 0 ? operands.first : k == 1 ? operands.second : operands.third) = view;
  }
  if (large) {
    run_large(op.fused, operands);
  } else {
    const FusedPlan plan = plan_fused(op.fused, count, n, 4, 5, h200);
    first_block = plan.blocks - 1;
    run(op.fused, operands, plan);
    first_block = 0;
  }
  Matrix result(size);
  for (int64_t i = 0; i < size; ++i) result[i] = __bfloat162float(out[last * size + i]);
  return result;
}

// Batches of more than 2^31 elements, and views whose strides take one matrix beyond them.
void far() {
  constexpr int64_t limit = int64_t(1) << 31;
  for (const Op& op : ops) {
    for (int n : {1, 13, 40}) {
      const std::vector<Batch> inputs = make_inputs(op, n, 1, Storage::bfloat16, false);
      const int64_t size = n * n;
      for (bool large : {false, true}) {
        const std::string label =
            std::string(large ? "large " : "") + op.name + " n=" + std::to_string(n) + " beyond 2^31 elements: ";
        const Matrix near = run_last(op, n, inputs, 1, {nullptr, size, n, 1}, large);
        const auto check = [&](int64_t count, const Input& view, const char* what) {
          expect(same_bits(run_last(op, n, inputs, count, view, large), near), label + what);
        };
        expect(!is_zero(near, n), label + "nothing is computed");
        if (!large) check(limit / size + 2, {nullptr, size, n, 1}, "batch");  // of the other path, see parts()
        check(2, {nullptr, limit + 5, n, 1}, "stride of the batch");
        check(1, {nullptr, size, limit / 8, 1}, "stride of rows");
        check(1, {nullptr, size, 1, limit / 8}, "stride of columns");
      }
    }
  }
}

// The path for large matrices takes every matrix of a batch once, at its address, and never more of them than the
// second dimension of a grid and the workspace hold.
void parts() {
  unsigned char* const base = reinterpret_cast<unsigned char*>(uintptr_t(1) << 20);  // never read
  for (int op = 0; op < fused_count; ++op) {
    for (Storage storage : {Storage::float64, Storage::float32, Storage::float16}) {
      const int64_t bytes = bytes_of(storage);
      const int element = storage == Storage::float64 ? 8 : 4;
      for (int n : {13, 49, 200, 5000, 50000}) {
        const int64_t size = static_cast<int64_t>(n) * n, beyond = (int64_t(1) << 31) / size + 2;
        for (int64_t batch : {int64_t(0), int64_t(1), int64_t(3), int64_t(70000), beyond}) {
          for (int degree : {1, 5, 32}) {
            const Input view{base, size + 7, n, 1};
            const LargeOp whole{static_cast<Fused>(op), {base, batch, n, storage}, view, view, {}, degree, 8, false};
            const int64_t chunk = large_chunk(whole.op, batch, n, degree, element);
            const std::string label = "parts op " + std::to_string(op) + " n " + std::to_string(n) + " batch " +
                                      std::to_string(batch) + " degree " + std::to_string(degree);
            int64_t next = 0;
            in_parts(whole, chunk, [&](const LargeOp& part) {
              const int64_t out = static_cast<unsigned char*>(part.problem.out) - base;
              const int64_t in = static_cast<const unsigned char*>(part.second.data) - base;
              expect(out == next * size * bytes && in == next * (size + 7) * bytes, label + ": address");
              expect(part.third.data == nullptr, label + ": an input that is not there");
              expect(part.problem.batch >= 1 && part.problem.batch <= 65535, label + ": grid");
              next += part.problem.batch;
            });
            expect(next == batch, label + ": not every matrix once");
            const int64_t workspace = large_workspace_bytes(whole.op, chunk, n, degree, element);
            expect(chunk <= 1 || workspace <= int64_t(1) << 30, label + ": workspace");
          }
        }
      }
    }
  }
  for (int n : {1, 65, 46341, 65537}) {  // from 46341 on one matrix has more than 2^31 elements
    const int64_t size = static_cast<int64_t>(n) * n;
    for (int64_t matrix : {int64_t(0), int64_t(1), int64_t(70000)}) {
      for (const ElementPlace& place : {ElementPlace{matrix, 0, 0}, {matrix, n - 1, 0}, {matrix, n / 2, n - 1}}) {
        const ElementPlace got = place_of(matrix * size + static_cast<int64_t>(place.row) * n + place.column, n);
        expect(got.matrix == place.matrix && got.row == place.row && got.column == place.column,
               "place of an element, n " + std::to_string(n));
      }
    }
  }
}

// Plan and workspace arithmetic for the chips there are.
void plans() {
  struct Chip {
    const char* name;
    DeviceLimits limits;
    int largest_float, largest_double;  // that every op must fit
  };
  const Chip chips[] = {{"7.5", {65536, 40}, 64, 48},
                        {"8.0", {166912, 108}, 112, 80},
                        {"8.6, 8.9, 12.0", {101376, 84}, 80, 64},
                        {"9.0, 10.0", {232448, 132}, 128, 96}};
  for (const Chip& chip : chips) {
    for (int op = 0; op < fused_count; ++op) {
      for (int element : {4, 8}) {
        int largest = element == 4 ? chip.largest_float : chip.largest_double;
        // The powers of W, and the two matrices and two triangles of the Newton steps, take a little more than 99 KB.
        const Fused fused = static_cast<Fused>(op);
        const bool bigger = fused == Fused::mtp || fused == Fused::accurate_backward || fused == Fused::lyapunov_newton;
        if (bigger && element == 8 && largest == 64) largest = 48;
        for (int64_t n = 1; n <= 140; ++n) {
          for (int64_t batch : {int64_t(0), int64_t(1), int64_t(3), int64_t(256), int64_t(70000), int64_t(1) << 33}) {
            for (int degree : {1, 5, 32}) {
              const FusedPlan plan = plan_fused(static_cast<Fused>(op), batch, n, element, degree, chip.limits);
              const std::string label = std::string("plan ") + chip.name + " op " + std::to_string(op) + " n " +
                                        std::to_string(n) + " batch " + std::to_string(batch);
              if (plan.variant < 0) {
                expect(n > largest, label + ": no variant");
                continue;
              }
              const Shape& shape = (element == 8 ? double_shapes : float_shapes)[plan.variant];
              const int threads = shape.threads * plan.groups * plan.matrices_per_block;
              expect(shape.padded >= n && shape.valid(), label + ": shape");
              expect(plan.shared_bytes <= chip.limits.shared_per_block, label + ": shared memory");
              expect(threads % 32 == 0 && threads <= max_threads(static_cast<Fused>(op), shape), label + ": threads");
              // Barrier 0 is the block's; every team of more than a warp has one of the other fifteen.
              expect(shape.threads <= 32 || plan.groups * plan.matrices_per_block <= 15, label + ": barriers");
              expect(
                  plan.blocks * plan.matrices_per_block >= batch && (plan.blocks - 1) * plan.matrices_per_block < batch,
                  label + ": blocks");
              expect(plan.variant == plan_fused(static_cast<Fused>(op), 1, n, element, degree, chip.limits).variant,
                     label + ": the variant depends on the batch");
            }
          }
        }
      }
    }
  }
}

// A kernel with a fault, for the test of the harness.
void skipped_barrier() {
  launch(1, 64, 1, 16, [] {
    if (threadIdx.x != 5) __syncthreads();
  });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string seed = argc > 1 ? argv[1] : "";
  seeded_missing_barrier = seed == "seed_missing_barrier";
  seeded_offset = seed == "seed_out_of_bounds";
  if (seeded_missing_barrier || seeded_offset != 0) ++argv, --argc;
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "hard" && argc > 4) {
    for (int i = 4; i < argc; ++i) hard(argv[2], argv[3], std::atoi(argv[i]));
  } else if (command == "answers" && argc > 3) {
    const Op& op = *find_op(argv[2]);
    for (int i = 3; i < argc; ++i) {
      const int n = std::atoi(argv[i]);
      answers(op, n, Storage::float32, stopping(op, n));
    }
  } else if (command == "values" && argc > 4) {
    for (int i = 4; i < argc; ++i) {
      if (std::string(argv[2]) != "all") {
        values(argv[2], argv[3], std::atoi(argv[i]));
        continue;
      }
      for (const Op& op : ops) values(op.name, argv[3], std::atoi(argv[i]));
    }
  } else if (command == "large" || command == "large_brief") {
    for (int i = 2; i < argc; ++i) large_path(std::atoi(argv[i]), command == "large_brief");
  } else if (command == "manners") {
    manners();
  } else if (command == "far") {
    far();
  } else if (command == "plans") {
    plans();
    parts();
  } else if (command == "skipped_barrier") {
    skipped_barrier();
  } else {
    std::fprintf(stderr, "see the head of emulate.cpp for the arguments\n");
    return 2;
  }
  std::printf("%d failures\n", failures);
  return failures > 0;
}

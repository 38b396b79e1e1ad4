// Runs the passes of csrc/cuda on the host and compares them with the reference. Prints one line per failure; exit
// status 1 if any. <pass>: its name in ops.def for all ways to call it, one of its names here for one way, or all.
//   emulate names <pass>                              the ways to call it
//   emulate values <pass> <dtype> <n>...              values, with general strides and three matrices
//   emulate brief <pass> <dtype> <n>...               every path through the kernel once, for the slow builds
//   emulate hard <pass> <float64|float32> <n>...      an accurate pass on ill-conditioned matrices
//   emulate singular <pass> <dtype> <n>...            an accurate pass on singular and indefinite matrices
//   emulate answers <pass> <n>...                     the documented answers: zero, NaN, singular
//   emulate neighbours <pass> <n>...                  the same, for passes whose loops depend on the matrix
//   emulate manners <pass>                            the contracts of a pass in addition to its values
//   emulate large <pass> <n>...                       the path for large matrices
//   emulate large_singular <pass> <dtype> <n>...      singular, on the path for large matrices
//   emulate large_brief <pass> <n>...                 every step of it once, for the slow builds
//   emulate far <pass>                                offsets beyond 2^31 elements
//   emulate rectangular <float64|float32> <m>x<n>...  the QR of such matrices and its gradient
//   emulate in_global_memory <dtype> <m>x<n>...       the same, with little shared memory
//   emulate plans                                     the choice of variants, the walk over a large batch
//   emulate <seed_missing_barrier|seed_out_of_bounds> <the above>     with a fault in the kernels
//   emulate blocked <the above>                       the path for large matrices by sweeps in blocks, from n = 104 on
//   emulate skipped_barrier                           a kernel with a fault, to show that it is found
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "cases.h"
#include "cuda/library/large.h"
#include "emulation.h"

using namespace emulation;

namespace {

constexpr std::size_t npos = static_cast<std::size_t>(-1);
constexpr DeviceLimits h200 = {232448, 132};

constexpr const char* element_names[] = {"float32", "float64", "float16", "bfloat16"};  // in the order of Element
const char* name_of(Element element) { return element_names[static_cast<int>(element)]; }

int failures = 0;

void expect(bool good, const std::string& what) {
  if (good) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

// A buffer of elements as they lie in memory, with the exact size, so that AddressSanitizer guards its ends.
struct Buffer {
  Element element;
  std::vector<unsigned char> bytes;

  Buffer(Element e, int64_t count) : element(e), bytes(count * storage_bytes(e)) {}
  void set(int64_t i, double x) {
    unsigned char* place = bytes.data() + i * storage_bytes(element);
    const float f = static_cast<float>(x);
    const uint16_t half = __float2half_rn(f).bits, brain = __float2bfloat16_rn(f).bits;
    if (element == Element::float64) std::memcpy(place, &x, 8);
    if (element == Element::float32) std::memcpy(place, &f, 4);
    if (element == Element::float16) std::memcpy(place, &half, 2);
    if (element == Element::bfloat16) std::memcpy(place, &brain, 2);
  }
  double get(int64_t i) const {
    const unsigned char* place = bytes.data() + i * storage_bytes(element);
    double x;
    float f;
    uint16_t half;
    std::memcpy(&half, place, 2);
    if (element == Element::float16) return __half2float({half});
    if (element == Element::bfloat16) return __bfloat162float({half});
    std::memcpy(&f, place, 4);
    if (element == Element::float32) return f;
    std::memcpy(&x, place, 8);
    return x;
  }
};

enum class View { contiguous, transposed, padded };

// A batch in memory, seen through strides, and the values that the kernel reads through them.
struct Batch {
  Buffer buffer;
  Input input;
  std::vector<Matrix> values;
};

Batch make_batch(const std::vector<Matrix>& matrices, int n, Element element, View view) {
  const int pitch = view == View::padded ? n + 3 : n;
  // Ends with the last element of the last row, as a view of a larger tensor may.
  Batch batch{Buffer(element, static_cast<int64_t>(matrices.size()) * n * pitch - (pitch - n)), {}, {}};
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

std::vector<Matrix> run_case(const Case& c, int n, std::vector<Batch>& inputs, const Setting& setting) {
  const Element element = inputs[0].buffer.element;
  const int64_t count = static_cast<int64_t>(inputs[0].values.size());
  const int64_t size = static_cast<int64_t>(n) * n;
  const int bytes = compute_bytes(element);
  Plan plan = c.plan(count, n, bytes, c.terms(setting, bytes), h200);
  if (plan.path == Path::library && !setting.large) {
    expect(false, "no variant");
    return {};
  }
  const Shape& shape = shape_of(plan, bytes);
  if (plan.path != Path::tiny) {
    if (setting.teams > 0) plan.teams = setting.teams;
    if (setting.matrices_per_block > 0) plan.matrices_per_block = setting.matrices_per_block;
    plan.blocks = (count + plan.matrices_per_block - 1) / plan.matrices_per_block;
    plan.shared_bytes =
        static_cast<std::size_t>(c.shared_elements(shape, plan.teams)) * plan.matrices_per_block * bytes;
  }
  Operands operands = {};
  operands.problem = Problem::square(count, n, element);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    inputs[i].input.data = inputs[i].buffer.bytes.data();
    operands.in[c.in[i]] = inputs[i].input;
  }
  std::vector<Buffer> out;
  for (int result : c.out) {
    const int64_t each = c.is_number(result) ? 1 : size;
    out.emplace_back(element, count * each);
    operands.out[result] = {out.back().bytes.data(), each * storage_bytes(element)};
  }
  const int64_t kept_elements = c.kept_elements(shape, operands.problem);
  Buffer kept(bytes == 8 ? Element::float64 : Element::float32, count * kept_elements);
  operands.kept = kept_elements > 0 ? kept.bytes.data() : nullptr;
  if (setting.by_rows) operands = c.by_rows(operands);
  if (setting.large) {
    c.run_large(setting, operands, setting.chunk);
  } else {
    c.run_in_blocks(setting, operands, plan);
  }
  std::vector<Matrix> results;
  for (int64_t m = 0; m < count; ++m) {
    Matrix result;
    for (std::size_t k = 0; k < out.size(); ++k) {
      const int64_t each = c.is_number(c.out[k]) ? 1 : size;
      for (int64_t i = 0; i < each; ++i) result.push_back(out[k].get(m * each + i));
    }
    results.push_back(result);
  }
  return results;
}

Matrix run_reference(const Case& c, int n, const std::vector<Batch>& inputs, std::size_t m, const Setting& setting) {
  std::vector<Matrix> values;
  for (const Batch& batch : inputs) values.push_back(batch.values[m]);
  return c.reference(values, n, setting);
}

// The largest relative error of the n x n matrices, and of the numbers that may follow them.
double relative_error(const Matrix& got, const Matrix& want, int n) {
  double worst = 0;
  for (std::size_t start = 0; start < got.size(); start += n * n) {
    double difference = 0, size = 0;
    for (std::size_t i = start; i < std::min(start + n * n, got.size()); ++i) {
      difference += (got[i] - want[i]) * (got[i] - want[i]);
      size += want[i] * want[i];
    }
    const double error = std::sqrt(difference / size);
    worst = std::fmax(worst, std::isnan(error) ? INFINITY : error);
  }
  return worst;
}

std::vector<Batch> make_inputs(const Case& c, int n, int count, Element element, bool symmetric_c, double scale = 1,
                               double condition = 0) {
  std::vector<std::vector<Matrix>> values(c.in.size());
  for (int m = 0; m < count; ++m) {
    const std::vector<Matrix> of_one = c.inputs(n, scale, condition, symmetric_c);
    for (std::size_t i = 0; i < of_one.size(); ++i) values[i].push_back(of_one[i]);
  }
  constexpr View views[] = {View::padded, View::transposed, View::contiguous, View::padded};
  std::vector<Batch> inputs;
  for (std::size_t i = 0; i < values.size(); ++i) inputs.push_back(make_batch(values[i], n, element, views[i]));
  return inputs;
}

// Relative Frobenius error allowed against the same mathematics in float64 on the same (rounded) input. The Lyapunov
// iteration amplifies rounding up to its saturation, 0.5 * 1.5^8.
double tolerance(Element element, const Case& c) {
  // An inverse is as ill-conditioned as its matrix, whose eigenvalues are 0.02 to 4; a root half as much.
  const bool backward = !c.is_root || c.method == Method::direct;
  if (c.is_accurate() && element == Element::float64) return 1e-13;
  if (c.is_accurate() && element == Element::float32) return 3e-5;
  switch (element) {
    case Element::float64:
      return backward ? 2e-13 : 1e-14;
    case Element::float32:
      return backward ? 5e-5 : 3e-6;
    case Element::float16:
      return 2e-3;
    default:
      return 1e-2;
  }
}

bool is_symmetric(const Matrix& a, int n) {
  for (std::size_t start = 0; start + n * n <= a.size(); start += n * n) {
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < i; ++j) {
        if (a[start + i * n + j] != a[start + j * n + i]) return false;
      }
    }
  }
  return true;
}

void check_values(const Case& c, int n, std::vector<Batch> inputs, const Setting& setting, const std::string& label,
                  double allowed = 0) {
  const std::vector<Matrix> got = run_case(c, n, inputs, setting);
  double worst = 0;
  for (std::size_t m = 0; m < got.size(); ++m) {
    worst = std::fmax(worst, relative_error(got[m], run_reference(c, n, inputs, m, setting), n));
    if (c.symmetric_result) expect(is_symmetric(got[m], n), label + ": the result is not symmetric");
  }
  std::printf("%-60s error %.2e\n", label.c_str(), worst);
  if (allowed == 0) allowed = tolerance(inputs[0].buffer.element, c);
  expect(worst <= allowed, label + ": the error is too large");
}

Setting setting_of(const Case& c) {
  Setting setting;
  if (c.method == Method::powers) setting.degree = 10;
  if (c.method == Method::steps) setting.iterations = 5;
  return setting;
}

std::string label_of(const std::string& what, const Case& c, Element element, int n) {
  return what + (what.empty() ? "" : " ") + c.name + " " + name_of(element) + " n=" + std::to_string(n);
}

void values(const Case& c, Element element, int n) {
  Setting setting = setting_of(c);
  if (c.pass == "mpa" || (c.pass == "rational" && c.is_root)) setting.teams = n <= 64 ? 2 : 1;
  check_values(c, n, make_inputs(c, n, 3, element, c.pass == "lyapunov" && n == 31), setting,
               label_of("", c, element, n));
}

// Every path through a kernel, with the shortest loops that reach it: one matrix where it has its block for itself, two
// where they share a warp; two Lyapunov iterations; two rounds of shifts, the second for fewer of them than there are
// teams; two and a half pairs of powers.
void brief(const Case& c, Element element, int n) {
  if (!c.distinct) return;
  Setting setting;
  setting.degree = c.method == Method::powers ? 5 : 3;
  setting.iterations = c.method == Method::steps ? 5 : 2;
  if (c.pass == "mpa" || (c.pass == "rational" && c.is_root)) setting.teams = n <= 64 ? 2 : 1;
  check_values(c, n, make_inputs(c, n, n <= 16 ? 3 : 1, element, c.pass == "lyapunov" && n == 31), setting,
               label_of("brief", c, element, n));
}

// Roots of matrices with condition 1e4 (float32) and 1e8, gradients for roots with 1e3 and 1e6. Errors grow with the
// condition of the problem, and so does the tolerance, a few roundings of the matrix.
void hard(const Case& c, Element element, int n) {
  if (!c.is_accurate()) return;
  const bool wide = element == Element::float64;
  const double condition = c.is_root ? (wide ? 1e8 : 1e4) : (wide ? 1e6 : 1e3);
  check_values(c, n, make_inputs(c, n, 3, element, false, 1, condition), {}, label_of("hard", c, element, n),
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

// Results when one matrix of three is replaced: its own must be good, and the others' must not change.
class OneOfThree {
 public:
  OneOfThree(const Case& c, int n, Element element, const Setting& setting = {})
      : case_(c),
        n_(n),
        element_(element),
        setting_(setting),
        inputs_(make_inputs(c, n, 3, element, false)),
        before_(run_case(c, n, inputs_, setting)) {}

  // `others`: the factor of the matrix's further inputs.
  void check(const Matrix& a, const char* what, bool (*good)(const Matrix&, int), int position = 0,
             double others = 1) const {
    std::vector<Batch> inputs = inputs_;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      std::vector<Matrix> changed = inputs[i].values;
      for (double& x : changed[1]) x *= others;
      if (static_cast<int>(i) == position) changed[1] = a;
      inputs[i] = make_batch(changed, n_, element_, View::contiguous);
    }
    const std::vector<Matrix> after = run_case(case_, n_, inputs, setting_);
    const std::string label = label_of(setting_.large ? "large" : "", case_, element_, n_) + ": " + what;
    expect(good(after[1], n_), label);
    expect(same_bits(before_[0], after[0]) && same_bits(before_[2], after[2]), label + " changes its neighbours");
  }

 private:
  const Case& case_;
  const int n_;
  const Element element_;
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

// The test of the result for the zero matrix as the first input.
bool (*of_zero(const Case& c))(const Matrix&, int) {
  if (!c.is_root) return is_zero;
  return c.both_roots() ? is_zero_and_infinite : c.is_inverse() ? is_infinite_identity : is_zero;
}

bool is_identity(const Matrix& a, int n) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] != (i % (n * n) % (n + 1) == 0 ? 1 : 0)) return false;
  }
  return true;
}

// v v^T: singular, and in about half of the cases indefinite by rounding.
Matrix rank_one(int n) {
  const Matrix v = random_matrix(n);
  Matrix a(n * n);
  for (int i = 0; i < n * n; ++i) a[i] = v[i / n] * v[i % n];
  return a;
}

// v v^T less a twentieth of its norm on the diagonal: no rounding makes it so indefinite.
Matrix rank_one_less(int n) {
  Matrix a = rank_one(n);
  double trace = 0;
  for (int i = 0; i < n; ++i) trace += a[i * (n + 1)];
  for (int i = 0; i < n; ++i) a[i * (n + 1)] -= trace / 20;
  return a;
}

Matrix indefinite_matrix(int n) {
  Matrix a(n * n, 0.0);
  for (int i = 0; i < n; ++i) a[i * (n + 1)] = i == n / 2 ? -1 : 0.01;
  return a;
}

// Small matrices share a warp: with enough steps some stop there while their neighbours go on.
Setting stopping(const Case& c, int n) {
  Setting setting;
  if (c.method == Method::steps && n <= 16) setting.iterations = 40;
  return setting;
}

double rounding_of(Element element) {
  switch (element) {
    case Element::float64:
      return 0x1p-52;
    case Element::float32:
      return 0x1p-23;
    case Element::float16:
      return 0x1p-11;
    case Element::bfloat16:
      return 0x1p-8;
  }
  return 0;
}

// The error of the design at the largest eigenvalue, four roundings, is not in the roots of matrices near a
// multiple of the identity.
void check_side(const Case& c, int n, Element element, const Setting& setting) {
  constexpr int count = 8;
  std::vector<Matrix> matrices;
  for (int m = 0; m < count; ++m) {
    Matrix a = random_matrix(n);
    for (int i = 0; i < n * n; ++i) a[i] = (1 + 0.37 * m) * ((i % (n + 1) == 0) + 1e-3 / n * a[i]);
    matrices.push_back(a);
  }
  std::vector<Batch> inputs = {make_batch(matrices, n, element, View::padded)};
  const std::vector<Matrix> got = run_case(c, n, inputs, setting);
  double sum = 0;
  for (int m = 0; m < count; ++m) {
    double squares = 0, trace = 0;
    for (int i = 0; i < n * n; ++i) squares += got[m][i] * got[m][i];
    for (int i = 0; i < n; ++i) trace += inputs[0].values[m][i * (n + 1)];
    sum += (squares / trace - 1) / count;
  }
  expect(std::fabs(sum) <= 2 * rounding_of(element),
         label_of("side", c, element, n) + ": the mean is off by " + std::to_string(sum / rounding_of(element)));
}

// The documented answers for special matrices.
void answers(const Case& c, int n, Element element, const Setting& setting) {
  const OneOfThree one(c, n, element, setting);
  const auto zero = c.method == Method::fractions ? is_finite : of_zero(c);
  one.check(Matrix(n * n, 0.0), "zero matrix", zero);
  one.check(Matrix(n * n, 0.0), "zero matrix, the rest large", zero, 0, element == Element::float16 ? 1e3 : 1e6);
  Matrix bad = random_spd(n);
  bad[n * n / 2] = NAN;
  one.check(bad, "NaN", is_nan);
  if (c.is_exact_gradient()) one.check(bad, "NaN in the cotangent", is_nan, 1);
  if (c.is_inverse() && !c.is_root && !c.is_exact_gradient()) {
    Matrix infinite(n * n, 0.0);
    for (int i = 0; i < n; ++i) infinite[i * (n + 1)] = INFINITY;
    one.check(infinite, "gradient at the zero matrix", is_zero);
  }
  // Strongly indefinite: a pivot 1 + h is not positive.
  if (c.method == Method::shifts || c.method == Method::fractions || c.is_accurate()) {
    one.check(indefinite_matrix(n), "indefinite matrix", is_nan);
  }
  if (!c.is_accurate()) return;
  bad[n * n / 2] = INFINITY;
  if (n > 1) one.check(bad, "infinite element", is_nan);
  one.check(rank_one(n), "rank one", is_finite);
  if (!c.is_root) return;
  if (n > 1) one.check(rank_one_less(n), "indefinite matrix with many entries", is_nan);
  Matrix identity(n * n, 0.0);
  for (int i = 0; i < n; ++i) identity[i * (n + 1)] = 1;
  one.check(identity, "identity", is_identity);
  if (n > 1 && c.out[0] == 0) check_side(c, n, element, setting);
  // Rounding makes it as indefinite as the precision of its entries is coarse.
  OneOfThree(c, n, Element::bfloat16, setting).check(rank_one(n), "rank one", is_finite);
}

double frobenius(const Matrix& a) {
  double sum = 0;
  for (double x : a) sum += x * x;
  return std::sqrt(sum);
}

double distance(const Matrix& a, const Matrix& b) {
  Matrix difference = a;
  for (std::size_t i = 0; i < a.size(); ++i) difference[i] -= b[i];
  return frobenius(difference);
}

// A kind of matrix for `singular`. `separated`: no eigenvalue is so near the floor that rounding decides its inverse
// root.
struct Degenerate {
  const char* name;
  Matrix matrix;
  bool separated;
};

// `floor`: of the eigenvalues of inverse roots; are_inverted: the roots are, for a gradient.
std::vector<Degenerate> degenerate_matrices(int n, double floor, bool are_inverted) {
  const auto with = [n](auto eigenvalue) {
    std::vector<double> values(n);
    for (int i = 0; i < n; ++i) values[i] = eigenvalue(i);
    return reference::with_eigenvalues(values, random_matrix(n), n);
  };
  const auto diagonal = [n](auto entry) {
    Matrix a(n * n, 0.0);
    for (int i = 0; i < n; ++i) a[i * (n + 1)] = entry(i);
    return a;
  };
  std::vector<Degenerate> all;
  const auto spread = [n](int i) { return std::pow(30.0, -double(i) / n); };
  all.push_back({"diagonal", diagonal([](int i) { return 4.0 * (i + 1) * (i + 1); }), true});
  all.push_back(
      {"diagonal, singular", diagonal([](int i) { return i % 3 == 1   ? 0.0
                                                         : i % 3 == 2 ? -1e-2
                                                                      : 1.0; }), true});
  all.push_back({"diagonal, indefinite", diagonal([](int i) { return i % 3 == 2 ? -2e-2 : 1.0; }), true});
  if (n == 1) return all;
  all.push_back({"half the rank", with([&](int i) { return i < (n + 1) / 2 ? spread(i) : 0.0; }), false});
  all.push_back({"rank one", rank_one(n), false});
  // The root of the first counts as singular when it is inverted, that of the second does not.
  for (double w : {floor / 400, floor}) {
    if (!are_inverted) continue;
    all.push_back({"one eigenvalue near zero", with([&](int i) { return i == n - 1 ? w : spread(i); }), false});
  }
  all.push_back({"one eigenvalue below zero", with([&](int i) { return i == n - 1 ? -1e-3 : spread(i); }), true});
  Matrix a = with([](int i) { return i == 0 ? 1.0 : i % 2 == 1 ? -0.01 : 0.1; });
  all.push_back({"half of them below zero", a, true});
  // Near the limit, below it, where the sign is lost, and far below; two and more of the last two.
  for (double w : {-0.9 / 64, -1.1 / 64, -2.02 / 64, -3.1 / 64, -0.5}) {
    all.push_back({"at the limit", with([&](int i) { return i == n - 1 ? w : i == 0 ? 1.0 : 1e-2; }), true});
    all.push_back({"many at the limit", with([&](int i) { return i == 0 ? 1.0 : w; }), true});
    all.push_back({"at the limit of many", with([&](int i) { return i == n - 1 ? w : 1.0; }), true});
  }
  a = with([&](int i) { return spread(i); });
  for (int i = 0; i < n; ++i) a[i * n + n / 2] = a[n / 2 * n + i] = 0;
  all.push_back({"a row of zeros", a, false});
  return all;
}

double computed_rounding(Element element) { return compute_bytes(element) == 8 ? 0x1p-52 : 0x1p-23; }

// The error of one root of a matrix that may be singular, in a measure that rounding leaves small: the root magnifies
// the error of an eigenvalue near 0, but its square does not. The inverse root of such an eigenvalue is bounded, and it
// is right on the others.
double degenerate_root_error(const Matrix& got, const Matrix& a, int n, bool is_inverse, bool separated, double floor) {
  const Matrix root = reference::semidefinite_root(a, n, floor, false);
  if (std::isnan(root[0])) return all_nan(got) ? 0 : INFINITY;
  if (!is_inverse) {
    const Matrix square = reference::multiply(root, root, n);
    return distance(reference::multiply(got, got, n), square) / frobenius(square);
  }
  const Matrix inverse = reference::semidefinite_root(a, n, floor, true);
  if (separated) return distance(got, inverse) / frobenius(inverse);
  if (!(frobenius(got) <= 1.01 * std::sqrt(n) * frobenius(inverse))) return INFINITY;
  const Matrix product = reference::multiply(root, reference::multiply(got, root, n), n);
  return distance(product, root) / frobenius(root) * std::sqrt(floor);
}

// Matrices that the rational approximation does not take, and the gradients of their roots.
void singular(const Case& c, Element element, int n, bool large) {
  if (!c.is_accurate() || (c.pass == "roots_backward" ? c.in[0] != 0 : !c.is_root)) return;
  const double floor = computed_rounding(element), rounding = rounding_of(element);
  std::vector<Degenerate> kinds;
  std::vector<std::vector<Matrix>> values(c.in.size());
  for (const Degenerate& kind : degenerate_matrices(n, floor, !c.is_root)) {
    const Matrix root = reference::semidefinite_root(kind.matrix, n, floor, false);
    if (!c.is_root && std::isnan(root[0])) continue;
    kinds.push_back(kind);
    values[0].push_back(c.is_root ? kind.matrix : root);
    for (std::size_t i = 1; i < values.size(); ++i)
      values[i].push_back(i == 2 ? reference::semidefinite_root(kind.matrix, n, floor, true) : random_matrix(n));
  }
  std::vector<Batch> inputs;
  for (const auto& matrices : values) inputs.push_back(make_batch(matrices, n, element, View::padded));
  Setting setting;
  setting.large = large;
  const std::vector<Matrix> got = run_case(c, n, inputs, setting);
  const std::string label = label_of(large ? "large singular" : "singular", c, element, n);
  double worst = 0;
  for (std::size_t m = 0; m < kinds.size(); ++m) {
    expect(all_nan(got[m]) || is_symmetric(got[m], n), label + ", " + kinds[m].name + ": the result is not symmetric");
    double error = 0;
    for (std::size_t k = 0; c.is_root && k < c.out.size(); ++k) {
      const Matrix result(got[m].begin() + k * n * n, got[m].begin() + (k + 1) * n * n);
      error = std::fmax(
          error, degenerate_root_error(result, inputs[0].values[m], n, c.out[k] == 1, kinds[m].separated, floor));
    }
    if (!c.is_root && rounding == floor) {
      std::vector<Matrix> seen;
      for (const Batch& batch : inputs) seen.push_back(batch.values[m]);
      seen[0] = reference::lifted_root(seen[0], n, std::sqrt(floor));
      error = relative_error(got[m], c.reference(seen, n, setting), n) * std::sqrt(floor);
    } else if (!c.is_root) {
      // Rounded to a half type the root may need a ridge as well.
      const Matrix s = reference::symmetric_part(inputs[0].values[m], n);
      const double least = std::sqrt(floor) / 4;  // of an eigenvalue that does not count as 0
      const double bound = frobenius(inputs[1].values[m]) / (2 * least * frobenius(s));
      error = c.in.size() > 2 || frobenius(got[m]) <= 1.01 * bound ? 0 : INFINITY;
      expect(!std::isnan(frobenius(got[m])), label + ", " + kinds[m].name + ": NaN");  // float16 may overflow
    }
    worst = std::fmax(worst, error / rounding);
    // In float64 the reference has roundings of its own.
    const double allowed = c.is_root ? 20 + n : 5;
    expect(error <= allowed * (element == Element::float64 ? 5 : 1) * rounding,
           label + ", " + kinds[m].name + ": the error is too large, " + std::to_string(error / rounding));
  }
  std::printf("%-60s error %.1f roundings\n", label.c_str(), worst);
}

void singular_in_blocks(const Case& c, Element element, int n) { singular(c, element, n, false); }
void large_singular(const Case& c, Element element, int n) {
  if (c.distinct || n < 16) singular(c, element, n, true);  // blocks of 1024 threads take long
}

void large_path(const Case& c, int n) {
  Setting large;
  large.large = true;
  answers(c, n, Element::float32, large);
  if (!c.is_accurate()) {
    std::vector<Batch> five = make_inputs(c, n, 5, Element::bfloat16, false);
    Setting chunks = large;
    chunks.chunk = 2;
    const std::vector<Matrix> together = run_case(c, n, five, large), apart = run_case(c, n, five, chunks);
    for (int m = 0; m < 5; ++m)
      expect(same_bits(together[m], apart[m]), label_of("large", c, Element::bfloat16, n) + ": a part changes bits");
  }
  for (Element element : {Element::float32, Element::float64, Element::bfloat16}) {
    Setting own = large;
    if (c.method == Method::powers) own.degree = 10;
    check_values(c, n, make_inputs(c, n, 3, element, false), own, label_of("large", c, element, n));
  }
  if (c.is_accurate()) {
    // The condition numbers that the fixed number of steps is made for.
    for (const auto& [element, condition, precision] :
         {std::make_tuple(Element::float32, 1e4, 6e-8), std::make_tuple(Element::float64, 1e7, 1.1e-16)}) {
      check_values(c, n, make_inputs(c, n, 2, element, false, 1, condition), large,
                   label_of("large hard", c, element, n), 20 * condition * precision);
    }
  }
  for (int iterations : {1, 2, 3, 40}) {  // this tests the order of the launches: one size is enough
    if (c.method != Method::steps || n > 16) continue;
    Setting own = large;
    own.iterations = iterations;
    check_values(c, n, make_inputs(c, n, 3, Element::float64, false), own,
                 label_of("large", c, Element::float64, n) + " steps " + std::to_string(iterations));
  }
  if (c.method != Method::fractions &&
      (c.is_root || c.pass == "sqrtm_lya_backward" || (c.is_exact_gradient() && !c.is_inverse()))) {
    for (double scale : {1e-30, 1e30}) {
      check_values(c, n, make_inputs(c, n, 2, Element::float32, false, scale), large,
                   label_of("large", c, Element::float32, n) + " far from one");
    }
  }
}

void large_brief(const Case& c, int n) {
  Setting large;
  large.large = true;
  check_values(c, n, make_inputs(c, n, 2, Element::float32, false), large, label_of("large", c, Element::float32, n));
}

// `check` for both precisions, or for one of them.
void check_setting(const Case& c, int n, int count, Element element, const Setting& setting, const std::string& what,
                   double scale = 1) {
  check_values(c, n, make_inputs(c, n, count, element, false, scale), setting, label_of("", c, element, n) + what);
}

void manners(const Case& c) {
  for (Element element : {Element::float32, Element::float64}) {
    for (int n : {1, 6, 13, 24, 40, 60}) {
      if (n == 60 && element == Element::float64) continue;
      if (c.is_accurate() && (n == 6 || n == 40)) continue;  // their kernels are the longest
      answers(c, n, element, stopping(c, n));
    }
  }
  // Far from one, the normaliser keeps squares in range.
  const bool any_scale =
      c.is_accurate() ? c.both_roots() : c.pass == "sqrtm_lya_backward" || c.is_root || c.is_exact_gradient();
  for (double scale : {1e-30, 1e30}) {
    if (any_scale && c.method != Method::fractions && (c.is_root || !c.is_inverse()))
      check_setting(c, 20, 2, Element::float32, {}, " scale " + std::to_string(std::log10(scale)), scale);
  }
  // Any degree and number of iterations.
  for (int degree : {1, 2, 3, 4, 7, 32}) {
    Setting setting;
    setting.degree = degree;
    if (c.pass == "mpa") setting.teams = 3;
    if (c.method == Method::shifts || c.method == Method::fractions || c.method == Method::powers)
      check_setting(c, 20, 2, Element::float64, setting, " degree " + std::to_string(degree));
  }
  for (int iterations : {1, 2, 30}) {
    Setting setting;
    setting.iterations = iterations;
    if (c.method == Method::iterations)
      check_setting(c, 20, 2, Element::float64, setting, " iterations " + std::to_string(iterations));
  }
  // With 40 steps the kernels stop where M has become I.
  for (int iterations : {1, 2, 3, 8, 40}) {
    Setting setting;
    setting.iterations = iterations;
    for (int n : {7, 20}) {
      for (Element element : {Element::float32, Element::float64}) {
        if (c.method == Method::steps) check_setting(c, n, 4, element, setting, " steps " + std::to_string(iterations));
      }
    }
  }
  // The same bits whatever shares the block, however many teams share the matrix, wherever it stands in the batch and
  // however its rows lie.
  for (int n : {7, 15, 30, 61}) {
    std::vector<Batch> inputs = make_inputs(c, n, 5, Element::float32, true);
    const Setting setting = stopping(c, n);
    const std::vector<Matrix> usual = run_case(c, n, inputs, setting);
    Setting other = setting;
    if (c.pass == "mpa") other.teams = 4;
    if (c.pass == "roots" && n > 16) other.teams = n > 30 ? 2 : 1;
    if (n <= 16) other.matrices_per_block = 4;
    other.by_rows = true;
    const std::vector<Matrix> grouped = run_case(c, n, inputs, other);
    std::vector<Batch> last = inputs;
    for (Batch& batch : last) batch = make_batch({batch.values[4]}, n, Element::float32, View::contiguous);
    const std::vector<Matrix> alone = run_case(c, n, last, setting);
    const std::string label = label_of("", c, Element::float32, n);
    for (int m = 0; m < 5; ++m) expect(same_bits(usual[m], grouped[m]), label + ": the block changes bits");
    expect(same_bits(usual[4], alone[0]), label + ": the batch changes bits");
  }
}

// bfloat16 in memory that exists only where it is touched: offsets beyond 2^31 elements without the gigabytes.
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

// The last matrix of a batch of `count`, all others being zero; of a grid, the last block alone runs.
Matrix run_last(const Case& c, int n, const std::vector<Batch>& inputs, int64_t count, Input view, bool large) {
  const int64_t last = count - 1, size = static_cast<int64_t>(n) * n;
  std::vector<std::unique_ptr<Sparse>> memory;
  const auto sparse = [&memory](int64_t bytes) {
    memory.push_back(std::make_unique<Sparse>(bytes));
    return memory.back().get();
  };
  Operands operands = {};
  operands.problem = Problem::square(count, n, Element::bfloat16);
  for (std::size_t k = 0; k < c.in.size(); ++k) {
    Sparse& in = *sparse((last * view.batch_stride + (n - 1) * (view.row_stride + view.column_stride) + 1) * 2);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        const int64_t place = last * view.batch_stride + i * view.row_stride + j * view.column_stride;
        in[place] = __float2bfloat16_rn(static_cast<float>(inputs[k].values[0][i * n + j]));
      }
    }
    view.data = in.data;
    operands.in[c.in[k]] = view;
  }
  std::vector<Sparse*> out;
  for (int i : c.out) {
    const int64_t each = c.is_number(i) ? 1 : size;
    out.push_back(sparse(count * each * 2));
    operands.out[i] = {out.back()->data, each * 2};
  }
  operands.kept = sparse(count * size * 4)->data;
  if (large) {
    c.run_large({}, operands, 0);
  } else {
    const Plan plan = c.plan(count, n, 4, 5, h200);
    first_block = plan.blocks - 1;
    c.run_in_blocks({}, operands, plan);
    first_block = 0;
  }
  Matrix results;
  for (std::size_t k = 0; k < out.size(); ++k) {
    const int64_t each = c.is_number(c.out[k]) ? 1 : size;
    for (int64_t i = 0; i < each; ++i) results.push_back(__bfloat162float((*out[k])[last * each + i]));
  }
  return results;
}

// Batches of more than 2^31 elements, and views whose strides take one matrix beyond them.
void far(const Case& c) {
  constexpr int64_t limit = int64_t(1) << 31;
  for (int n : {1, 13, 40}) {
    const std::vector<Batch> inputs = make_inputs(c, n, 1, Element::bfloat16, false);
    const int64_t size = n * n;
    for (bool large : {false, true}) {
      const std::string label = label_of(large ? "large" : "", c, Element::bfloat16, n) + " beyond 2^31 elements: ";
      const Matrix near = run_last(c, n, inputs, 1, {nullptr, size, n, 1}, large);
      const auto check = [&](int64_t count, const Input& view, const char* what) {
        expect(same_bits(run_last(c, n, inputs, count, view, large), near), label + what);
      };
      expect(!is_zero(near, n), label + "nothing is computed");
      if (!large) check(limit / size + 2, {nullptr, size, n, 1}, "batch");  // of the other path, see parts()
      check(2, {nullptr, limit + 5, n, 1}, "stride of the batch");
      check(1, {nullptr, size, limit / 8, 1}, "stride of rows");
      check(1, {nullptr, size, 1, limit / 8}, "stride of columns");
    }
  }
}

// The path for large matrices takes every matrix of a batch once, at its address, and never more matrices at a time
// than the second dimension of a grid and the workspace hold.
void parts() {
  unsigned char* const base = reinterpret_cast<unsigned char*>(uintptr_t(1) << 20);  // never read
  for (const Case& c : all_cases()) {
    for (Element element : {Element::float64, Element::float32, Element::float16}) {
      const int64_t bytes = storage_bytes(element);
      for (int n : {13, 49, 200, 5000, 50000}) {
        const int64_t size = static_cast<int64_t>(n) * n, beyond = (int64_t(1) << 31) / size + 2;
        for (int64_t batch : {int64_t(0), int64_t(1), int64_t(3), int64_t(70000), beyond}) {
          for (int degree : {1, 5, 32}) {
            Setting setting;
            setting.degree = degree;
            const Input view{base, size + 7, n, 1};
            Operands whole = {};
            whole.problem = Problem::square(batch, n, element);
            whole.in[0] = whole.in[2] = view;
            whole.out[1] = {base, size * bytes};
            const int64_t chunk = c.large_chunk(setting, batch, n, compute_bytes(element));
            const std::string label = label_of("parts", c, element, n) + " batch " + std::to_string(batch) +
                                      " degree " + std::to_string(degree);
            int64_t next = 0;
            in_parts(whole, chunk, [&](const Operands& part) {
              const int64_t out = static_cast<unsigned char*>(part.out[1].data) - base;
              const int64_t in = static_cast<const unsigned char*>(part.in[2].data) - base;
              expect(out == next * size * bytes && in == next * (size + 7) * bytes, label + ": address");
              expect(part.in[0].data == part.in[2].data, label + ": address of the first input");
              expect(!part.in[1].data && !part.in[3].data && !part.out[0].data, label + ": a matrix that is not there");
              expect(part.problem.batch >= 1 && part.problem.batch <= 65535, label + ": grid");
              next += part.problem.batch;
            });
            expect(next == batch, label + ": not every matrix once");
            const int64_t workspace = c.large_workspace_bytes(setting, chunk, n, compute_bytes(element));
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

// Plan and workspace arithmetic for existing chips.
void plans() {
  struct Chip {
    const char* name;
    DeviceLimits limits;
    int largest_float, largest_double;  // the largest n, which every pass must fit
  };
  const Chip chips[] = {{"7.5", {65536, 40}, 64, 48},
                        {"8.0", {166912, 108}, 112, 80},
                        {"8.6, 8.9, 12.0", {101376, 84}, 80, 64},
                        {"9.0, 10.0", {232448, 132}, 128, 96}};
  for (const Chip& chip : chips) {
    for (const Case& c : all_cases()) {
      for (int bytes : {4, 8}) {
        int largest = bytes == 4 ? chip.largest_float : chip.largest_double;
        // The powers of W, and the two matrices and two triangles of the Newton steps, take a little more than 99 KB.
        const bool bigger = c.pass == "mtp" || c.pass == "roots_backward" || c.pass == "lyapunov_newton";
        if (bigger && bytes == 8 && largest == 64) largest = 48;
        for (int64_t n = 1; n <= 140; ++n) {
          for (int64_t batch : {int64_t(0), int64_t(1), int64_t(3), int64_t(256), int64_t(70000), int64_t(1) << 33}) {
            for (int terms : {1, 5, 32}) {
              const Plan plan = c.plan(batch, n, bytes, terms, chip.limits);
              const std::string label = "plan " + std::string(chip.name) + " " + c.name + " n " + std::to_string(n) +
                                        " batch " + std::to_string(batch);
              if (plan.path == Path::library) {
                expect(n > largest, label + ": no variant");
                continue;
              }
              if (plan.path == Path::tiny) {
                expect(n <= 4 && plan.variant == n && plan.shared_bytes <= 48 * 1024, label + ": threads of their own");
                expect(plan.blocks * plan.matrices_per_block >= batch &&
                           (plan.blocks - 1) * plan.matrices_per_block < batch,
                       label + ": blocks");
                continue;
              }
              const Shape& shape = shape_of(plan, bytes);
              const int threads = shape.threads * plan.teams * plan.matrices_per_block;
              expect(shape.padded >= n && shape.valid(), label + ": shape");
              expect(plan.shared_bytes <= chip.limits.shared_per_block, label + ": shared memory");
              expect(threads % 32 == 0 && threads <= c.max_threads(shape), label + ": threads");
              // Barrier 0 is the block's; every team of more than a warp has one of the other fifteen.
              expect(shape.threads <= 32 || plan.teams * plan.matrices_per_block <= 15, label + ": barriers");
              expect(
                  plan.blocks * plan.matrices_per_block >= batch && (plan.blocks - 1) * plan.matrices_per_block < batch,
                  label + ": blocks");
              expect(plan.variant == c.plan(1, n, bytes, terms, chip.limits).variant,
                     label + ": the variant depends on the batch");
            }
          }
        }
      }
    }
  }
}

// The number of teams on a chip of 132 multiprocessors. One wave of blocks with more rounds of sweeps may take less
// time than two waves with fewer.
void teams() {
  struct Chosen {
    const char* name;
    int n, bytes, terms;
    int64_t batch;
    int teams;
  };
  const Chosen expected[] = {
      {"mpa_root", 8, 4, 5, 1, 5},      {"mpa_root", 32, 4, 5, 132, 5},   {"mpa_root", 32, 8, 5, 64, 5},
      {"mpa_root", 48, 4, 5, 64, 3},    {"mpa_root", 64, 4, 5, 132, 5},   {"mpa_root", 64, 4, 5, 256, 5},
      {"mpa_root", 64, 4, 5, 528, 1},   {"mpa_root", 64, 4, 5, 8448, 1},  {"mpa_root", 128, 4, 5, 132, 2},
      {"mpa_root", 128, 4, 5, 256, 1},  {"mpa_root", 96, 8, 5, 1, 1},     {"roots_root", 64, 4, 3, 132, 3},
      {"roots_root", 64, 4, 3, 256, 1}, {"roots_root", 32, 4, 3, 256, 3}, {"roots_root", 8, 4, 3, 1, 1},
      {"mtp_root", 64, 4, 1, 1, 1},
  };
  for (const Chosen& e : expected) {
    bool found = false;
    for (const Case& c : all_cases()) {
      if (c.name != e.name) continue;
      found = true;
      const int got = c.plan(e.batch, e.n, e.bytes, e.terms, h200).teams;
      const std::string label = std::string(e.name) + " n " + std::to_string(e.n) + " batch " + std::to_string(e.batch);
      expect(got == e.teams, "teams " + label + ": " + std::to_string(got));
    }
    expect(found, std::string("no case is called ") + e.name);
  }
}

// A kernel with a fault, for the test of the harness.
void skipped_barrier() {
  launch(1, 64, 1, 16, [] {
    if (threadIdx.x != 5) __syncthreads();
  });
}

Element element_of(const std::string& name) {
  for (int e = 0; e < 4; ++e) {
    if (name == element_names[e]) return static_cast<Element>(e);
  }
  std::fprintf(stderr, "no type of elements is called %s\n", name.c_str());
  std::exit(2);
}

// Runs `command` if it takes a pass. Returns false if it does not, or if no pass has the name.
bool check_pass(const std::string& command, const std::string& pass, const std::vector<std::string>& rest) {
  const auto for_each = [&](std::size_t first_size, auto check) {
    bool any = false;
    for (const Case& c : all_cases()) {
      if (c.pass != pass && c.name != pass && pass != "all") continue;
      any = true;
      for (std::size_t i = first_size; i < rest.size(); ++i) {
        restart_random();
        check(c, std::atoi(rest[i].c_str()));
      }
      if (first_size == npos) check(c, 0);
    }
    if (!any) std::fprintf(stderr, "no pass is called %s\n", pass.c_str());
    return any;
  };
  using Check = void (*)(const Case&, Element, int);
  for (const auto& [name, check] : {std::pair<const char*, Check>{"values", values},
                                    {"brief", brief},
                                    {"hard", hard},
                                    {"singular", singular_in_blocks},
                                    {"large_singular", large_singular}}) {
    if (command != name || rest.size() < 2) continue;
    const Element element = element_of(rest[0]);
    return for_each(1, [&, check = check](const Case& c, int n) { check(c, element, n); });
  }
  if (command == "answers")
    return for_each(0, [](const Case& c, int n) { answers(c, n, Element::float32, stopping(c, n)); });
  if (command == "names") return for_each(npos, [](const Case& c, int) { std::printf("%s\n", c.name.c_str()); });
  if (command == "neighbours") {
    return for_each(0, [](const Case& c, int n) {
      const bool follows = c.is_accurate() || (c.method == Method::steps && c.is_root != c.is_inverse());
      if (follows && c.distinct) answers(c, n, Element::float32, stopping(c, n));
    });
  }
  if (command == "large") return for_each(0, large_path);
  if (command == "large_brief") return for_each(0, large_brief);
  if (command == "manners") return for_each(npos, [](const Case& c, int) { manners(c); });
  if (command == "far") return for_each(npos, [](const Case& c, int) { far(c); });
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  if (!words.empty()) {
    seeded_missing_barrier = words[0] == "seed_missing_barrier";
    seeded_offset = words[0] == "seed_out_of_bounds";
    blocked_sweep = words[0] == "blocked";
    if (seeded_missing_barrier || seeded_offset != 0 || blocked_sweep) words.erase(words.begin());
  }
  const std::string command = words.empty() ? "" : words[0];
  if (command == "plans") {
    plans();
    teams();
    parts();
  } else if (command == "skipped_barrier") {
    skipped_barrier();
  } else if ((command == "rectangular" || command == "in_global_memory") && words.size() > 2) {
    for (std::size_t i = 2; i < words.size(); ++i) {
      const std::string& shape = words[i];
      const int m = std::atoi(shape.c_str()), n = std::atoi(shape.c_str() + shape.find('x') + 1);
      failures += check_rectangular(words[1], m, n, command == "in_global_memory");
    }
  } else if (words.size() < 2 || !check_pass(command, words[1], {words.begin() + 2, words.end()})) {
    std::fprintf(stderr, "see the head of emulate.cpp for the arguments\n");
    return 2;
  }
  if (command != "names") std::printf("%d failures\n", failures);
  return failures > 0;
}

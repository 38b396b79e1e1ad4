#include "cases.h"

#include <cmath>
#include <random>

#include "cuda_passes.h"  // made by the Makefile
#include "run_pass.h"

namespace emulation {
namespace {

constexpr uint64_t seed = 20240611;
std::mt19937_64 generator(seed);

// Eigenvalues from 1 down to 1/condition, evenly spaced in their logarithms.
Matrix random_hard(int n, double condition) {
  std::vector<double> eigenvalues(n);
  for (int i = 0; i < n; ++i) eigenvalues[i] = std::pow(condition, n > 1 ? -double(i) / (n - 1) : 0);
  return reference::with_eigenvalues(eigenvalues, random_matrix(n), n);
}

Matrix random_root_of(int n, double scale, double condition) {
  return condition > 0 ? random_hard(n, condition) : random_spd(n, scale);
}

// A way to call a pass: the inputs in the order in which they are made, the results.
struct Way {
  const char* suffix;
  Power power;
  std::vector<int> in, out;
  bool distinct = true;
  int number = -1;
};
constexpr Power half = Power::half, minus_half = Power::minus_half;

// Description of a pass for the tests.
template <class Pass>
struct Tested;

template <class Told, Method method_>
struct OfRoot {
  static constexpr Method method = method_;
  static constexpr bool is_root = true, symmetric_result = true;
  static std::vector<Way> ways() { return {{"_root", half, {0}, {0}}, {"_inverse", minus_half, {0}, {0}}}; }
  static std::vector<Matrix> inputs(const Way&, int n, double scale, double condition, bool) {
    const Matrix a = random_root_of(n, scale, condition);
    random_matrix(n);
    return {a};
  }
  static Told told(const Way& way, const Setting& s, int) {
    return Told(way.power, method == Method::steps ? s.iterations : s.degree);
  }
};
template <class Told, Method method_>
struct OfGradient : OfRoot<Told, method_> {
  static constexpr bool is_root = false;
  // The gradient of an inverse root takes the path of the root's with another sign; that of the steps has its own path.
  static std::vector<Way> ways() {
    return {{"_root", half, {0, 1}, {0}}, {"_inverse", minus_half, {0, 1}, {0}, method_ == Method::steps}};
  }
  static std::vector<Matrix> inputs(const Way&, int n, double scale, double condition, bool) {
    const Matrix a = random_root_of(n, scale, condition);
    return {a, random_matrix(n)};
  }
};

template <>
struct Tested<cuda::Mpa> : OfRoot<passes::Mpa, Method::shifts> {
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting& s) {
    return reference::root(in[0], n, true, s.degree, way.power == minus_half);
  }
};
template <>
struct Tested<cuda::Mtp> : OfRoot<passes::Mtp, Method::powers> {
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting& s) {
    return reference::root(in[0], n, false, s.degree, way.power == minus_half);
  }
};
template <>
struct Tested<cuda::Ns> : OfRoot<passes::Ns, Method::steps> {
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting& s) {
    return reference::newton_schulz(in[0], n, s.iterations, way.power == minus_half);
  }
};
template <>
struct Tested<cuda::MpaBackward> : OfGradient<passes::MpaBackward, Method::shifts> {
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting& s) {
    return reference::root_backward(in[0], in[1], n, true, s.degree, way.power == minus_half);
  }
};
template <>
struct Tested<cuda::MtpBackward> : OfGradient<passes::MtpBackward, Method::powers> {
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting& s) {
    return reference::root_backward(in[0], in[1], n, false, s.degree, way.power == minus_half);
  }
};
template <>
struct Tested<cuda::NsBackward> : OfGradient<passes::NsBackward, Method::steps> {
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting& s) {
    return reference::newton_schulz_backward(in[0], in[1], n, s.iterations, way.power == minus_half);
  }
};

// The half stands for a positive power, the minus half for a negative one; the logarithm is the latter's kernel.
template <class Told>
struct OfFractions : OfRoot<Told, Method::fractions> {
  static constexpr double lowest = 0.001;
  static PartialFractions series(const Way& way, int poles) {
    return fractions_of_power(way.power == half ? 0.3 : -0.7, lowest, poles);
  }
  static Told told(const Way& way, const Setting& s, int) { return Told(series(way, s.degree)); }
  // f(term): with (I + scale_j A)^-1 for each j
  template <class F>
  static void each(const Matrix& a, int n, const PartialFractions& series, F f) {
    for (int j = 0; j < series.count; ++j) {
      Matrix h = reference::symmetric_part(a, n);
      for (int i = 0; i < n * n; ++i) h[i] = series.scales[j] * h[i] + (i % (n + 1) == 0 ? 1 : 0);
      f(j, reference::power(h, n, -1));
    }
  }
};
template <>
struct Tested<cuda::Rational> : OfFractions<passes::Rational> {
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting& s) {
    const PartialFractions fractions = series(way, s.degree);
    Matrix sum(n * n, 0.0);
    each(in[0], n, fractions, [&](int j, const Matrix& r) {
      for (int i = 0; i < n * n; ++i)
        sum[i] += fractions.weights[j] * (fractions.quotient ? (i % (n + 1) == 0 ? 1 : 0) - r[i] : r[i]);
    });
    return sum;
  }
};
template <>
struct Tested<cuda::RationalBackward> : OfFractions<passes::RationalBackward> {
  static constexpr bool is_root = false;
  static std::vector<Way> ways() {
    return {{"_backward_root", half, {0, 1}, {0}}, {"_backward_inverse", minus_half, {0, 1}, {0}, false}};
  }
  static std::vector<Matrix> inputs(const Way&, int n, double scale, double condition, bool) {
    const Matrix a = random_root_of(n, scale, condition);
    return {a, random_matrix(n)};
  }
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting& s) {
    const PartialFractions fractions = series(way, s.degree);
    const Matrix g = reference::symmetric_part(in[1], n);
    Matrix sum(n * n, 0.0);
    each(in[0], n, fractions, [&](int j, const Matrix& r) {
      const Matrix term = reference::multiply(reference::multiply(r, g, n), r, n);
      for (int i = 0; i < n * n; ++i) sum[i] += fractions.slope(j) * term[i];
    });
    return sum;
  }
};

template <class Told>
struct OfIterations {
  static constexpr Method method = Method::iterations;
  static constexpr bool is_root = false, symmetric_result = true;
  static Told told(const Way&, const Setting& s, int) { return Told(s.iterations); }
};
template <>
struct Tested<cuda::SqrtmLyaBackward> : OfIterations<passes::SqrtmLyaBackward> {
  static std::vector<Way> ways() { return {{"", half, {0, 1, 2}, {0}}}; }
  static std::vector<Matrix> inputs(const Way&, int n, double scale, double condition, bool) {
    const Matrix a = random_root_of(n, scale, condition);
    return {a, reference::root(a, n, true, 5, false), random_matrix(n)};
  }
  static Matrix reference(const Way&, const std::vector<Matrix>& in, int n, const Setting& s) {
    return reference::sqrtm_lya_backward(in[0], in[1], in[2], n, s.iterations);
  }
};
template <>
struct Tested<cuda::InvSqrtmLyaBackward> : OfIterations<passes::InvSqrtmLyaBackward> {
  static std::vector<Way> ways() { return {{"", minus_half, {0, 1}, {0}}}; }
  static std::vector<Matrix> inputs(const Way&, int n, double scale, double condition, bool) {
    const Matrix a = random_root_of(n, scale, condition);
    return {reference::root(a, n, true, 5, true), random_matrix(n)};
  }
  static Matrix reference(const Way&, const std::vector<Matrix>& in, int n, const Setting& s) {
    return reference::inv_sqrtm_lya_backward(in[0], in[1], n, s.iterations);
  }
};
template <>
struct Tested<cuda::Lyapunov> : OfIterations<passes::Lyapunov> {
  static constexpr bool symmetric_result = false;
  static std::vector<Way> ways() { return {{"", half, {0, 1}, {0}}}; }
  static std::vector<Matrix> inputs(const Way&, int n, double scale, double condition, bool symmetric_c) {
    const Matrix b = random_root_of(n, scale, condition), c = random_matrix(n);
    return {b, symmetric_c ? reference::symmetric_part(c, n) : c};
  }
  static Matrix reference(const Way&, const std::vector<Matrix>& in, int n, const Setting& s) {
    return reference::lyapunov(in[0], in[1], n, s.iterations);
  }
};

template <class Told>
struct Direct {
  static constexpr Method method = Method::direct;
  static constexpr bool is_root = false, symmetric_result = true;
  static Told told(const Way&, const Setting&, int) { return Told(); }
};
template <>
struct Tested<cuda::Inverse> : Direct<passes::Inverse> {
  static constexpr bool is_root = true;
  static std::vector<Way> ways() {
    return {{"", minus_half, {0}, {0}, false}, {"_and_logdet", minus_half, {0}, {0, 1}, true, 1}};
  }
  static std::vector<Matrix> inputs(const Way&, int n, double scale, double condition, bool) {
    return {random_root_of(n, scale, condition)};
  }
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting&) {
    Matrix results = reference::power(in[0], n, -1);
    if (way.number >= 0) results.push_back(reference::log_determinant(in[0], n));
    return results;
  }
};
template <>
struct Tested<cuda::InverseBackward> : Direct<passes::InverseBackward> {
  static std::vector<Way> ways() { return {{"_backward", minus_half, {0, 1}, {0}}}; }
  static std::vector<Matrix> inputs(const Way&, int n, double scale, double condition, bool) {
    const Matrix a = random_root_of(n, scale, condition);
    return {reference::power(a, n, -1), random_matrix(n)};
  }
  static Matrix reference(const Way&, const std::vector<Matrix>& in, int n, const Setting&) {
    const Matrix z = reference::symmetric_part(in[0], n), g = reference::symmetric_part(in[1], n);
    Matrix x = reference::multiply(reference::multiply(z, g, n), z, n);
    for (double& value : x) value = -value;
    return x;
  }
};

template <class Told>
struct Accurate {
  static constexpr Method method = Method::accurate;
  static constexpr bool is_root = false, symmetric_result = true;
  static Told told(const Way&, const Setting&, int compute_bytes) { return Told(0, compute_bytes); }
};
template <>
struct Tested<cuda::LyapunovNewton> : Accurate<passes::LyapunovNewton> {
  static constexpr bool symmetric_result = false;
  static std::vector<Way> ways() { return {{"", half, {0, 1}, {0}}}; }
  static std::vector<Matrix> inputs(const Way&, int n, double scale, double condition, bool symmetric_c) {
    const Matrix a = random_root_of(n, scale, condition * condition), c = random_matrix(n);
    return {condition > 0 ? reference::power(a, n, 0.5) : a, symmetric_c ? reference::symmetric_part(c, n) : c};
  }
  static Matrix reference(const Way&, const std::vector<Matrix>& in, int n, const Setting&) {
    return reference::solve_lyapunov(in[0], in[1], n);
  }
};
// A single root takes no path that both roots together do not take.
template <>
struct Tested<cuda::Roots> : Accurate<passes::Roots> {
  static constexpr bool is_root = true;
  static std::vector<Way> ways() {
    return {{"_root", half, {0}, {0}, false}, {"_inverse", minus_half, {0}, {1}, false}, {"_both", half, {0}, {0, 1}}};
  }
  static std::vector<Matrix> inputs(const Way&, int n, double scale, double condition, bool) {
    const Matrix a = random_root_of(n, scale, condition);
    random_matrix(n);
    return {a};
  }
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting&) {
    Matrix results;
    for (int i : way.out) {
      const Matrix result = reference::power(in[0], n, i == 0 ? 0.5 : -0.5);
      results.insert(results.end(), result.begin(), result.end());
    }
    return results;
  }
};
template <>
struct Tested<cuda::RootsBackward> : Accurate<passes::RootsBackward> {
  static std::vector<Way> ways() {
    return {
        {"_root", half, {0, 2}, {0}, false}, {"_inverse", minus_half, {1, 3}, {0}}, {"_both", half, {0, 2, 1, 3}, {0}}};
  }
  static std::vector<Matrix> inputs(const Way& way, int n, double scale, double condition, bool) {
    const Matrix a = random_root_of(n, scale, condition * condition);
    std::vector<Matrix> in = {reference::power(a, n, way.power == half ? 0.5 : -0.5), random_matrix(n),
                              reference::power(a, n, -0.5), random_matrix(n)};
    in.resize(way.in.size());
    return in;
  }
  static Matrix reference(const Way& way, const std::vector<Matrix>& in, int n, const Setting&) {
    const bool both = way.in.size() > 2;
    const Matrix cotangent = reference::symmetric_part(in[1], n);
    if (way.power == half && !both) return reference::solve_lyapunov(in[0], cotangent, n);
    const Matrix z = reference::symmetric_part(in[both ? 2 : 0], n);
    const Matrix h = reference::symmetric_part(in[both ? 3 : 1], n);
    Matrix right = reference::multiply(reference::multiply(z, h, n), z, n);
    for (int i = 0; i < n * n; ++i) right[i] = (both ? cotangent[i] : 0) - right[i];
    return reference::solve_lyapunov(both ? in[0] : reference::power(z, n, -1), right, n);
  }
};

template <class Pass>
void add_cases(const char* file, std::vector<Case>& cases) {
  using Test = Tested<Pass>;
  for (const Way& way : Test::ways()) {
    const auto told = [way](const Setting& s, int bytes) { return Test::told(way, s, bytes); };
    const auto bytes_of = [](const Operands& operands) { return compute_bytes(operands.problem.element); };
    Case c;
    c.name = std::string(file) + way.suffix;
    c.pass = file;
    c.method = Test::method;
    c.power = way.power;
    c.is_root = Test::is_root;
    c.symmetric_result = Test::symmetric_result;
    c.distinct = way.distinct;
    c.in = way.in;
    c.out = way.out;
    c.number = way.number;
    c.inputs = [way](int n, double scale, double condition, bool symmetric_c) {
      return Test::inputs(way, n, scale, condition, symmetric_c);
    };
    c.reference = [way](const std::vector<Matrix>& in, int n, const Setting& s) {
      return Test::reference(way, in, n, s);
    };
    c.plan = [](int64_t batch, int64_t n, int bytes, int terms, const DeviceLimits& device) {
      return plan_pass<Pass>(batch, n, bytes, terms, device);
    };
    c.terms = [told](const Setting& s, int bytes) { return Pass::terms(told(s, bytes)); };
    c.shared_elements = [](const Shape& shape, int teams) { return Pass::shared_elements(shape, teams); };
    c.max_threads = [](const Shape& shape) { return Pass::max_threads(shape); };
    c.kept_elements = [](const Shape& shape, const Problem& p) { return Pass::kept_elements(shape, p); };
    c.by_rows = [](const Operands& operands) { return cuda::by_rows<Pass>(operands); };
    c.large_chunk = [told](const Setting& s, int64_t batch, int64_t n, int bytes) {
      return cuda::large_chunk<Pass>(told(s, bytes), batch, n, bytes);
    };
    c.large_workspace_bytes = [told](const Setting& s, int64_t batch, int64_t n, int bytes) {
      return cuda::large_workspace_bytes<Pass>(told(s, bytes), batch, n, bytes);
    };
    c.run_in_blocks = [told, bytes_of](const Setting& s, const Operands& operands, const Plan& plan) {
      emulation::run_in_blocks(told(s, bytes_of(operands)), operands, plan);
    };
    c.run_large = [told, bytes_of](const Setting& s, const Operands& operands, int64_t chunk) {
      emulation::run_large(told(s, bytes_of(operands)), operands, chunk);
    };
    cases.push_back(c);
  }
}

// rectangular.cpp tests the passes for matrices of any shape.
template <class Pass>
void add_cases_of(const char* file, std::vector<Case>& cases) {
  if constexpr (!Pass::takes_any_size) add_cases<Pass>(file, cases);
}

}  // namespace

const std::vector<Case>& all_cases() {
  static const std::vector<Case> cases = [] {
    std::vector<Case> made;
#define PASS(Type, file) add_cases_of<cuda::Type>(#file, made);
#include "ops.def"
    return made;
  }();
  return cases;
}

void restart_random() { generator.seed(seed); }

Matrix random_matrix(int n) {
  std::normal_distribution<double> normal;
  Matrix a(n * n);
  for (double& x : a) x = normal(generator);
  return a;
}

Matrix random_spd(int n, double scale) {
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

}  // namespace emulation

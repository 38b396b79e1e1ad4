// The scalar arguments of each pass of ops.def, computed once for the whole batch by csrc/ops.h and read by the passes
// of the same names under csrc/cpu/passes and csrc/cuda/passes.
#pragma once

#include <algorithm>

#include "include/fastsqrtm/detail/partial_fractions.h"
#include "scalars/coefficients.h"
#include "scalars/zolotarev.h"

namespace fastsqrtm {

enum class Power { half, minus_half };  // A^(1/2), A^(-1/2)

// Largest numbers of inputs and outputs of a pass.
constexpr int max_inputs = 4, max_outputs = 3;
static_assert(max_fractions == max_pade_degree);

namespace passes {

// A -> A^power by the diagonal Pade approximant in partial fractions.
struct Mpa : PartialFractions {
  Power power;

  Mpa(Power power, int64_t degree) : power(power) {
    count = int(degree);
    quotient = !inverse();
    constant = pade_constant(count);
    for (int j = 0; j < count; ++j) {
      const PadeTerm term = pade_term(count, j + 1);
      scales[j] = inverse() ? term.shift : 1 / term.shift;
      weights[j] = term.weight;
    }
  }
  bool inverse() const { return power == Power::minus_half; }
};

// A -> A^power by the Taylor polynomial.
struct Mtp {
  Power power;
  int degree;
  double coefficients[max_taylor_degree + 1];

  Mtp(Power power, int64_t degree) : power(power), degree(int(degree)), coefficients{1} {
    for (int k = 1; k <= degree; ++k)
      coefficients[k] = taylor_next(coefficients[k - 1], k, power == Power::half ? 0.5 : -0.5);
  }
  bool inverse() const { return power == Power::minus_half; }
};

// A -> A^power by Newton-Schulz steps.
struct Ns {
  Power power;
  int steps;

  Ns(Power power, int64_t steps) : power(power), steps(int(steps)) {}
  bool inverse() const { return power == Power::minus_half; }
};

// A, G -> gradient of <G, R> for the R that Mpa, Mtp or Ns computes from A.
struct MpaBackward : Mpa {
  using Mpa::Mpa;
};
struct MtpBackward : Mtp {
  using Mtp::Mtp;
};
struct NsBackward : Ns {
  using Ns::Ns;
};

// A -> r(A), for a rational function r and an A whose eigenvalues are in its interval.
struct Rational : PartialFractions {
  explicit Rational(const PartialFractions& fractions) : PartialFractions(fractions) {}
};

// A, G -> r'(A)[sym(G)], the gradient of <G, r(A)>.
struct RationalBackward : Rational {
  using Rational::Rational;
};

// B, C -> X of B X + X B = C, by the paper's iteration.
struct Lyapunov {
  int iterations;

  explicit Lyapunov(int64_t iterations) : iterations(int(iterations)) {}
};

// A, S, G -> X of S X + X S = sym(G), by the paper's iteration scaled by the norm of A.
struct SqrtmLyaBackward : Lyapunov {
  using Lyapunov::Lyapunov;
};

// Z, G -> X of Z X + X Z = -Z^2 sym(G) Z^2, by the paper's iteration.
struct InvSqrtmLyaBackward : Lyapunov {
  using Lyapunov::Lyapunov;
};

// A -> A^(1/2), A^(-1/2), either of which may be absent, to the accuracy of the design.
struct Roots {
  RootDesign design;

  Roots(double rtol, int compute_bytes) : design(root_design(rtol, compute_bytes)) {}
};

// A -> A^-1, and where it is wanted log det A.
struct Inverse {};

// Z, G -> -Z sym(G) Z, the gradient of <G, A^-1> for Z = A^-1.
struct InverseBackward {};

// B, C -> X of B X + X B = C, by Newton steps to this relative error.
struct LyapunovNewton {
  double tolerance;

  LyapunovNewton(double rtol, int compute_bytes) : tolerance(std::max(rtol, finest_tolerance(compute_bytes))) {}
};

// S, Z, G, H -> X of S X + X S = sym(G) - Z sym(H) Z, the gradient for the cotangents G of S = A^(1/2) and H of
// Z = A^(-1/2). S and G, or Z and H, may be absent.
struct RootsBackward : LyapunovNewton {
  using LyapunovNewton::LyapunovNewton;
};

// A -> Q, R and, with pivots, the order p of the columns: Q R = A, or A[:, p]. Q is m x k and R is k x n for the
// smaller k of m and n; `complete`: m x m and m x n.
struct Qr {
  bool pivots, complete;

  Qr(bool pivots, bool complete) : pivots(pivots), complete(complete) {}
};

// Q, R, G, H -> the gradient of <G, Q> + <H, R> for the A = Q R with as many rows as columns or more. Of R and H only
// the upper triangle counts.
struct QrBackward {};

}  // namespace passes
}  // namespace fastsqrtm

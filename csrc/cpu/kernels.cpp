// Whole passes of one matrix in workspace panels. Compiled once for each instruction set (FASTSQRTM_ISA).
#include "cpu/kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/memory.h"
#include "cpu/matrix/sweep.h"
#include "cpu/steps/derivative.h"
#include "cpu/steps/newton.h"
#include "cpu/steps/newton_schulz.h"
#include "cpu/steps/sign_lyapunov.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {
namespace {

// Matrix i of the workspace of one thread.
template <class T>
Panels<T> workspace_matrix(void* workspace, int n, int i) {
  return {static_cast<T*>(workspace) + i * Panels<T>::size(n), n};
}

// Four matrices, carved from the workspace of one thread.
template <class T>
struct Workspace {
  Panels<T> first, second, third, fourth;

  Workspace(void* data, int n)
      : first(workspace_matrix<T>(data, n, 0)),
        second(workspace_matrix<T>(data, n, 1)),
        third(workspace_matrix<T>(data, n, 2)),
        fourth(workspace_matrix<T>(data, n, 3)) {}
};

template <class T, class Storage>
void load(const MatrixIn& in, const Panels<T>& P) {
  load_matrix(static_cast<const Storage*>(in.data), in.row_stride, in.column_stride, P);
}

// (M + sign M^T) / 2, sign = +-1
template <class T, class Storage>
void load_part(const Team& team, const MatrixIn& in, T sign, const Panels<T>& P) {
  load<T, Storage>(in, P);
  with_transpose(team, P,
                 [=](Vector<T> own, Vector<T> transposed) { return T(0.5) * own + sign * T(0.5) * transposed; });
}

template <class T, class Storage>
void load_symmetric(const Team& team, MatrixIn in, const Panels<T>& P) {
  if (in.column_stride != 1 && in.row_stride == 1) std::swap(in.row_stride, in.column_stride);
  load_part<T, Storage>(team, in, T(1), P);
}

// sqrt(x) ~ 1/N + sum w_j x / (x + t_j), 1/sqrt(x) ~ 1/N + sum w_j / (1 + t_j x) (csrc/coefficients.h).
// Leaves the value in Y; false: X is too indefinite for the approximant.
template <class T>
bool pade(const Team& team, const RootMethod& method, const Panels<T>& X, const Panels<T>& H, const Panels<T>& Y,
          const SweepStrips<T>& strips) {
  bool positive = true;
  for (int j = 0; j < method.degree; ++j) {
    const T shift = T(method.shifts[j]), weight = T(method.weights[j]), keep = T(j > 0);
    combine(team, method.inverse ? shift : 1 / shift, X, T(0), H);
    if (method.inverse) {
      positive = sweep<T, Swept::minus_inverse>(team, H, strips) && positive;
      combine(team, -weight, H, keep, Y);
    } else {
      positive = sweep<T, Swept::quotient>(team, H, strips) && positive;
      combine(team, weight, H, keep, Y);
    }
  }
  mirror(team, Y, T(1), T(1.0 / (2 * method.degree + 1)));
  return positive;
}

// sum_k c_k W^k, W = I - X, by pairs: H <- W^2 H + c_2i I + c_2i+1 W. Turns X into W; returns where the value is.
template <class T>
Panels<T> taylor(const Team& team, const RootMethod& method, const Panels<T>& X, const Panels<T>& W2, Panels<T> H,
                 Panels<T> next) {
  const Panels<T>& W = X;
  const double* c = method.coefficients;
  const int top = method.degree / 2;
  const bool odd = method.degree % 2;
  mirror(team, W, T(-1), T(1));
  if (top == 0) {
    combine(team, T(c[1]), W, T(0), H);
    mirror(team, H, T(1), T(c[0]));
    return H;
  }
  product(team, Triangle::lower, W, W, W2);
  mirror<T, true>(team, W2, T(1));
  // The highest pair is c_2top I + c_2top+1 W, or c_2top I alone: its product with W^2 needs one product or none.
  if (odd) product(team, Triangle::lower, W2, W, next);
  combine(team, T(c[2 * top]), W2, T(odd ? c[2 * top + 1] : 0), next);
  for (int i = top - 1;; --i) {
    mirror(team, next, T(1), W, T(c[2 * i + 1]), T(c[2 * i]));
    std::swap(H, next);
    if (i == 0) return H;
    product(team, Triangle::lower, W2, H, next);
  }
}

template <class T, class Storage>
void fill(int n, T diagonal, T off_diagonal, Storage* out) {
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) encode(i == j ? diagonal : off_diagonal, *out++);
}

// The inverse root of the zero matrix, +inf on the diagonal and 0 elsewhere; its gradient is defined as zero.
template <class T>
bool is_infinite_root(const Panels<T>& Z) {
  for (int i = 0; i < Z.n; ++i)
    for (int j = 0; j < Z.n; ++j)
      if (*Z.at(i, j) != (i == j ? std::numeric_limits<T>::infinity() : T(0))) return false;
  return true;
}

template <class T, class Storage>
void root(int n, const RootMethod& method, MatrixIn A, void* out, void* workspace, const Team& team) {
  const Workspace<T> ws(workspace, n);
  Storage* target = static_cast<Storage*>(out);
  load_symmetric<T, Storage>(team, A, ws.first);
  double nu = frobenius(ws.first);
  constexpr T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  if (nu == 0) return fill(n, method.inverse ? infinity : T(0), T(0), target);
  if (!(nu < std::numeric_limits<double>::infinity())) return fill(n, nan, nan, target);
  nu = normalise(team, nu, ws.first);
  Panels<T> value = ws.third;
  if (method.kind == RootMethod::Kind::newton_schulz)
    value = newton_schulz<T, false>(team, method.degree, method.inverse, [=](int i) {
              return workspace_matrix<T>(workspace, n, i);
            }).value;
  else if (method.kind == RootMethod::Kind::taylor)
    value = taylor(team, method, ws.first, ws.second, ws.third, ws.fourth);
  else if (!pade(team, method, ws.first, ws.second, ws.third, SweepStrips<T>(ws.fourth)))
    return fill(n, nan, nan, target);
  store_matrix(value, method.inverse ? 1 / std::sqrt(nu) : std::sqrt(nu), target);
}

// The exact gradient of what `root` computes, with L the derivative of the series r at X = A/nu and <.,.> the sum of
// products of entries:
//   root     (L + X (<G, r>/2 - <L, X>)) / sqrt(nu)          inverse root   (L - X (<G, r>/2 + <L, X>)) / sqrt(nu)^3
template <class T, class Storage>
void root_backward(int n, const RootMethod& method, MatrixIn A, MatrixIn G, void* out, void* workspace,
                   const Team& team) {
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  Storage* target = static_cast<Storage*>(out);
  const auto matrix = [=](int i) { return workspace_matrix<T>(workspace, n, i); };
  const auto load_X = [&](const Panels<T>& X) {
    load_symmetric<T, Storage>(team, A, X);
    const double nu = frobenius(X);
    return nu == 0 ? 0 : normalise(team, nu, X);
  };
  Panels<T> X = matrix(0), cotangent = matrix(1);
  const double nu = load_X(X);
  if (nu == 0) return fill(n, T(0), T(0), target);
  load_symmetric<T, Storage>(team, G, cotangent);
  Frechet<T> frechet = {X, 0, true};
  switch (method.kind) {
    case RootMethod::Kind::pade:
      frechet = pade_derivative(team, method, X, cotangent, matrix(2), matrix(3), matrix(4));
      break;
    case RootMethod::Kind::taylor:
      frechet = taylor_derivative(team, method, X, cotangent, matrix(2), matrix(3), matrix(4), matrix(5), matrix(6),
                                  matrix(7));
      mirror(team, X, T(-1), T(1));  // it holds I - X
      break;
    case RootMethod::Kind::newton_schulz:
      const auto Y = newton_schulz<T, true>(team, method.degree, method.inverse, matrix);
      X = matrix(newton_schulz_free[0]);
      cotangent = matrix(newton_schulz_free[1]);
      load_X(X);
      load_symmetric<T, Storage>(team, G, cotangent);
      frechet = {Y.derivative, inner_product(cotangent, Y.value), true};
  }
  if (!frechet.positive) return fill(n, nan, nan, target);
  const double sign = method.inverse ? -1 : 1;
  const double radial = sign * frechet.along / 2 - inner_product(frechet.derivative, X);
  combine_full(team, T(radial), X, T(1), frechet.derivative);
  store_matrix(frechet.derivative, 1 / (method.inverse ? std::sqrt(nu) * nu : std::sqrt(nu)), target);
}

// What the ridges of a root's inverse count in: the last covers the rounding of entries of half precision, which can
// make a matrix as indefinite as that. Of a root it is the last one alone.
template <class T, class Storage>
constexpr double ridge_unit() {
  return std::is_same<Storage, BFloat16>::value ? 0x1p-8 / last_ridge
         : std::is_same<Storage, Half>::value   ? 0x1p-11 / last_ridge
                                                : std::numeric_limits<T>::epsilon();
}

// A^(1/2) and A^(-1/2) as accurately as the design says; either target may be nullptr.
template <class T, class Storage>
void accurate_roots(int n, const RootDesign& design, MatrixIn A, void* root_out, void* inverse_out, void* workspace,
                    const Team& team) {
  constexpr T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const Workspace<T> ws(workspace, n);
  const SweepStrips<T> strips(workspace_matrix<T>(workspace, n, 4));
  Storage *root_target = static_cast<Storage*>(root_out), *inverse_target = static_cast<Storage*>(inverse_out);
  const auto fill_both = [&](T root_diagonal, T inverse_diagonal, T off_diagonal) {
    if (root_target) fill(n, root_diagonal, off_diagonal, root_target);
    if (inverse_target) fill(n, inverse_diagonal, off_diagonal, inverse_target);
  };
  constexpr double epsilon = std::numeric_limits<T>::epsilon();
  double ridge = 0;
  for (const double next : ridges) {
    ridge = next * (next == last_ridge ? ridge_unit<T, Storage>() : epsilon);
    load_symmetric<T, Storage>(team, A, ws.first);
    double nu = frobenius(ws.first);
    if (nu == 0) return fill_both(T(0), infinity, T(0));
    if (!(nu < std::numeric_limits<double>::infinity())) return fill_both(nan, nan, nan);
    nu = normalise(team, nu, ws.first);
    const double tighter = one_norm(ws.first);  // a bound of the largest eigenvalue, as the Frobenius norm is
    if (tighter < 1) nu *= normalise(team, tighter, ws.first);
    add_identity(ws.first, T(ridge));
    if (!newton_roots(team, design, root_target, inverse_target, ws.first, ws.second, ws.third, ws.fourth, strips))
      continue;
    if (root_target) {
      mirror(team, ws.second, T(1));
      store_matrix(ws.second, std::sqrt(nu), root_target);
    }
    if (inverse_target) {
      mirror(team, ws.third, T(1));
      store_matrix(ws.third, 1 / std::sqrt(nu), inverse_target);
    }
    return;
  }
  fill_both(nan, nan, nan);
}

// The gradient for the cotangents G of S = A^(1/2) and H of Z = A^(-1/2): S X + X S = sym(G) - Z sym(H) Z. Without S it
// is the inverse of Z; one of G and H is enough.
template <class T, class Storage>
void accurate_backward(int n, double tolerance, const Cotangents& in, void* out, void* workspace, const Team& team) {
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  const Workspace<T> ws(workspace, n);
  const Panels<T> B = ws.first, W = ws.second, C = ws.third, U = ws.fourth, V = workspace_matrix<T>(workspace, n, 4);
  Storage* target = static_cast<Storage*>(out);
  // B = S/s with s the norm of S, or W = s Z with 1/s that of Z.
  const Panels<T>& given = in.S.data ? B : W;
  load_symmetric<T, Storage>(team, in.S.data ? in.S : in.Z, given);
  double s = !in.S.data && is_infinite_root(given) ? 0 : frobenius(given);
  if (s == 0) return fill(n, T(0), T(0), target);
  if (!(s < std::numeric_limits<double>::infinity())) return fill(n, nan, nan, target);
  s = normalise(team, s, given);
  if (!in.S.data) s = 1 / s;
  double scale = 1 / s;
  if (in.H.data) {
    if (in.S.data) {
      load_symmetric<T, Storage>(team, in.Z, W);
      combine_full(team, T(s), W, T(0), W);
    }
    load_symmetric<T, Storage>(team, in.H, C);
    product(team, Triangle::full, C, W, U);
    product(team, Triangle::lower, W, U, V);
    if (in.G.data) {
      load_symmetric<T, Storage>(team, in.G, C);
      mirror(team, V, T(-1 / (s * s)), C, T(1));
    } else {
      mirror(team, V, T(-1));
      scale /= s * s;
    }
    copy(team, V, C);
  } else {
    load_symmetric<T, Storage>(team, in.G, C);
  }
  if (!invert(team, ridge_unit<T, Storage>(), given, in.S.data ? W : B, SweepStrips<T>(U)))
    return fill(n, nan, nan, target);
  const Panels<T> X = solve_newton(team, tolerance, T(1), B, W, C, U, V);
  if (!X.data) return fill(n, nan, nan, target);
  store_matrix(X, scale, target);
}

// B X + X B = C by Newton steps, for the symmetric part of C and, if there is one, for its skew part.
template <class T, class Storage>
void lyapunov_newton(int n, double tolerance, MatrixIn B, MatrixIn C, void* out, void* workspace, const Team& team) {
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  const Workspace<T> ws(workspace, n);
  const Panels<T> V = workspace_matrix<T>(workspace, n, 4);
  Storage* target = static_cast<Storage*>(out);
  for (const T sign : {T(1), T(-1)}) {
    load_part<T, Storage>(team, C, sign, ws.third);
    if (sign < 0 && frobenius(ws.third) == 0) return;
    load_symmetric<T, Storage>(team, B, ws.first);
    double s = frobenius(ws.first);
    if (s == 0) return fill(n, T(0), T(0), target);
    if (!(s < std::numeric_limits<double>::infinity())) return fill(n, nan, nan, target);
    s = normalise(team, s, ws.first);
    if (!invert(team, ridge_unit<T, Storage>(), ws.first, ws.second, SweepStrips<T>(ws.fourth)))
      return fill(n, nan, nan, target);
    const Panels<T> X = solve_newton(team, tolerance, sign, ws.first, ws.second, ws.third, ws.fourth, V);
    if (!X.data) return fill(n, nan, nan, target);
    store_matrix(X, 1 / s, target, sign < 0);
  }
}

// S X + X S = sym(G). B = S / s with s^2 = ||A||_F: the normaliser of the forward bounds the root.
template <class T, class Storage>
void sqrtm_lya_backward(int n, int iterations, MatrixIn A, MatrixIn S, MatrixIn G, void* out, void* workspace,
                        const Team& team) {
  const Workspace<T> ws(workspace, n);
  Storage* target = static_cast<Storage*>(out);
  load_symmetric<T, Storage>(team, A, ws.first);
  double s = std::sqrt(frobenius(ws.first));
  if (s == 0) return fill(n, T(0), T(0), target);
  load_symmetric<T, Storage>(team, S, ws.first);
  load_symmetric<T, Storage>(team, G, ws.second);
  s = normalise(team, s, ws.first);
  solve_lyapunov(team, iterations, T(1), ws.first, ws.second, ws.third, ws.fourth);
  store_matrix(ws.second, 0.5 / s, target);
}

// Z X + X Z = -Z^2 sym(G) Z^2. With B = Z / s, s = ||Z||_F, the right-hand side is -B^2 sym(G) B^2 and the solution s^3
// X.
template <class T, class Storage>
void inv_sqrtm_lya_backward(int n, int iterations, MatrixIn Z, MatrixIn G, void* out, void* workspace,
                            const Team& team) {
  const Workspace<T> ws(workspace, n);
  Storage* target = static_cast<Storage*>(out);
  load_symmetric<T, Storage>(team, Z, ws.first);
  double s = is_infinite_root(ws.first) ? 0 : frobenius(ws.first);
  if (s == 0) return fill(n, T(0), T(0), target);
  load_symmetric<T, Storage>(team, G, ws.second);
  s = normalise(team, s, ws.first);
  product(team, Triangle::lower, ws.first, ws.first, ws.third);
  mirror<T, true>(team, ws.third, T(1));
  product(team, Triangle::full, ws.second, ws.third, ws.fourth);
  product(team, Triangle::lower, ws.third, ws.fourth, ws.second);
  mirror(team, ws.second, T(1));
  solve_lyapunov(team, iterations, T(1), ws.first, ws.second, ws.third, ws.fourth);
  store_matrix(ws.second, -0.5 * s * s * s, target);
}

// B X + X B = C with s = ||B||_F: once for the symmetric part of C, and once for its skew part if there is one.
template <class T, class Storage>
void lyapunov(int n, int iterations, MatrixIn B, MatrixIn C, void* out, void* workspace, const Team& team) {
  const Workspace<T> ws(workspace, n);
  Storage* target = static_cast<Storage*>(out);
  for (const T sign : {T(1), T(-1)}) {
    load_part<T, Storage>(team, C, sign, ws.second);
    if (sign < 0 && frobenius(ws.second) == 0) return;
    load_symmetric<T, Storage>(team, B, ws.first);
    double s = frobenius(ws.first);
    if (s == 0) return fill(n, T(0), T(0), target);
    s = normalise(team, s, ws.first);
    solve_lyapunov(team, iterations, sign, ws.first, ws.second, ws.third, ws.fourth);
    store_matrix(ws.second, 0.5 / s, target, sign < 0);
  }
}

// f(compute type, storage type) for an element type.
template <class F>
void dispatch(Element element, F&& f) {
  switch (element) {
    case Element::float32:
      return f(float(), float());
    case Element::float64:
      return f(double(), double());
    case Element::float16:
      return f(float(), Half());
    case Element::bfloat16:
      return f(float(), BFloat16());
  }
}

}  // namespace

const Kernels kernels = {
    [](Element element, int n, const RootMethod& method, MatrixIn A, void* out, void* workspace, const Team& team) {
      dispatch(element, [&](auto compute, auto storage) {
        root<decltype(compute), decltype(storage)>(n, method, A, out, workspace, team);
      });
    },
    [](Element element, int n, int iterations, MatrixIn A, MatrixIn S, MatrixIn G, void* out, void* workspace,
       const Team& team) {
      dispatch(element, [&](auto compute, auto storage) {
        sqrtm_lya_backward<decltype(compute), decltype(storage)>(n, iterations, A, S, G, out, workspace, team);
      });
    },
    [](Element element, int n, int iterations, MatrixIn Z, MatrixIn G, void* out, void* workspace, const Team& team) {
      dispatch(element, [&](auto compute, auto storage) {
        inv_sqrtm_lya_backward<decltype(compute), decltype(storage)>(n, iterations, Z, G, out, workspace, team);
      });
    },
    [](Element element, int n, int iterations, MatrixIn B, MatrixIn C, void* out, void* workspace, const Team& team) {
      dispatch(element, [&](auto compute, auto storage) {
        lyapunov<decltype(compute), decltype(storage)>(n, iterations, B, C, out, workspace, team);
      });
    },
    [](Element element, int n, const RootMethod& method, MatrixIn A, MatrixIn G, void* out, void* workspace,
       const Team& team) {
      dispatch(element, [&](auto compute, auto storage) {
        root_backward<decltype(compute), decltype(storage)>(n, method, A, G, out, workspace, team);
      });
    },
    [](Element element, int n, const RootDesign& design, MatrixIn A, void* root, void* inverse, void* workspace,
       const Team& team) {
      dispatch(element, [&](auto compute, auto storage) {
        accurate_roots<decltype(compute), decltype(storage)>(n, design, A, root, inverse, workspace, team);
      });
    },
    [](Element element, int n, double tolerance, const Cotangents& in, void* out, void* workspace, const Team& team) {
      dispatch(element, [&](auto compute, auto storage) {
        accurate_backward<decltype(compute), decltype(storage)>(n, tolerance, in, out, workspace, team);
      });
    },
    [](Element element, int n, double tolerance, MatrixIn B, MatrixIn C, void* out, void* workspace, const Team& team) {
      dispatch(element, [&](auto compute, auto storage) {
        lyapunov_newton<decltype(compute), decltype(storage)>(n, tolerance, B, C, out, workspace, team);
      });
    },
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// Whole passes of one matrix in workspace panels. Compiled once for each instruction set (FASTSQRTM_ISA).
#include "kernels.h"

#include <cmath>
#include <limits>
#include <utility>

#include "element.h"
#include "lyapunov.h"
#include "sweep.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {
namespace {

// Four matrices, carved from the workspace of one thread.
template <class T>
struct Workspace {
  Panels<T> first, second, third, fourth;

  Workspace(void* data, int n)
      : first(static_cast<T*>(data), n),
        second(first.data + Panels<T>::size(n), n),
        third(second.data + Panels<T>::size(n), n),
        fourth(third.data + Panels<T>::size(n), n) {}
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

// Frobenius norm with a scale, so that squares neither overflow nor vanish; padding is zero. 0: all entries are below
// the smallest normal number. NaN if any entry is NaN or Inf.
template <class T>
double frobenius(const Panels<T>& P) {
  constexpr int lanes = Simd<T>::lanes;
  using Wide = typename DoubleLanes<T>::Vector;
  const T* end = P.data + Panels<T>::size(P.n);
  Vector<T> largest = {};
  for (const T* p = P.data; p < end; p += lanes) {
    const Vector<T> x = FASTSQRTM_ISA::load(p), absolute = x < 0 ? -x : x;
    largest = absolute > largest ? absolute : largest;  // skips NaN; the sum below does not
  }
  T scale = 0;
  for (int c = 0; c < lanes; ++c) scale = largest[c] > scale ? largest[c] : scale;
  const T inverse = scale < std::numeric_limits<T>::min() ? T(0) : 1 / scale;
  Wide sum = {};
  for (const T* p = P.data; p < end; p += lanes) {
    const Wide x = __builtin_convertvector(FASTSQRTM_ISA::load(p) * inverse, Wide);
    sum += x * x;
  }
  double total = 0;
  for (int c = 0; c < lanes; ++c) total += sum[c];
  return double(scale) * std::sqrt(total);
}

// P <- P / s. Returns the s that was really divided by: 1/s is rounded to T, and a factor common to the whole matrix
// would show in the result if the compensation did not undo the same one.
template <class T>
double normalise(const Team& team, double s, const Panels<T>& P) {
  const T factor = T(1 / s);
  team.each([&](int member) {
    for (int p = member; p < P.panels(); p += team.threads)
      for (T *x = P.panel(p), *end = P.panel(p + 1); x < end; x += Simd<T>::lanes)
        FASTSQRTM_ISA::store(x, factor * FASTSQRTM_ISA::load(x));
  });
  return 1 / double(factor);
}

// to <- a from + b to on and under the diagonal, by whole panels.
template <class T>
void combine(const Team& team, T a, const Panels<T>& from, T b, const Panels<T>& to) {
  constexpr int width = Panels<T>::width, lanes = Simd<T>::lanes;
  team.each([&](int member) {
    for (int p = member; p < to.panels(); p += team.threads) {
      const T* x = from.at(p * width, p * width);
      T* y = to.at(p * width, p * width);
      const T* end = to.panel(p) + int64_t(to.rows) * width;
      for (; y < end; x += lanes, y += lanes) {
        Vector<T> value = a * FASTSQRTM_ISA::load(x);
        if (b != 0) value += b * FASTSQRTM_ISA::load(y);
        FASTSQRTM_ISA::store(y, value);
      }
    }
  });
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
  if (method.kind == RootMethod::Kind::taylor)
    value = taylor(team, method, ws.first, ws.second, ws.third, ws.fourth);
  else if (!pade(team, method, ws.first, ws.second, ws.third, SweepStrips<T>(ws.fourth)))
    return fill(n, nan, nan, target);
  store_matrix(value, T(method.inverse ? 1 / std::sqrt(nu) : std::sqrt(nu)), target);
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
  store_matrix(ws.second, T(0.5 / s), target);
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
  store_matrix(ws.second, T(-0.5 * s * s * s), target);
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
    store_matrix(ws.second, T(0.5 / s), target, sign < 0);
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
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

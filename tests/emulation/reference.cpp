#include "reference.h"

#include <cmath>
#include <utility>

#include "scalars/coefficients.h"

namespace reference {
namespace {

double norm(const Matrix& a) {
  double sum = 0;
  for (double x : a) sum += x * x;
  return std::sqrt(sum);
}

Matrix scaled(Matrix a, double factor) {
  for (double& x : a) x *= factor;
  return a;
}

Matrix sum(Matrix a, const Matrix& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

Matrix identity(int n) {
  Matrix a(n * n, 0.0);
  for (int i = 0; i < n; ++i) a[i * n + i] = 1;
  return a;
}

// Gauss-Jordan with pivoting: nothing in common with the sweep.
Matrix inverse_of(Matrix a, int n) {
  Matrix b(n * n, 0.0);
  for (int i = 0; i < n; ++i) b[i * n + i] = 1;
  for (int k = 0; k < n; ++k) {
    int pivot = k;
    for (int i = k; i < n; ++i) {
      if (std::fabs(a[i * n + k]) > std::fabs(a[pivot * n + k])) pivot = i;
    }
    for (int j = 0; j < n; ++j) {
      std::swap(a[k * n + j], a[pivot * n + j]);
      std::swap(b[k * n + j], b[pivot * n + j]);
    }
    const double reciprocal = 1 / a[k * n + k];
    for (int j = 0; j < n; ++j) {
      a[k * n + j] *= reciprocal;
      b[k * n + j] *= reciprocal;
    }
    for (int i = 0; i < n; ++i) {
      const double factor = a[i * n + k];
      if (i == k || factor == 0) continue;
      for (int j = 0; j < n; ++j) {
        a[i * n + j] -= factor * a[k * n + j];
        b[i * n + j] -= factor * b[k * n + j];
      }
    }
  }
  return b;
}

// The six products of the paper, on B and C as they are.
Matrix iterate(Matrix b, Matrix c, int n, int iterations) {
  for (int k = 0; k < iterations; ++k) {
    const Matrix m = multiply(b, b, n);
    const Matrix cm = multiply(c, m, n), mc = multiply(m, c, n), bcb = multiply(multiply(b, c, n), b, n);
    const Matrix bm = multiply(b, m, n);
    for (int i = 0; i < n * n; ++i) {
      c[i] = (3 * c[i] - cm[i] - mc[i] + bcb[i]) / 2;
      b[i] = (3 * b[i] - bm[i]) / 2;
    }
  }
  return scaled(c, 0.5);
}

Matrix transposed(const Matrix& a, int n) {
  Matrix out(n * n);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) out[j * n + i] = a[i * n + j];
  }
  return out;
}

// Jacobi's rotations: rows of `vectors` are eigenvectors. Small eigenvalues come out with small relative errors.
std::vector<double> eigenvalues_of(Matrix a, Matrix& vectors, int n) {
  vectors.assign(n * n, 0.0);
  for (int i = 0; i < n; ++i) vectors[i * n + i] = 1;
  for (int sweep = 0; sweep < 30; ++sweep) {
    double off = 0;
    for (int p = 0; p < n; ++p) {
      for (int q = p + 1; q < n; ++q) {
        const double x = a[p * n + q];
        off = std::fmax(off, std::fabs(x) / std::sqrt(std::fabs(a[p * n + p] * a[q * n + q])));
        if (x == 0) continue;
        const double theta = (a[q * n + q] - a[p * n + p]) / (2 * x);
        const double t = (theta < 0 ? -1 : 1) / (std::fabs(theta) + std::hypot(theta, 1));
        const double c = 1 / std::hypot(t, 1), s = t * c;
        for (int k = 0; k < n; ++k) {
          const double u = a[p * n + k], v = a[q * n + k];
          a[p * n + k] = c * u - s * v;
          a[q * n + k] = s * u + c * v;
          const double x_p = vectors[p * n + k], x_q = vectors[q * n + k];
          vectors[p * n + k] = c * x_p - s * x_q;
          vectors[q * n + k] = s * x_p + c * x_q;
        }
        for (int k = 0; k < n; ++k) {
          const double u = a[k * n + p], v = a[k * n + q];
          a[k * n + p] = c * u - s * v;
          a[k * n + q] = s * u + c * v;
        }
      }
    }
    if (!(off > 1e-15)) break;
  }
  std::vector<double> values(n);
  for (int i = 0; i < n; ++i) values[i] = a[i * n + i];
  return values;
}

// From the derivative of r at X applied to the cotangent: the root is y = sqrt(nu) r(A/nu), the inverse root
// r(A/nu) / sqrt(nu), and d nu = <X, dA>.
Matrix gradient_of(const Matrix& x, double nu, const Matrix& cotangent, const Matrix& derivative, const Matrix& y,
                   int n, bool inverse) {
  double along = 0, radial = 0;
  for (int i = 0; i < n * n; ++i) {
    along += cotangent[i] * y[i];
    radial += derivative[i] * x[i];
  }
  const double scale = inverse ? std::pow(nu, -1.5) : 1 / std::sqrt(nu);
  Matrix gradient(n * n);
  for (int i = 0; i < n * n; ++i)
    gradient[i] = scale * (derivative[i] - radial * x[i]) + (inverse ? -0.5 : 0.5) * along / nu * x[i];
  return gradient;
}

}  // namespace

Matrix symmetric_part(const Matrix& a, int n) {
  Matrix out(n * n);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) out[i * n + j] = (a[i * n + j] + a[j * n + i]) / 2;
  }
  return out;
}

Matrix multiply(const Matrix& a, const Matrix& b, int n) {
  Matrix out(n * n, 0.0);
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < n; ++k) {
      for (int j = 0; j < n; ++j) out[i * n + j] += a[i * n + k] * b[k * n + j];
    }
  }
  return out;
}

Matrix root(const Matrix& a, int n, bool pade, int degree, bool inverse) {
  const double nu = norm(symmetric_part(a, n));
  const Matrix x = scaled(symmetric_part(a, n), 1 / nu);
  Matrix y(n * n, 0.0);
  const auto add_identity = [n](Matrix& m, double value) {
    for (int i = 0; i < n; ++i) m[i * n + i] += value;
  };
  if (pade) {
    add_identity(y, fastsqrtm::pade_constant(degree));
    for (int j = 1; j <= degree; ++j) {
      const auto [shift, weight] = fastsqrtm::pade_term(degree, j);
      Matrix shifted = inverse ? scaled(x, shift) : x;
      add_identity(shifted, inverse ? 1 : shift);
      Matrix term = inverse_of(shifted, n);
      if (!inverse) term = multiply(x, term, n);
      for (int i = 0; i < n * n; ++i) y[i] += weight * term[i];
    }
  } else {
    Matrix w = scaled(x, -1);
    add_identity(w, 1);
    std::vector<double> c = {1};
    for (int k = 1; k <= degree; ++k) c.push_back(fastsqrtm::taylor_next(c.back(), k, inverse ? -0.5 : 0.5));
    for (int k = degree; k >= 0; --k) {
      y = multiply(y, w, n);
      add_identity(y, c[k]);
    }
  }
  return scaled(y, inverse ? 1 / std::sqrt(nu) : std::sqrt(nu));
}

Matrix newton_schulz(const Matrix& a, int n, int steps, bool inverse) {
  const double nu = norm(symmetric_part(a, n));
  const Matrix x = scaled(symmetric_part(a, n), 1 / nu);
  Matrix m = x, y = inverse ? identity(n) : x;
  for (int k = 0; k < steps; ++k) {
    const Matrix p = sum(scaled(identity(n), 1.5), scaled(m, -0.5));
    y = multiply(y, p, n);
    m = multiply(multiply(m, p, n), p, n);
  }
  return scaled(y, inverse ? 1 / std::sqrt(nu) : std::sqrt(nu));
}

Matrix lyapunov(const Matrix& b, const Matrix& c, int n, int iterations) {
  const Matrix symmetric = symmetric_part(b, n);
  const double scale = 1 / norm(symmetric);
  return iterate(scaled(symmetric, scale), scaled(c, scale), n, iterations);
}

Matrix sqrtm_lya_backward(const Matrix& a, const Matrix& s, const Matrix& g, int n, int iterations) {
  const double scale = 1 / std::sqrt(norm(symmetric_part(a, n)));
  return iterate(scaled(symmetric_part(s, n), scale), scaled(symmetric_part(g, n), scale), n, iterations);
}

Matrix inv_sqrtm_lya_backward(const Matrix& z, const Matrix& g, int n, int iterations) {
  const Matrix symmetric = symmetric_part(z, n);
  const Matrix squared = multiply(symmetric, symmetric, n);
  const Matrix right = multiply(multiply(squared, symmetric_part(g, n), n), squared, n);
  const double scale = 1 / norm(symmetric);
  return iterate(scaled(symmetric, scale), scaled(right, -scale), n, iterations);
}

Matrix root_backward(const Matrix& a, const Matrix& g, int n, bool pade, int degree, bool inverse) {
  const Matrix symmetric = symmetric_part(a, n), cotangent = symmetric_part(g, n);
  const double nu = norm(symmetric);
  if (nu == 0) return symmetric;
  const Matrix x = scaled(symmetric, 1 / nu);
  // The derivative of the series at X, applied to G, term by term.
  Matrix derivative(n * n, 0.0);
  if (pade) {
    for (int j = 1; j <= degree; ++j) {
      const auto [shift, weight] = fastsqrtm::pade_term(degree, j);
      Matrix shifted = inverse ? scaled(x, shift) : x;
      for (int i = 0; i < n; ++i) shifted[i * n + i] += inverse ? 1 : shift;
      const Matrix resolvent = inverse_of(shifted, n);
      const Matrix term = multiply(multiply(resolvent, cotangent, n), resolvent, n);
      for (int i = 0; i < n * n; ++i) derivative[i] += (inverse ? -1 : 1) * weight * shift * term[i];
    }
  } else {
    Matrix w = scaled(x, -1), power(n * n, 0.0), of_power(n * n, 0.0);  // W^k and its derivative
    for (int i = 0; i < n; ++i) {
      w[i * n + i] += 1;
      power[i * n + i] = 1;
    }
    double c = 1;
    for (int k = 1; k <= degree; ++k) {
      c = fastsqrtm::taylor_next(c, k, inverse ? -0.5 : 0.5);
      const Matrix left = multiply(of_power, w, n), right = multiply(power, cotangent, n);
      for (int i = 0; i < n * n; ++i) {
        of_power[i] = left[i] + right[i];
        derivative[i] -= c * of_power[i];
      }
      power = multiply(power, w, n);
    }
  }
  return gradient_of(x, nu, cotangent, derivative, root(a, n, pade, degree, inverse), n, inverse);
}

// Y and M, and in front of each its derivative along the cotangent.
Matrix newton_schulz_backward(const Matrix& a, const Matrix& g, int n, int steps, bool inverse) {
  const Matrix symmetric = symmetric_part(a, n), cotangent = symmetric_part(g, n);
  const double nu = norm(symmetric);
  if (nu == 0) return symmetric;
  const Matrix x = scaled(symmetric, 1 / nu);
  Matrix m = x, dm = cotangent, y = inverse ? identity(n) : x, dy = inverse ? Matrix(n * n, 0.0) : cotangent;
  for (int k = 0; k < steps; ++k) {
    const Matrix p = sum(scaled(identity(n), 1.5), scaled(m, -0.5)), dp = scaled(dm, -0.5);
    dy = sum(multiply(dy, p, n), multiply(y, dp, n));
    y = multiply(y, p, n);
    for (int power = 0; power < 2; ++power) {
      dm = sum(multiply(dm, p, n), multiply(m, dp, n));
      m = multiply(m, p, n);
    }
  }
  return gradient_of(x, nu, cotangent, dy, scaled(y, inverse ? 1 / std::sqrt(nu) : std::sqrt(nu)), n, inverse);
}

Matrix power(const Matrix& a, int n, double power) {
  Matrix q;
  const std::vector<double> values = eigenvalues_of(symmetric_part(a, n), q, n);
  Matrix scaled_rows = q;
  for (int i = 0; i < n * n; ++i) scaled_rows[i] *= std::pow(values[i / n], power);
  return multiply(transposed(q, n), scaled_rows, n);
}

Matrix semidefinite_root(const Matrix& a, int n, double floor, bool inverse) {
  Matrix q;
  const Matrix symmetric = symmetric_part(a, n);
  std::vector<double> values = eigenvalues_of(symmetric, q, n);
  double largest = 0;
  for (double w : values) largest = std::fmax(largest, std::fabs(w));
  Matrix scaled_rows = q;
  for (int i = 0; i < n * n; ++i) {
    const double w = values[i / n];
    if (w < -largest / 64) return Matrix(n * n, NAN);
    scaled_rows[i] *= inverse ? 1 / std::sqrt(std::fmax(w, floor * largest)) : std::sqrt(std::fmax(w, 0));
  }
  return multiply(transposed(q, n), scaled_rows, n);
}

Matrix lifted_root(const Matrix& b, int n, double floor) {
  Matrix q;
  const double s = norm(symmetric_part(b, n));
  const std::vector<double> values = eigenvalues_of(symmetric_part(scaled(b, 1 / s), n), q, n);
  double inverse_trace = 0, inverse_squares = 0, least = 1;
  for (double w : values) {
    least = std::fmin(least, w);
    inverse_trace += 1 / w;
    inverse_squares += 1 / (w * w);
  }
  if (least > 0 && inverse_squares * floor < 4 * inverse_trace) return b;
  Matrix scaled_rows = q;
  for (int i = 0; i < n * n; ++i) {
    const double w = values[i / n];
    scaled_rows[i] *= s * (w + floor * floor / (w + floor));
  }
  return multiply(transposed(q, n), scaled_rows, n);
}

double log_determinant(const Matrix& a, int n) {
  Matrix q;
  double sum = 0;
  for (double value : eigenvalues_of(symmetric_part(a, n), q, n)) sum += std::log(value);
  return sum;
}

Matrix solve_lyapunov(const Matrix& b, const Matrix& c, int n) {
  Matrix q;
  const std::vector<double> values = eigenvalues_of(symmetric_part(b, n), q, n);
  const Matrix columns = transposed(q, n);
  Matrix x = multiply(multiply(q, c, n), columns, n);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) x[i * n + j] /= values[i] + values[j];
  }
  return multiply(multiply(columns, x, n), q, n);
}

Matrix with_eigenvalues(const std::vector<double>& eigenvalues, const Matrix& random, int n) {
  Matrix q;
  eigenvalues_of(symmetric_part(random, n), q, n);
  Matrix scaled_rows = q;
  for (int i = 0; i < n * n; ++i) scaled_rows[i] *= eigenvalues[i / n];
  return symmetric_part(multiply(transposed(q, n), scaled_rows, n), n);
}

}  // namespace reference

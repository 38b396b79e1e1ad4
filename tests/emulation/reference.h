// The mathematics of docs/design.md in float64, as plainly as possible: what the emulated kernels are held against.
#pragma once

#include <vector>

namespace reference {

using Matrix = std::vector<double>;  // n x n, row-major

Matrix symmetric_part(const Matrix& a, int n);
Matrix multiply(const Matrix& a, const Matrix& b, int n);
Matrix root(const Matrix& a, int n, bool pade, int degree, bool inverse);
Matrix lyapunov(const Matrix& b, const Matrix& c, int n, int iterations);
Matrix sqrtm_lya_backward(const Matrix& a, const Matrix& s, const Matrix& g, int n, int iterations);
Matrix inv_sqrtm_lya_backward(const Matrix& z, const Matrix& g, int n, int iterations);
// The gradient of `root` for the cotangent g.
Matrix root_backward(const Matrix& a, const Matrix& g, int n, bool pade, int degree, bool inverse);

}  // namespace reference

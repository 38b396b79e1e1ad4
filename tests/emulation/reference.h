// The mathematics of docs/design.md in float64, as plain as possible, to compare the emulated kernels with.
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
// `steps` Newton-Schulz steps one by one, and their gradient.
Matrix newton_schulz(const Matrix& a, int n, int steps, bool inverse);
Matrix newton_schulz_backward(const Matrix& a, const Matrix& g, int n, int steps, bool inverse);

// The exact functions, by the eigendecomposition: a^power, log det a and X with b X + X b = c, for
// the symmetric part of a and b.
Matrix power(const Matrix& a, int n, double power);
double log_determinant(const Matrix& a, int n);
Matrix solve_lyapunov(const Matrix& b, const Matrix& c, int n);
// The root or inverse root of a matrix that may be singular or slightly indefinite: sqrt(max(w, 0)) or
// 1 / sqrt(max(w, floor nu)) of its eigenvalues w, with nu the smaller of its Frobenius and its 1-norm. NaN if one of
// them is below -nu/64.
Matrix semidefinite_root(const Matrix& a, int n, double floor, bool inverse);
// b with every eigenvalue w of b / ||b||_F moved to w + floor^2 / (w + floor), if sum(w^-2) / sum(w^-1) is more than
// 4 / floor or one of them is not positive.
Matrix lifted_root(const Matrix& b, int n, double floor);
// With the given eigenvalues and random eigenvectors made from `random`.
Matrix with_eigenvalues(const std::vector<double>& eigenvalues, const Matrix& random, int n);

}  // namespace reference

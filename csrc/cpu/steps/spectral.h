// Roots by eigenvalues: of the matrices that are singular or indefinite in this precision, and of diagonal ones.
// Counterpart in Python: spectral_roots in fastsqrtm/_reference/roots.py.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/matrix/product.h"
#include "cpu/matrix/symmetric.h"
#include "cpu/steps/denman_beavers.h"
#include "cpu/steps/eigen.h"
#include "scalars/ridges.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// The root and the inverse root as functions of the eigenvalues: the root of the positive semidefinite part, and an
// inverse root that null directions cannot amplify beyond the precision.
template <class T>
struct SpectralRoots {
  T smallest = std::numeric_limits<T>::infinity(), size = 0;  // of the eigenvalues, and of their absolute values

  void add(T w) {
    smallest = w < smallest ? w : smallest;
    size = std::fabs(w) > size ? std::fabs(w) : size;
  }
  // False if the matrix is more indefinite than rounding explains.
  bool exist() const { return smallest >= T(-largest_negative) * size; }
  T root(T w) const { return std::sqrt(w > 0 ? w : T(0)); }
  T inverse(T w) const {
    const T least = std::numeric_limits<T>::epsilon() * size;
    return 1 / std::sqrt(w > least ? w : least);
  }
};

template <class T>
bool is_diagonal(const Panels<T>& A) {
  for (int i = 0; i < A.n; ++i)
    for (int j = 0; j < i; ++j)
      if (*A.at(i, j) != 0) return false;
  return true;
}

// The roots of the A in ws[0], complete and of a norm up to 2: A^(1/2) in ws[1] if wanted and A^(-1/2) in ws[3],
// complete. Overwrites the five matrices. Returns false if A is more indefinite than rounding explains.
template <class T>
bool spectral_roots(const Team& team, Wanted wanted, const Workspace<T>& ws) {
  const int n = ws.n;
  // The small ones are mostly of full rank.
  const Eigen<T> eigen = n <= largest_spectral_order ? eigensolve<T>(team, ws) : eigensolve<double>(team, ws);
  if (eigen.values == nullptr) return false;
  SpectralRoots<T> roots;
  for (int k = 0; k < n; ++k) roots.add(T(eigen.values[k]));
  if (!roots.exist()) return false;
  const auto assemble = [&](auto weight, const Panels<T>& to) {
    const Panels<T> V = ws[0];
    load_matrix(team, eigen.V.data, eigen.V.stride, 1, V);
    for (int k = 0; k < n; ++k) {
      const T w = std::sqrt(weight(T(eigen.values[k])));
      for (int j = 0; j < n; ++j) *V.at(k, j) *= w;
    }
    product(team, Triangle::lower, V, V, to);  // V^T V, because the left operand is read transposed
    mirror(team, to, T(1));
  };
  if (wanted.root) assemble([&](T w) { return roots.root(w); }, ws[1]);
  if (wanted.inverse) assemble([&](T w) { return roots.inverse(w); }, ws[3]);
  return true;
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

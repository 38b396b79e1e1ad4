// Passes over pairs of blocks (I, J) and (J, I): everything that needs a transpose.
#pragma once

#include "cpu/matrix/panel.h"
#include "cpu/matrix/team.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

template <class T>
struct Block {
  static constexpr int lanes = Simd<T>::lanes, width = Simd<T>::panel;
  Vector<T> row[lanes];

  void load(const T* p) {
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) row[r] = FASTSQRTM_ISA::load(p + r * width);
  }
  void store(T* p) const {
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) FASTSQRTM_ISA::store(p + r * width, row[r]);
  }
  void transpose() { FASTSQRTM_ISA::transpose<Simd<T>>(row); }
};

// Calls body(I, J) for every J <= I.
template <class F>
void block_pairs(const Team& team, int blocks, F&& body) {
  team.each([&](int member) {
    for (int p = member; 2 * p < blocks; p = team.next(p))  // the panels that the upper blocks are in
      for (int I = 2 * p; I < 2 * p + 2 && I < blocks; ++I)
        for (int J = 0; J <= I; ++J) body(I, J);
  });
}

// P <- combine(P, P^T), entry by entry: combine(own, transposed) gives the new own.
template <class T, class F>
void with_transpose(const Team& team, const Panels<T>& P, F&& combine) {
  block_pairs(team, P.blocks(), [&](int I, int J) {
    constexpr int lanes = Simd<T>::lanes, width = Simd<T>::panel;
    T *lower = P.block(I, J), *upper = P.block(J, I);
    Block<T> from_lower, from_upper;
    from_lower.load(lower);
    from_lower.transpose();
    if (I != J) {
      from_upper.load(upper);
      from_upper.transpose();
      for (int r = 0; r < lanes; ++r) store(upper + r * width, combine(load(upper + r * width), from_lower.row[r]));
    } else {
      from_upper = from_lower;
    }
    for (int r = 0; r < lanes; ++r) store(lower + r * width, combine(load(lower + r * width), from_upper.row[r]));
  });
}

// `to` <- c C + v (V + sign V^T), with C^T = sign C, sign = +-1. C may be `to`.
template <class T>
void add_with_transpose(const Team& team, T c, const Panels<T>& C, T v, const Panels<T>& V, T sign,
                        const Panels<T>& to) {
  block_pairs(team, C.blocks(), [&](int I, int J) {
    constexpr int lanes = Simd<T>::lanes, width = Simd<T>::panel;
    Block<T> sum;
    sum.load(V.block(J, I));
    sum.transpose();
    for (int r = 0; r < lanes; ++r) {
      sum.row[r] = load(V.block(I, J) + r * width) + sign * sum.row[r];
      sum.row[r] = c * load(C.block(I, J) + r * width) + v * sum.row[r];
    }
    sum.store(to.block(I, J));
    if (I != J) {
      sum.transpose();
      for (int r = 0; r < lanes; ++r) store(to.block(J, I) + r * width, sign * sum.row[r]);
    }
  });
}

// P <- p P + q Q + identity I with P^T = sign P, sign = +-1: completes P from its blocks on and under the diagonal. Q
// may be P itself with q = 0. With `exact` the blocks on the diagonal are symmetric bit for bit, as those of a square
// are.
template <class T, bool exact = false>
void mirror(const Team& team, const Panels<T>& P, T p, const Panels<T>& Q, T q, T identity = 0, T sign = 1) {
  block_pairs(team, P.blocks(), [&](int I, int J) {
    constexpr int lanes = Simd<T>::lanes, width = Simd<T>::panel;
    Block<T> block;
    block.load(P.block(I, J));
    if (I == J && !exact) {  // a product of commuting matrices is symmetric only to rounding
      Block<T> other = block;
      other.transpose();
      for (int r = 0; r < lanes; ++r) block.row[r] = T(0.5) * (block.row[r] + sign * other.row[r]);
    }
    for (int r = 0; r < lanes; ++r) block.row[r] *= p;
    if (q != 0)
      for (int r = 0; r < lanes; ++r) block.row[r] += q * load(Q.block(I, J) + r * width);
    block.store(P.block(I, J));
    if (I == J) {
      for (int r = 0; r < lanes; ++r) P.block(I, I)[r * width + r] += identity;
    } else {
      block.transpose();
      for (int r = 0; r < lanes; ++r) store(P.block(J, I) + r * width, sign * block.row[r]);
    }
  });
}

template <class T, bool exact = false>
void mirror(const Team& team, const Panels<T>& P, T p, T identity = 0) {
  mirror<T, exact>(team, P, p, P, T(0), identity);
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

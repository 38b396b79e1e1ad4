// The accurate roots of small matrices, one a lane: the method of denman_beavers.h.
#pragma once

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/lanes_algebra.h"
#include "cpu/steps/denman_beavers.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// How many steps more a matrix takes, whose smallest eigenvalue lies below the interval of the design, by bounds of
// that and of its largest eigenvalue: further[k] is where it takes step k more. Returns where it counts as singular.
template <class T, int n, class Design>
FASTSQRTM_LANE Mask<T> further_steps(const Design& design, const Symmetric<T, n>& A, Vector<T> squares_of_inverse,
                                     Mask<T> regular, Mask<T> (&further)[2]) {
  const Vector<T> least = inner_product(A, A) / trace(A) * T(singular_eigenvalue(sizeof(T)));
  Vector<T> start = broadcast(T(design.constant));
  for (int j = 0; j < design.poles; ++j) start += T(design.weights[j]) / (least + T(design.shifts[j]));
  const Vector<T> largest = T(1) / (least * start);
  const auto at_most = [&](Vector<T> bound) { return squares_of_inverse <= bound * bound; };
  const auto deepest = [&](int more) { return broadcast(T(design.largest_inverse(design.deepest[more]))); };
  const Mask<T> definite = at_most(largest) & at_most(deepest(2));
  further[0] = ~regular & definite;
  further[1] = further[0] & ~at_most(deepest(1));
  return ~regular & ~definite;
}

// X ~ A^(1/2) and Y ~ A^(-1/2) for an A with eigenvalues up to 1, those that are wanted. Returns where A is definite
// and not singular.
template <class T, int n, class Design>
FASTSQRTM_LANE Mask<T> newton_roots(const Design& design, Wanted wanted, const Symmetric<T, n>& A, Symmetric<T, n>& X,
                                    Symmetric<T, n>& Y) {
  Mask<T> good = all_lanes<T>();
  Symmetric<T, n> H, minus_X_inverse;
  H.set_order(A.order);
  X.set_order(A.order);
  Y.set_order(A.order);
  for (int j = 0; j < design.poles; ++j) {
    const Vector<T> shift = broadcast(T(design.inverse_shift(j))), weight = broadcast(T(design.weights[j])),
                    minus = broadcast(T(-design.weight_over_shift(j))), constant = broadcast(T(design.constant));
    for (int i = 0; i < A.entries; ++i) H.entry[i] = shift * A.entry[i];
    good &= sweep<Swept::minus_inverse>(H);  // -(I + A/t)^-1
    for (int i = 0; i < A.entries; ++i) {
      const Vector<T> h = H.entry[i];
      X.entry[i] = weight * h + (j == 0 ? constant * A.entry[i] : X.entry[i]);
      Y.entry[i] = j == 0 ? minus * h : minus * h + Y.entry[i];
    }
    add_identity(X, weight);  // term by term, as the sum of all weights would round more
  }
  add_identity(Y, broadcast(T(design.constant)));
  const T largest_inverse = T(largest_regular_inverse(design, sizeof(T)));
  // Smaller matrices below the interval of the design go by their eigenvalues, which takes less time.
  constexpr bool goes_on = n > largest_order_in_registers;
  [[maybe_unused]] Mask<T> further[2] = {};
  for (int k = 0, steps = design.newton_steps; k < steps; ++k) {
    const Vector<T> half = broadcast(T(design.half_scale(k)));
    const auto take = [&]([[maybe_unused]] int step) {
      if constexpr (goes_on) {
        const int more = step - design.newton_steps;
        return more < 0 ? all_lanes<T>() : more < 2 ? further[more] : Mask<T>{};
      } else {
        return all_lanes<T>();
      }
    };
    const auto next = [&](bool of_wanted) { return k + 1 < steps || of_wanted; };
    // A root that is not asked for need not exist where this step is the last.
    const auto matter = [&](bool of_wanted) { return of_wanted ? take(k) : take(k) & take(k + 1); };
    const bool next_Y = next(wanted.inverse);
    if (next_Y) {
      good &= minus_inverse(X, minus_X_inverse) | ~matter(wanted.inverse);
      if (k == 0) {
        const Vector<T> squares = inner_product(minus_X_inverse, minus_X_inverse);
        const Mask<T> regular = squares <= largest_inverse * largest_inverse;
        if constexpr (goes_on) {
          if (any(good & ~regular)) {
            good &= ~further_steps(design, A, squares, regular, further);
            steps += any(good & further[0]) + any(good & further[1]);
          }
        } else {
          good &= regular;
        }
      }
    }
    const bool next_X = next(wanted.root);
    if (next_X) {
      good &= minus_inverse(Y, H) | ~matter(wanted.root);
      if (goes_on && k >= design.newton_steps)
        combine_where<T, n>(take(k), -half, H, half, X);
      else
        combine(-half, H, half, X);
    }
    if (next_Y) {
      if (goes_on && k >= design.newton_steps)
        combine_where<T, n>(take(k), -half, minus_X_inverse, half, Y);
      else
        combine(-half, minus_X_inverse, half, Y);
    }
  }
  return good;
}

#ifndef FASTSQRTM_ONE_LANE
// tr A / tr X^2 - 1, twice the relative error that a root X has to the same side at all large eigenvalues.
template <class T, int n>
FASTSQRTM_LANE Vector<T> excess_of_trace(const Symmetric<T, n>& A, const Symmetric<T, n>& X) {
  using Sum = WideSum<T>;
  Sum squares, trace;
  const auto numbers = [](const Vector<T>& x) { return reinterpret_cast<const T*>(&x); };
  for (int i = 0; i < A.order; ++i) {
    Sum row;  // rows by themselves: short sums round less. Up to n = 8 their parts beside the diagonal.
    constexpr bool whole = n > largest_unrolled_order;
    for (int j = 0; j < (whole ? A.order : i); ++j) row.add(numbers(X(i, j)), numbers(X(i, j)));
    for (int p = 0; p < Sum::parts; ++p) {
      const Vector<double> x = Sum::wide(numbers(X(i, i)), p);
      squares.part[p] += whole ? row.part[p] : x * x + (row.part[p] + row.part[p]);
      trace.part[p] += Sum::wide(numbers(A(i, i)), p);
    }
  }
  Vector<T> excess, size;
  for (int p = 0; p < Sum::parts; ++p) {
    const auto more = __builtin_convertvector(trace.part[p] - squares.part[p], typename Sum::Part);
    const auto whole = __builtin_convertvector(squares.part[p], typename Sum::Part);
    std::memcpy(reinterpret_cast<T*>(&excess) + p * Sum::lanes, &more, sizeof more);
    std::memcpy(reinterpret_cast<T*>(&size) + p * Sum::lanes, &whole, sizeof whole);
  }
  return excess / size;
}
template <class T>
Vector<T> excess_of_trace(const Symmetric<T, alone>& A, const Symmetric<T, alone>& X) {
  double square, trace;
  square_and_trace(X, A, square, trace);
  return broadcast(T(trace - square) / T(square));
}
#else
template <class T, int n>
FASTSQRTM_LANE Vector<T> excess_of_trace(const Symmetric<T, n>& A, const Symmetric<T, n>& X) {
  const Vector<T> squares = inner_product(X, X);
  return (trace(A) - squares) / squares;
}
#endif

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

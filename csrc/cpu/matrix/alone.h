// One small matrix by itself, its columns in the lanes: the operations of lanes_algebra.h by the same arithmetic for
// each number, so that a matrix has the same bits here as among others. What is one number for each matrix there, such
// as a norm, is in all lanes here. Where rows end within a vector, the rest of it is zero.
#pragma once

#include "cpu/matrix/elementwise.h"
#include "cpu/matrix/lanes.h"
#include "cpu/matrix/swept_pivots.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// The rows of a matrix, each of whole vectors.
template <class T>
struct VectorRows : Slot<Numbers<T>> {
  static constexpr int lanes = Simd<T>::lanes, most_blocks = (any_order + lanes - 1) / lanes;
  using Slot<Numbers<T>>::entry;
  int order = 0, entries = 0, blocks = 0;  // entries: vectors; blocks: of a row

  VectorRows() = default;
  VectorRows(VectorRows&&) = default;
  VectorRows& operator=(VectorRows&&) = default;
  VectorRows(const VectorRows& A) : VectorRows() { *this = A; }
  VectorRows& operator=(const VectorRows& A) {
    set_order(A.order);
    for (int i = 0; i < entries; ++i) entry[i] = A.entry[i];
    return *this;
  }
  void set_order(int n) {
    order = n;
    blocks = (n + lanes - 1) / lanes;
    entries = n * blocks;
  }
  Numbers<T>* row(int i) { return entry + i * blocks; }
  const Numbers<T>* row(int i) const { return entry + i * blocks; }
  T& number(int i, int j) { return reinterpret_cast<T*>(row(i))[j]; }
  const T& number(int i, int j) const { return reinterpret_cast<const T*>(row(i))[j]; }

  VectorRows& operator*=(Vector<T> factor) {
    for (int i = 0; i < entries; ++i) entry[i] *= factor;
    return *this;
  }
};
// Both triangles are equal.
template <class T>
struct Symmetric<T, alone> : VectorRows<T> {
  const T& operator()(int i, int j) const { return this->number(i, j); }
};
template <class T>
struct Square<T, alone> : VectorRows<T> {
  int size() const { return this->entries; }
  T& operator()(int i, int j) { return this->number(i, j); }
  const T& operator()(int i, int j) const { return this->number(i, j); }
};

template <class T>
Mask<T> in_all_lanes(bool condition) {
  return condition ? all_lanes<T>() : Mask<T>{};
}

// By whole vectors, which may reach into the next row, but not behind the matrix.
template <class T>
void load_rows(const GroupIn<T>& in, VectorRows<T>& A) {
  constexpr int lanes = Simd<T>::lanes;
  A.set_order(in.order);
  const int n = A.order;
  const auto valid = Simd<T>::lane_index() < T(n - (A.blocks - 1) * lanes) - Vector<T>{};
  for (int i = 0; i < n; ++i)
    for (int b = 0; b < A.blocks; ++b) {
      const int at = i * n + b * lanes;
      Vector<T> x = {};
      std::memcpy(&x, in.matrices + at, at + lanes <= n * n ? sizeof x : (n * n - at) * sizeof(T));
      if (b + 1 == A.blocks) x = valid ? x : Vector<T>{};
      A.row(i)[b] = x;
    }
}
template <class T>
void store_rows(const VectorRows<T>& A, T* matrix) {
  constexpr int lanes = Simd<T>::lanes;
  const int n = A.order;
  for (int i = 0; i < n; ++i)
    for (int b = 0; b < A.blocks; ++b) {
      const int at = i * n + b * lanes;
      std::memcpy(matrix + at, A.row(i) + b, at + lanes <= n * n ? sizeof(Vector<T>) : (n * n - at) * sizeof(T));
    }
}
// Block (I, J) of A, transposed.
template <class T>
inline void load_transposed(const VectorRows<T>& A, int I, int J, Vector<T> (&block)[Simd<T>::lanes]) {
  constexpr int lanes = Simd<T>::lanes;
#pragma GCC unroll 16
  for (int r = 0; r < lanes; ++r) block[r] = I * lanes + r < A.order ? A.row(I * lanes + r)[J] : Vector<T>{};
  transpose<Simd<T>>(block);
}
// The lower triangle to the upper one.
template <class T>
__attribute__((noinline)) void mirror(VectorRows<T>& A) {
  constexpr int lanes = Simd<T>::lanes;
  Vector<T> block[lanes];
  for (int I = 0; I < A.blocks; ++I)
    for (int J = 0; J <= I; ++J) {
      load_transposed(A, I, J, block);
      for (int r = 0; r < lanes && J * lanes + r < A.order; ++r) {
        Numbers<T>& row = A.row(J * lanes + r)[I];
        row = I > J ? block[r] : Simd<T>::lane_index() > T(r) - Vector<T>{} ? block[r] : row;
      }
    }
}
// (A + A^T)/2
template <class T>
void make_symmetric(VectorRows<T>& A) {
  constexpr int lanes = Simd<T>::lanes;
  Vector<T> block[lanes];
  for (int I = 0; I < A.blocks; ++I)
    for (int J = 0; J <= I; ++J) {
      load_transposed(A, J, I, block);
      for (int r = 0; r < lanes && I * lanes + r < A.order; ++r) {
        Numbers<T>& row = A.row(I * lanes + r)[J];
        row = T(0.5) * row + T(0.5) * block[r];
      }
    }
  mirror(A);
}
// U + U^T
template <class T>
__attribute__((noinline)) Symmetric<T, alone> plus_transposed(const Square<T, alone>& U) {
  constexpr int lanes = Simd<T>::lanes;
  Symmetric<T, alone> A;
  A.set_order(U.order);
  Vector<T> block[lanes];
  for (int I = 0; I < U.blocks; ++I)
    for (int J = 0; J < U.blocks; ++J) {
      load_transposed(U, I, J, block);
      for (int r = 0; r < lanes && J * lanes + r < U.order; ++r)
        A.row(J * lanes + r)[I] = U.row(J * lanes + r)[I] + block[r];
    }
  return A;
}

struct ProductAlone {
  template <class T>
  static const T* at(const VectorRows<T>& A, int& down, int& right) {
    down = A.blocks * Simd<T>::lanes;
    right = 1;
    return &A.number(0, 0);
  }
  template <class M>
  static auto at(const Transposed<M>& A, int& down, int& right) {
    return at(A.matrix, right, down);
  }

  // Eight rows of a block of columns at a time. The last of them may overlap.
  template <class A, class B, template <class, int> class C, class T>
  static inline void run(const A& a, const B& b, C<T, alone>& c) {
    constexpr bool triangle = std::is_same<C<T, alone>, Symmetric<T, alone>>::value;
    constexpr int rows = 8, lanes = Simd<T>::lanes;
    const int n = a.order;
    c.set_order(n);
    int down, right;
    const T* left = at(a, down, right);
    for (int block = 0; block < c.blocks; ++block)
      for (int from = 0; from < n; from += rows) {
        const int i = from + rows <= n ? from : n - rows;
        if (triangle && i + rows <= block * lanes) continue;
        Vector<T> sum[rows] = {};
        for (int k = 0; k < n; ++k) {
          const Vector<T> row = b.row(k)[block];
#pragma GCC unroll 8
          for (int r = 0; r < rows; ++r) sum[r] += left[(i + r) * down + k * right] * row;
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) c.row(i + r)[block] = sum[r];
      }
    if (triangle) mirror(c);
  }
};

// The numbers (first + k, j), ..., (first + k, j + lanes - 1) of a symmetric matrix of which only the lower triangle is
// right, zero behind the last column.
template <class T, int p>
inline void load_pivots(const Symmetric<T, alone>& H, int first, int block, Vector<T> (&x)[p]) {
  constexpr int lanes = Simd<T>::lanes;
  const int j = block * lanes;
  for (int k = 0; k < p; ++k) x[k] = H.row(first + k)[block];
  if (j + lanes - 1 <= first) return;
  Vector<T> column[4];
  if constexpr (lanes >= 4) {
    load_columns<T>(&H.number(j, first), H.blocks * lanes, column);
  } else {
    for (int k = 0; k < p; ++k) {
      alignas(64) T numbers[lanes];
      for (int c = 0; c < lanes; ++c) numbers[c] = H.number(j + c, first + k);
      column[k] = load(numbers);
    }
  }
  const Vector<T> index = Simd<T>::lane_index();
  for (int k = 0; k < p; ++k) {
    x[k] = index > T(first + k - j) - Vector<T>{} ? column[k] : x[k];
    x[k] = index < T(H.order - j) - Vector<T>{} ? x[k] : Vector<T>{};
  }
}

// The lower triangle as in the lanes, whole vectors to the one with the diagonal.
template <Swept result>
struct SweepAlone {
  template <class T>
  static inline void run(const Symmetric<T, alone>& A, Symmetric<T, alone>& H, Mask<T>& positive, Vector<T>*& pivots) {
    constexpr int lanes = Simd<T>::lanes, most_blocks = VectorRows<T>::most_blocks;
    positive = all_lanes<T>();
    H.set_order(A.order);
    each_part(H.order, [&](int first, auto part) {
      constexpr int p = decltype(part)::value;
      const Symmetric<T, alone>& from = first == 0 ? A : H;
      const int after = first + p;
      const int own = first / lanes, last = (after - 1) / lanes;  // the blocks with the columns of the pivots
      SweptPivots<T, p> block;
      for (int s = 0; s < p; ++s)
        for (int t = 0; t <= s; ++t) block.own[s][t] = block.own[t][s] = broadcast(from(first + s, first + t));
      block.template sweep<result>();
      for (int k = 0; k < p; ++k) {
        positive &= block.pivot[k] > 0;
        if (pivots) pivots[first + k] = block.pivot[k];
      }
      // Numbers of the other rows: their factors, and what they have in the columns of the pivots.
      Vector<T> left[p][most_blocks], right[p][most_blocks], swept[p][most_blocks];
      for (int b = 0; b < H.blocks; ++b) {
        Vector<T> x[p], of_left[p], of_right[p];
        load_pivots(from, first, b, x);
        block.sweep_row(x, of_left, of_right);
        for (int k = 0; k < p; ++k) {
          left[k][b] = of_left[k];
          right[k][b] = of_right[k];
          swept[k][b] = x[k];
        }
      }
      // A block of columns, from the diagonal on, of all rows: those of the pivots come last.
      const auto number = [](const Vector<T>* x, int i) { return broadcast(reinterpret_cast<const T*>(x)[i]); };
      const auto update = [&](int b, auto with_pivots) {
        Vector<T> factor[p];
        Mask<T> of_pivot[p];
        for (int k = 0; k < p; ++k) {
          factor[k] = right[k][b];
          of_pivot[k] = Simd<T>::lane_is(first + k - b * lanes);
        }
        const Numbers<T>* read = from.row(b * lanes) + b;
        Numbers<T>* x = H.row(b * lanes) + b;
        for (int i = b * lanes; i < H.order; ++i, x += H.blocks, read += H.blocks) {
          Vector<T> sum = *read;
          for (int k = 0; k < p; ++k) sum -= number(left[k], i) * factor[k];
          // Into the vector: writes of single numbers would make the next read of it wait.
          if (with_pivots)
            for (int k = 0; k < p; ++k) sum = of_pivot[k] ? number(swept[k], i) : sum;
          *x = sum;
        }
      };
      for (int b = 0; b < H.blocks; ++b)
        if (own <= b && b <= last)
          update(b, std::true_type());
        else
          update(b, std::false_type());
      for (int b = 0; b <= last; ++b)
        for (int k = 0; k < p; ++k) {
          Vector<T> x = swept[k][b];
          if (b >= own)
            for (int t = 0; t < p; ++t) x = Simd<T>::lane_is(first + t - b * lanes) ? block.own[k][t] : x;
          H.row(first + k)[b] = x;
        }
    });
    mirror(H);
  }
};

// Of the sums of all columns.
template <class T>
Vector<T> sum_of_columns(const Vector<T>* sums, int blocks) {
  Vector<T> part = {};
  for (int b = 0; b < blocks; ++b) part += sums[b];
  return broadcast(sum_of_halves(part));
}
template <class T>
Vector<T> largest_lane(const Vector<T>& x) {
  T largest = x[0];
  for (int c = 1; c < Simd<T>::lanes; ++c) largest = x[c] > largest ? x[c] : largest;
  return broadcast(largest);
}

template <class T>
Vector<T> largest_entry(const Symmetric<T, alone>& A) {
  Vector<T> largest = {};
  for (int i = 0; i < A.entries; ++i) largest = larger(absolute(A.entry[i]), largest);
  return largest_lane<T>(largest);
}
template <class T>
Mask<T> is_finite(const Symmetric<T, alone>& A) {
  Vector<T> zero = {};
  for (int i = 0; i < A.entries; ++i) zero += A.entry[i] * Vector<T>{};
  return in_all_lanes<T>(!any(zero != 0));
}
template <class T>
Mask<T> is_zero(const Square<T, alone>& A) {
  Mask<T> found = {};
  for (int i = 0; i < A.entries; ++i) found |= A.entry[i] != 0;
  return in_all_lanes<T>(!any(found));
}
template <class T>
Mask<T> is_diagonal(const Symmetric<T, alone>& A) {
  Mask<T> found = {};
  for (int i = 0; i < A.order; ++i)
    for (int b = 0; b < A.blocks; ++b) found |= (A.row(i)[b] != 0) & ~Simd<T>::lane_is(i - b * Simd<T>::lanes);
  return in_all_lanes<T>(!any(found));
}

template <class T>
Vector<T> trace(const Symmetric<T, alone>& A) {
  T sum = A(0, 0);
  for (int i = 1; i < A.order; ++i) sum += A(i, i);
  return broadcast(sum);
}
template <class T>
Vector<T> inner_product(const Symmetric<T, alone>& A, const Symmetric<T, alone>& B) {
  Vector<T> sum[VectorRows<T>::most_blocks] = {};
  for (int i = 0; i < A.order; ++i)
    for (int b = 0; b < A.blocks; ++b) sum[b] += A.row(i)[b] * B.row(i)[b];
  return sum_of_columns<T>(sum, A.blocks);
}
template <class T>
Vector<T> one_norm(const Symmetric<T, alone>& A) {
  Vector<T> largest = {};
  for (int b = 0; b < A.blocks; ++b) {
    Vector<T> sum = {};
    for (int i = 0; i < A.order; ++i) sum += absolute(A.row(i)[b]);
    largest = larger(sum, largest);
  }
  return largest_lane<T>(largest);
}
template <class T>
void add_identity(Symmetric<T, alone>& A, Vector<T> value) {
  for (int i = 0; i < A.order; ++i) A.number(i, i) += value[0];
}

// tr X^2 and tr A
template <class T>
void square_and_trace(const Symmetric<T, alone>& X, const Symmetric<T, alone>& A, double& square, double& trace) {
  constexpr int lanes = Simd<T>::lanes;
  square = trace = 0;
  for (int b = 0; b < X.blocks; ++b) {
    WideSum<T> columns;
    for (int i = 0; i < X.order; ++i)
      columns.add(reinterpret_cast<const T*>(X.row(i) + b), reinterpret_cast<const T*>(X.row(i) + b));
    for (int j = b * lanes; j < X.order && j < (b + 1) * lanes; ++j) {
      square += columns.part[j % lanes / WideSum<T>::lanes][j % WideSum<T>::lanes];
      trace += A(j, j);
    }
  }
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

// The tiny path: takes the matrices of a batch in groups of as many as a vector has lanes, and hands those that the
// lanes leave undone to the pass for one matrix.
//
// For it a pass has the member
//   template <class T, int n>
//   static Mask<T> run_lanes(const Arguments&, const Lanes<T>&)
// which reads the groups `in`, writes the groups `out` and returns the lanes that are done.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/matrix/lanes.h"
#include "cpu/matrix/memory.h"
#include "path.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// A pass with its arguments, whose types the loop over the groups need not know.
template <class T>
struct TinyPass {
  const void* arguments;
  // Bit m of the answer tells whether matrix m is done.
  uint32_t (*run_group)(const void* arguments, const Lanes<T>&);
  uint32_t (*run_alone)(const void* arguments, const Lanes<T>&);  // the first matrix of a group; or nullptr
  void (*run_one)(Element, const Task&, const void* arguments, void* workspace);
};

template <class Pass, class T, int n>
uint32_t run_group(const void* arguments, const Lanes<T>& lanes) {
  const auto& own = *static_cast<const typename Pass::Arguments*>(arguments);
  const Mask<T> done = Pass::template run_lanes<T, n>(own, lanes);
  if (!any(~done)) return ~uint32_t(0);
  uint32_t bits = 0;
  for (int lane = 0; lane < matrices_of_group<T, n>; ++lane)
    bits |= uint32_t(done[lane] != 0) << Group<T, n>::matrix_of_lane(lane);
  return bits;
}

// Asks for lines of memory ahead of their use.
template <bool writing>
void fetch(const void* memory, int64_t bytes) {
  constexpr int line = 64;
  for (int64_t at = 0; at < bytes; at += line) __builtin_prefetch(static_cast<const char*>(memory) + at, writing, 2);
}

// Matrices at, ..., at + count - 1 of an input, one after the other. Those that go side by side are followed by copies
// of the first up to a whole group, and by a vector to be read.
template <class T, class Storage>
const T* group_of(const Batch& batch, const BatchIn& in, int64_t at, int count, bool one_by_one, T* buffer) {
  constexpr int lanes = Simd<T>::lanes;
  const int n = batch.n, numbers = n * n;
  const Storage* data = static_cast<const Storage*>(in.data) + at * in.matrix_stride;
  const bool contiguous = in.matrix_stride == numbers && in.row_stride == n && in.column_stride == 1;
  // The next group, while this one is computed. 2 x 2 matrices take less time than to ask for them.
  if (contiguous && n > 2 && at + 2 * lanes <= batch.matrices)
    fetch<false>(data + lanes * numbers, lanes * numbers * int64_t(sizeof(Storage)));
  if constexpr (std::is_same<T, Storage>::value)
    if (contiguous && (one_by_one || (at + lanes) * numbers + lanes <= batch.matrices * numbers)) return data;
  if (contiguous)
    for (int i = 0; i < count * numbers; ++i) buffer[i] = decode(data[i]);
  else
    for (int m = 0; m < count; ++m)
      for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j)
          buffer[m * numbers + i * n + j] =
              decode(data[m * in.matrix_stride + i * in.row_stride + j * in.column_stride]);
  for (int m = count; m < lanes && !one_by_one; ++m) std::copy(buffer, buffer + numbers, buffer + m * numbers);
  return buffer;
}

// The matrices 0, ..., count - 1 of a group, one by one.
template <class T>
uint32_t run_one_by_one(const TinyPass<T>& pass, Lanes<T> group, int count, const int (&out_numbers)[max_outputs]) {
  uint32_t done = 0;
  for (int m = 0; m < count; ++m) {
    done |= (pass.run_alone(pass.arguments, group) & 1) << m;
    for (auto& in : group.in)
      if (in) in.matrices += in.order * in.order;
    for (int k = 0; k < max_outputs; ++k)
      if (group.out[k]) group.out[k] += out_numbers[k];
  }
  return done;
}

template <class T, class Storage>
void run_groups(Element element, const Batch& batch, int64_t first, int64_t last, const TinyPass<T>& pass,
                void* workspace, int64_t workspace_bytes) {
  constexpr int lanes = Simd<T>::lanes;
  const int n = batch.n, size = lanes * n * n;  // of a group
  Slots::of_this_thread().set_size(Group<T, any_order>::vectors(n) * sizeof(Vector<T>));
  const Slot<T> loaded[max_inputs], stored[max_outputs];
  int out_numbers[max_outputs];
  for (const Slot<T>& group : loaded) std::fill_n(group.entry + size, lanes, T(0));  // behind it
  for (int k = 0; k < max_outputs; ++k) out_numbers[k] = int(batch.out[k].bytes / int64_t(sizeof(Storage)));
  for (int64_t at = first; at < last; at += lanes) {
    const int count = int(std::min<int64_t>(lanes, last - at));
    const bool one_by_one = count <= few_matrices(lanes, n);
    Lanes<T> group = {};
    for (int k = 0; k < max_inputs; ++k)
      if (batch.in[k].data)
        group.in[k] = {group_of<T, Storage>(batch, batch.in[k], at, count, one_by_one, loaded[k].entry), n};
    const auto target = [&](int k) { return static_cast<char*>(batch.out[k].data) + at * batch.out[k].bytes; };
    for (int k = 0; k < max_outputs; ++k) {
      if (!batch.out[k].data) continue;
      // Where the rows of a group are whole vectors, nothing is written behind it.
      const bool fits = one_by_one || (count == lanes && (lanes % (n * n) == 0 || n * n % lanes == 0));
      const bool in_place = std::is_same<T, Storage>::value && batch.out[k].bytes == n * n * int(sizeof(T)) && fits;
      group.out[k] = in_place ? reinterpret_cast<T*>(target(k)) : stored[k].entry;
      // Lines far from each other, which no processor would read ahead.
      if (n > largest_unrolled_order) fetch<true>(target(k), count * batch.out[k].bytes);
    }
    const uint32_t done =
        one_by_one ? run_one_by_one(pass, group, count, out_numbers) : pass.run_group(pass.arguments, group);
    for (int k = 0; k < max_outputs; ++k) {
      if (group.out[k] != stored[k].entry) continue;
      const int64_t numbers = count * batch.out[k].bytes / int64_t(sizeof(Storage));
      Storage* out = reinterpret_cast<Storage*>(target(k));
      for (int64_t i = 0; i < numbers; ++i) encode(stored[k].entry[i], out[i]);
    }
    for (int m = 0; m < count; ++m) {
      if (done >> m & 1) continue;
      std::memset(workspace, 0, workspace_bytes);
      workspace_bytes = 0;
      Task task = {n, n, {}, {}};
      for (int k = 0; k < max_inputs; ++k) {
        const BatchIn& in = batch.in[k];
        if (in.data)
          task.in[k] = {static_cast<const Storage*>(in.data) + (at + m) * in.matrix_stride, in.row_stride,
                        in.column_stride};
      }
      for (int k = 0; k < max_outputs; ++k)
        if (batch.out[k].data) task.out[k] = target(k) + m * batch.out[k].bytes;
      pass.run_one(element, task, pass.arguments, workspace);
    }
  }
}

// The functions of a pass for each order.
template <class Pass, class T, int... before>
TinyPass<T> tiny_pass(int n, const typename Pass::Arguments& arguments,
                      void (*run_one)(Element, const Task&, const void*, void*),
                      std::integer_sequence<int, before...>) {
  static constexpr uint32_t (*by_order[])(const void*, const Lanes<T>&) = {&run_group<Pass, T, before + 1>...,
                                                                           &run_group<Pass, T, any_order>};
  return {&arguments, by_order[std::min<int>(n - 1, sizeof...(before))],
          n > largest_unrolled_order ? &run_group<Pass, T, alone> : nullptr, run_one};
}

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

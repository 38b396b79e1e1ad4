// Who works on one matrix: one thread (the usual case, the batch is spread over the threads outside) or all of them
// (few large matrices). A team of one costs nothing.
#pragma once

#include <cstdint>

namespace fastsqrtm {

struct Team {
  int threads = 1;
  // Runs body(context, i) for i = 0..items-1 on the threads and returns when all are done.
  void (*parallel)(int items, void (*body)(void*, int), void* context) = nullptr;

  // f(member) for member = 0..threads-1. Members share work by striding, so a result never depends on their number.
  template <class F>
  void each(F&& f) const {
    if (threads == 1) {
      f(0);
    } else {
      parallel(threads, [](void* context, int member) { (*static_cast<F*>(context))(member); }, &f);
    }
  }
};

}  // namespace fastsqrtm

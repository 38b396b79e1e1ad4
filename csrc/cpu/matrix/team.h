// The threads that work on one matrix: one (the usual case, where the batch is spread over the threads outside) or all
// of them (few large matrices). A team of one costs nothing.
#pragma once

#include <type_traits>

namespace fastsqrtm {

struct Team {
  int threads = 1;
  // Runs body(context, i) for i = 0..items-1 on the threads and returns when all are done.
  void (*parallel)(int items, void (*body)(void*, int), void* context) = nullptr;

  // Calls f(member) for member = 0..threads-1. Members share work by striding, so no result depends on their number.
  // Nor may it depend on the caller: inlined in two places, f could be contracted to multiply-adds in two ways.
  template <class F>
  void each(F&& f) const {
    struct Body {
      static __attribute__((noinline)) void run(void* context, int member) {
        (*static_cast<std::remove_reference_t<F>*>(context))(member);
      }
    };
    if (threads == 1)
      Body::run(&f, 0);
    else
      parallel(threads, &Body::run, &f);
  }
};

}  // namespace fastsqrtm

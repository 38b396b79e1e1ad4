// The threads that work on one matrix: one (the usual case, where the batch is spread over the threads outside) or all
// of them (few large matrices). A team of one costs nothing.
#pragma once

#include <type_traits>

namespace fastsqrtm {

struct Team {
  int threads = 1;
  // Runs body(context, i) for i = 0..items-1 on the threads and returns when all are done.
  void (*parallel)(int items, void (*body)(void*, int), void* context) = nullptr;

  // What a member works on after item i, its first one being its own number: to and fro, 0 1 1 0 0 1 1 0, so that the
  // panels of a triangle are shared fairly. Each panel stays with one member, in whose cache it is.
  int next(int i) const { return threads == 1 ? i + 1 : i + 2 * (threads - 1 - i % threads) + 1; }

  // Calls f(member) for member = 0..threads-1. Members share work item by item, so no result depends on their number.
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

#include "emulation.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define NO_TSAN __attribute__((no_sanitize("thread")))
#else
#define NO_TSAN
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

Thread* current = nullptr;
EmulatedIndex block_dim, block_index, grid_dim;
unsigned char* shared_memory = nullptr;
int64_t first_block = 0;
bool seeded_missing_barrier = false;
int seeded_offset = 0;
bool blocked_sweep = false;

namespace {

constexpr std::size_t stack_bytes = 96 * 1024;

// The state of a stack. swapcontext asks the system for the signal mask at every switch, which took nine tenths of the
// time of all tests together; this code keeps only the registers that a call keeps.
#if defined(__x86_64__)
using Context = void*;  // the top of the stack, where the registers are

extern "C" void emulation_switch(Context* from, Context to);
asm(R"(
.text
.globl emulation_switch
.hidden emulation_switch
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch, . - emulation_switch
)");

NO_TSAN void switch_context(Context& from, Context& to) { emulation_switch(&from, to); }

NO_TSAN void prepare_context(Context& context, char* stack, void (*entry)()) {
  // Six registers, the address to go to, and no return address.
  auto* top = reinterpret_cast<uintptr_t*>((reinterpret_cast<uintptr_t>(stack) + stack_bytes) / 16 * 16) - 8;
  for (int i = 0; i < 8; ++i) top[i] = 0;
  top[6] = reinterpret_cast<uintptr_t>(entry);
  context = top;
}
#else
using Context = ucontext_t;

NO_TSAN void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

// A function of its own: getcontext returns twice, so nothing that lives across it may be in a register.
NO_TSAN void prepare_context(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = stack_bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

struct Fiber {
  Thread thread;
  Context context;
  std::unique_ptr<char[]> stack;
  void* sanitizer_fiber = nullptr;
  void* fake_stack = nullptr;
  bool done = false;
  int barrier = -1;  // the one it waits for
  int64_t generation = 0;
};

struct Barrier {
  int arrived = 0;
  int64_t generation = 0;
  // ThreadSanitizer orders memory by these addresses. Two take turns, because threads that come to the next barrier
  // early must not be ordered before those that have yet to leave this one.
  char order[2];
};

struct Slot {
  uint64_t value[2];
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Barrier> barriers;
std::vector<Slot> slots;
std::vector<int> slot_turn;
Context scheduler;
#if defined(__SANITIZE_THREAD__)
void* scheduler_fiber = nullptr;
#endif
#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
std::size_t scheduler_stack_bytes = 0;
#endif
const std::function<void()>* body = nullptr;
Fiber* running = nullptr;
int votes[2];
int64_t progress = 0;

NO_TSAN void to_scheduler(bool last) {
  Fiber* self = running;
  (void)last;
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(scheduler_fiber, 1);  // 1: the switch itself orders nothing
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &self->fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
  switch_context(self->context, scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#endif
}

NO_TSAN void to_fiber(Fiber* fiber) {
  running = fiber;
  current = &fiber->thread;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fiber->stack.get(), stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(fiber->sanitizer_fiber, 1);
#endif
  switch_context(scheduler, fiber->context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

NO_TSAN void run_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  (*body)();
  running->done = true;
  ++progress;
  to_scheduler(true);
}

[[noreturn]] void fail(const char* text) {
  std::fprintf(stderr, "emulation: %s\n", text);
  std::abort();
}

}  // namespace

NO_TSAN int block_threads() { return static_cast<int>(block_dim.x * block_dim.y); }
NO_TSAN int warp_barrier() { return 16 + current->linear / 32; }

NO_TSAN void wait(int id, int count, bool fence) {
  Barrier& barrier = barriers[id];
  const int64_t generation = barrier.generation;
  (void)fence;
#if defined(__SANITIZE_THREAD__)
  if (fence) __tsan_release(&barrier.order[generation & 1]);
#endif
  ++progress;
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    ++barrier.generation;
  } else {
    if (barrier.arrived > count) fail("threads with different counts at one barrier");
    running->barrier = id;
    running->generation = generation;
    to_scheduler(false);
    running->barrier = -1;
  }
#if defined(__SANITIZE_THREAD__)
  if (fence) __tsan_acquire(&barrier.order[generation & 1]);
#endif
}

NO_TSAN int vote_or(int value) {
  const int turn = static_cast<int>(barriers[0].generation & 1);
  if (barriers[0].arrived == 0) votes[turn] = 0;
  votes[turn] |= value != 0;
  wait(0, block_threads(), true);
  return votes[turn];
}

NO_TSAN uint64_t exchange(uint64_t value, int source_lane) {
  const int linear = current->linear;
  const int turn = slot_turn[linear] ^= 1;
  slots[linear].value[turn] = value;
  wait(warp_barrier(), 32, false);
  return slots[linear / 32 * 32 + source_lane].value[turn];
}

void launch(int64_t blocks, int threads_x, int threads_y, std::size_t shared_bytes,
            const std::function<void()>& kernel) {
  launch_grid(blocks, 1, threads_x, threads_y, shared_bytes, kernel);
}

NO_TSAN void launch_grid(int64_t blocks_x, int64_t blocks_y, int threads_x, int threads_y, std::size_t shared_bytes,
                         const std::function<void()>& kernel) {
  const int threads = threads_x * threads_y;
  if (threads % 32 != 0 || threads > 1024) fail("a block must be whole warps and at most 1024 threads");
  if (blocks_x > 2147483647 || blocks_y > 65535) fail("the grid is too long");
  block_dim = {static_cast<unsigned>(threads_x), static_cast<unsigned>(threads_y), 1};
  grid_dim = {static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y), 1};
  body = &kernel;
#if defined(__SANITIZE_THREAD__)
  scheduler_fiber = __tsan_get_current_fiber();
#endif
  while (static_cast<int>(fibers.size()) < threads) {
    fibers.push_back(std::make_unique<Fiber>());
    fibers.back()->stack.reset(new char[stack_bytes]);
#if defined(__SANITIZE_THREAD__)
    fibers.back()->sanitizer_fiber = __tsan_create_fiber(0);
#endif
  }
  for (int64_t block = first_block; block < blocks_x * blocks_y; ++block) {
    block_index = {static_cast<unsigned>(block % blocks_x), static_cast<unsigned>(block / blocks_x), 0};
    // On the heap with the exact size, so that AddressSanitizer guards both ends. Filled with NaN, so that a value that
    // nothing wrote shows in the result.
    const std::unique_ptr<unsigned char[]> memory(new unsigned char[shared_bytes]);
    std::memset(memory.get(), 0xff, shared_bytes);
    shared_memory = memory.get();
    barriers.assign(16 + threads / 32, Barrier());
    slots.assign(threads, Slot());
    slot_turn.assign(threads, 0);
    for (int t = 0; t < threads; ++t) {
      Fiber& fiber = *fibers[t];
      fiber.thread = {{static_cast<unsigned>(t % threads_x), static_cast<unsigned>(t / threads_x), 0}, t};
      fiber.done = false;
      fiber.barrier = -1;
#if defined(__SANITIZE_ADDRESS__)
      ASAN_UNPOISON_MEMORY_REGION(fiber.stack.get(), stack_bytes);  // the frames that the last block left there
#endif
      prepare_context(fiber.context, fiber.stack.get(), run_fiber);
#if defined(__SANITIZE_THREAD__)
      // The launch orders what the host wrote before the kernel.
      __tsan_release(&fiber);
      __tsan_switch_to_fiber(fiber.sanitizer_fiber, 1);
      __tsan_acquire(&fiber);
      __tsan_switch_to_fiber(scheduler_fiber, 1);
#endif
    }
    for (int left = threads; left > 0;) {
      const int64_t before = progress;
      left = 0;
      for (int t = 0; t < threads; ++t) {
        if (fibers[t]->done) continue;
        if (fibers[t]->barrier >= 0 && barriers[fibers[t]->barrier].generation == fibers[t]->generation) {
          ++left;
          continue;
        }
        to_fiber(fibers[t].get());
        left += !fibers[t]->done;
      }
      if (left > 0 && progress == before) fail("deadlock: some threads of the block never reach a barrier");
    }
#if defined(__SANITIZE_THREAD__)
    for (int t = 0; t < threads; ++t) {
      __tsan_switch_to_fiber(fibers[t]->sanitizer_fiber, 1);
      __tsan_release(fibers[t].get());
      __tsan_switch_to_fiber(scheduler_fiber, 1);
      __tsan_acquire(fibers[t].get());
    }
#endif
  }
}

}  // namespace emulation

float __half2float(__half x) {
  const int exponent = (x.bits >> 10) & 31;
  const int mantissa = x.bits & 1023;
  const float sign = x.bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                               : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25));
}

__half __float2half_rn(float x) {
  if (x != x) return {0x7fff};
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude < 6.103515625e-05f)
    return {static_cast<uint16_t>(sign | static_cast<int>(std::nearbyint(std::ldexp(magnitude, 24))))};
  int exponent;
  std::frexp(magnitude, &exponent);
  const int mantissa = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 11 - exponent)));
  return {static_cast<uint16_t>(sign | (((exponent + 13) << 10) + mantissa))};
}

// Memory for the matrices of the tiny path whose order is known at run time. A thread keeps it for its next call,
// because fresh memory comes from the system with its pages to be cleared, and the stack of a thread may be small.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

// Slots of one size. The one given back last is the next to be taken: it is still in cache.
class Slots {
 public:
  static Slots& of_this_thread() {
    thread_local Slots slots;
    return slots;
  }

  // From now on a slot has so many bytes. No slot is taken.
  void set_size(int64_t bytes) {
    if (bytes <= bytes_) return;
    clear();
    bytes_ = bytes;
  }

  void* take() { return count_ > 0 ? free_[--count_] : make(); }

  void give(void* slot) {
    if (slot == nullptr) return;
    if (count_ < most)
      free_[count_++] = slot;
    else
      std::free(base_of(slot));
  }

  ~Slots() { clear(); }

 private:
  static constexpr int most = 64;
  static constexpr int64_t line = 64, page = 4096;

  void* free_[most];
  int count_ = 0;
  int64_t bytes_ = 0, shift_ = 0;

  // A line before the slot says where its memory begins. Slots begin at different lines of a page: on some processors
  // reading waits for what was written at the same place of another page.
  void* make() {
    shift_ = (shift_ + 5 * line) % page;
    char* base = static_cast<char*>(std::aligned_alloc(line, (bytes_ + page + line + line - 1) / line * line));
    if (base == nullptr) throw std::bad_alloc();
    char* slot = base + line + shift_;
    base_of(slot) = base;
    return slot;
  }
  static void*& base_of(void* slot) { return *reinterpret_cast<void**>(static_cast<char*>(slot) - line); }

  void clear() {
    while (count_ > 0) std::free(base_of(free_[--count_]));
  }
};

// Memory for numbers, for as long as this object lives. Copies have their own, with nothing in it yet.
template <class Number>
struct Slot {
  Number* entry;

  Slot() : entry(static_cast<Number*>(Slots::of_this_thread().take())) {}
  ~Slot() { Slots::of_this_thread().give(entry); }
  Slot(const Slot&) : Slot() {}
  Slot(Slot&& other) noexcept : entry(other.entry) { other.entry = nullptr; }
  Slot& operator=(const Slot&) { return *this; }
  Slot& operator=(Slot&& other) noexcept {
    std::swap(entry, other.entry);
    return *this;
  }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm

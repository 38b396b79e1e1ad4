// A CUDA block on the host, for the fused kernels of csrc/cuda: every CUDA thread is a fiber with its own stack, which
// runs until its next barrier or shuffle. Under ThreadSanitizer every fiber is a thread of its own, and only barriers
// order memory, so a missing barrier is reported whatever the schedule; a barrier that some threads never reach is
// reported as a deadlock.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct EmulatedIndex {
  unsigned x, y, z;
};

namespace emulation {

struct Thread {
  EmulatedIndex thread_index;
  int linear;
};
extern Thread* current;  // the running CUDA thread
extern EmulatedIndex block_dim, block_index, grid_dim;
extern unsigned char* shared_memory;

// Faults that a test switches on to show that they are found: see platform.cuh.
extern bool seeded_missing_barrier;
extern int seeded_offset;

// Whether the path for large matrices takes csrc/cuda/library/blocked_sweep.cuh where it can.
extern bool blocked_sweep;

// Runs `kernel` for every thread of every block from `first_block` on. The shared memory is exactly `shared_bytes`
// long. A grid longer than CUDA allows, 65,535 in y, is a failure.
extern int64_t first_block;  // 0; more where only the end of a large batch is of interest
void launch_grid(int64_t blocks_x, int64_t blocks_y, int threads_x, int threads_y, std::size_t shared_bytes,
                 const std::function<void()>& kernel);
void launch(int64_t blocks, int threads_x, int threads_y, std::size_t shared_bytes,
            const std::function<void()>& kernel);

// Waits until `count` threads have come to barrier `id` (0 to 15: of the block, from 16 on: of a warp). Orders their
// memory if `fence`.
void wait(int id, int count, bool fence);
int warp_barrier();
int block_threads();
int vote_or(int value);
// Exchanges 8 bytes with another lane of the warp. Orders no memory, as on the device.
uint64_t exchange(uint64_t value, int source_lane);

template <typename T>
T shuffle(T value, int source_lane) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, source_lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulation

#define threadIdx (emulation::current->thread_index)
#define blockIdx (emulation::block_index)
#define blockDim (emulation::block_dim)
#define gridDim (emulation::grid_dim)

inline void __syncthreads() { emulation::wait(0, emulation::block_threads(), true); }
inline int __syncthreads_or(int value) { return emulation::vote_or(value); }
inline void __syncwarp() { emulation::wait(emulation::warp_barrier(), 32, true); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int width) {
  const int lane = emulation::current->linear % 32;
  return emulation::shuffle(value, (lane / width * width) + ((lane % width) ^ mask));
}
template <typename T>
T __shfl_sync(unsigned, T value, int source, int width) {
  const int lane = emulation::current->linear % 32;
  return emulation::shuffle(value, lane / width * width + source % width);
}

// Half types: rounding to nearest even, as the device's conversions do.
struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
float __half2float(__half x);
__half __float2half_rn(float x);
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

namespace fastsqrtm {
namespace cuda {

// The twins of the inline PTX in csrc/cuda/tile/platform.cuh.
template <int id, int threads>
void named_barrier() {
  emulation::wait(id, threads, true);
}
inline void block_barrier() { __syncthreads(); }
// Newton steps end in inf - inf where the approximation is 0 or infinite; in double it takes subnormal numbers for 0.
inline float reciprocal(float x) { return std::isfinite(x) && std::isfinite(1 / x) ? 1 / x : NAN; }
inline double reciprocal(double x) { return std::isnormal(x) ? 1 / x : NAN; }
inline float square_root(float x) { return x > 0 && std::isfinite(x) ? std::sqrt(x) : NAN; }
inline double square_root(double x) { return std::isnormal(x) ? std::sqrt(x) : NAN; }
template <typename T>
int exponent_of(T x) {
  int exponent;
  std::frexp(x, &exponent);
  constexpr int least = std::numeric_limits<T>::min_exponent - 1;  // of 0 as well
  return x == 0 || exponent < least ? least : exponent;
}
template <typename T>
T power_of_two(int e) {
  return std::ldexp(T(1), e);
}
inline int opaque(int x) { return x; }
inline unsigned char* dynamic_shared() { return emulation::shared_memory; }

}  // namespace cuda
}  // namespace fastsqrtm

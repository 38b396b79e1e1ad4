// The kernels' interface to the compiler and the chip: types, barriers, shuffles. All inline PTX of the device has its
// twin for the host in tests/emulation/emulation.h.
#pragma once

#ifdef FASTSQRTM_EMULATION
#include "emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include <cmath>
#include <cstdint>

// Faults for the test of the emulation harness, which switches them on; a build of the library has none.
#ifdef FASTSQRTM_EMULATION
#define FASTSQRTM_SEEDED_SYNC(sync) (emulation::seeded_missing_barrier ? void() : sync)
#define FASTSQRTM_SEEDED_OFFSET emulation::seeded_offset
#else
#define FASTSQRTM_SEEDED_SYNC(sync) sync
#define FASTSQRTM_SEEDED_OFFSET 0
#endif

namespace fastsqrtm {
namespace cuda {

#ifndef FASTSQRTM_EMULATION
// A barrier among `threads` threads of the block, whole warps. Barrier 0 is __syncthreads. The id is a constant: for
// one in a register the block gets all 16 barriers, and a multiprocessor has 64 at most for all its blocks.
template <int id, int threads>
__device__ __forceinline__ void named_barrier() {
  asm volatile("bar.sync %0, %1;" ::"n"(id), "n"(threads) : "memory");
}

// A barrier of a block whose threads have y = 0. The number of threads in a register, unlike that of __syncthreads,
// leaves the accurate roots of n = 96 in float64 the registers they need.
__device__ __forceinline__ void block_barrier() { asm volatile("bar.sync 0, %0;" ::"r"(blockDim.x) : "memory"); }

// 1/x and sqrt(x) for normal x > 0 to an ulp: the approximation of the chip and Newton steps. The standard functions
// have a slow path for other x, a call around which the compiler would spill a register tile.
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return fmaf(y, fmaf(-x, y, 1.0f), y);
}
__device__ __forceinline__ double reciprocal(double x) {
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  y = fma(y, fma(-x, y, 1.0), y);
  return fma(y, fma(-x, y, 1.0), y);
}
__device__ __forceinline__ float square_root(float x) {
  float y;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  const float root = x * y;
  return fmaf(0.5f * y, fmaf(-root, root, x), root);
}
__device__ __forceinline__ double square_root(double x) {
  double y;
  asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  y = fma(0.5 * y, fma(-x * y, y, 1.0), y);
  const double root = x * y;
  return fma(0.5 * y, fma(-root, root, x), root);
}

// e with 2^(e-1) <= x < 2^e, as frexp has it, for finite x >= 0. Numbers below the normal range give -126 (-1022).
__device__ __forceinline__ int exponent_of(float x) { return (__float_as_int(x) >> 23) - 126; }
__device__ __forceinline__ int exponent_of(double x) { return (__double2hiint(x) >> 20) - 1022; }

// 2^e within the normal range.
template <typename T>
__device__ __forceinline__ T power_of_two(int e) {
  if constexpr (sizeof(T) == 8) {
    return __hiloint2double((e + 1023) << 20, 0);
  } else {
    return __int_as_float((e + 127) << 23);
  }
}

// x, opaque to the compiler, which then keeps computations with x inside of a loop.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char storage[];
  return storage;
}
#endif

// The barrier of this thread's team among `teams`: number 1 for the first.
template <int threads, int teams>
__device__ __forceinline__ void team_barrier() {
  if constexpr (teams > 1) {
    if (threadIdx.y + 1 != teams) return team_barrier<threads, teams - 1>();
  }
  named_barrier<teams, threads>();
}

// threadIdx.x is the lane in the team, threadIdx.y the team. A team is part of a warp, or whole warps: alone in their
// block, or with a barrier of their own, so that teams of a block do not wait for each other.
template <class V>
__device__ __forceinline__ void sync_team() {
  if constexpr (V::threads <= 32) {
    __syncwarp();
  } else if constexpr (V::most_teams == 1) {
    block_barrier();
  } else {
    team_barrier<V::threads, V::most_teams>();
  }
}

constexpr unsigned all_lanes = 0xffffffffu;

template <typename T>
__device__ __forceinline__ T not_a_number() {
  return static_cast<T>(NAN);
}

template <typename T>
__device__ __forceinline__ T infinity() {
  return static_cast<T>(INFINITY);
}

// The larger of two, NaN if either is.
template <typename T>
__device__ __forceinline__ T max_or_nan(T a, T b) {
  return a >= b || a != a ? a : b;
}

}  // namespace cuda
}  // namespace fastsqrtm

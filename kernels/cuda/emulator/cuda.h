// What the kernels use of CUDA, for g++: qualifiers, types, conversions, warp operations, tensor-core operations.
//
// Semantics follow the CUDA C++ Programming Guide and, for fragments, the PTX ISA (mma.m16n8k16, ldmatrix).
#pragma once

#include <cmath>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

#define threadIdx (emulator::block->threads[emulator::block->current].index)
#define blockIdx (emulator::block->index)
#define blockDim (emulator::block->dim)
#define gridDim (emulator::block->grid)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

using std::max;
using std::min;

template <class To, class From>
inline To emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline unsigned long long __float2ull_rn(float x) { return static_cast<unsigned long long>(rintf(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  unsigned out = 0;
  for (int i = 0; i < 4; i++) out |= (bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return out;
}

// ---- 16-bit and 8-bit floats

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};
struct __nv_fp8_e4m3 {
  uint8_t __x;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
  unsigned bits = __float_as_uint(x);
  if (x != x) return {static_cast<uint16_t>(0x7fff)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half x) { return static_cast<float>(emulator_bits<_Float16>(x.bits)); }
inline __half __float2half(float x) { return {emulator_bits<uint16_t>(static_cast<_Float16>(x))}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16(x), __float2bfloat16(y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half(x), __float2half(y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {__bfloat162float(v.x), __bfloat162float(v.y)}; }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }

// e4m3: sign, 4 bits of exponent with bias 7, 3 of mantissa; 0x7f is NaN, there is no infinity.
inline float emulator_fp8_to_float(uint8_t bits) {
  int exponent = bits >> 3 & 15, mantissa = bits & 7;
  float magnitude = exponent == 0 ? ldexpf(static_cast<float>(mantissa), -9)
                                  : ldexpf(static_cast<float>(8 + mantissa), exponent - 10);
  if ((bits & 0x7f) == 0x7f) magnitude = NAN;
  return bits & 0x80 ? -magnitude : magnitude;
}
inline uint8_t emulator_float_to_fp8(float x) {
  uint8_t sign = std::signbit(x) ? 0x80 : 0;
  if (x != x) return sign | 0x7f;
  float magnitude = fabsf(x);
  // Values beyond the largest finite one saturate.
  if (magnitude >= 448.0f) return sign | 0x7e;
  int exponent = magnitude < 0x1p-6f ? -6 : std::ilogb(magnitude);
  int steps = static_cast<int>(nearbyintf(ldexpf(magnitude, 3 - exponent)));
  return static_cast<uint8_t>(sign | (steps < 8 ? steps : ((exponent + 6) << 3) + steps));
}

// ---- barriers, warp operations, atomics

inline void __syncthreads() { emulator::barrier(); }
inline void __syncwarp(unsigned mask = ~0u) {
  emulator::meet(mask, nullptr, [](void* const (&)[32], uint32_t) {});
}

template <class T>
struct EmulatorShuffle {
  T value, out;
  int source;
};
template <class T>
inline T emulator_shuffle(unsigned mask, T value, int source) {
  EmulatorShuffle<T> mine{value, value, source};
  emulator::meet(mask, &mine, [](void* const (&slots)[32], uint32_t lanes) {
    for (int i = 0; i < 32; i++) {
      if (!(lanes >> i & 1)) continue;
      auto* lane = static_cast<EmulatorShuffle<T>*>(slots[i]);
      if (lane->source < 0 || lane->source > 31) continue;
      if (!(lanes >> lane->source & 1)) emulator::fail("a shuffle reads a lane outside its mask");
      lane->out = static_cast<EmulatorShuffle<T>*>(slots[lane->source])->value;
    }
  });
  return mine.out;
}
inline int emulator_lane() { return static_cast<int>(emulator::block->current % emulator::WARP); }
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source) {
  return emulator_shuffle(mask, value, source & 31);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return emulator_shuffle(mask, value, emulator_lane() ^ lanes);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
  return emulator_shuffle(mask, value, emulator_lane() - static_cast<int>(distance));
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  return emulator_shuffle(mask, value, emulator_lane() + static_cast<int>(distance));
}
struct EmulatorBallot {
  bool vote;
  unsigned out;
};
inline unsigned __ballot_sync(unsigned mask, int vote) {
  EmulatorBallot mine{vote != 0, 0};
  emulator::meet(mask, &mine, [](void* const (&slots)[32], uint32_t lanes) {
    unsigned out = 0;
    for (int i = 0; i < 32; i++) {
      if ((lanes >> i & 1) && static_cast<EmulatorBallot*>(slots[i])->vote) out |= 1u << i;
    }
    for (int i = 0; i < 32; i++) {
      if (lanes >> i & 1) static_cast<EmulatorBallot*>(slots[i])->out = out;
    }
  });
  return mine.out;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == mask; }

// Threads change only at barriers, so a plain addition is atomic here.
template <class T>
inline T atomicAdd(T* target, T value) {
  T old = *target;
  *target = old + value;
  return old;
}

template <class T>
inline T atomicMin(T* target, T value) {
  T old = *target;
  *target = min(old, value);
  return old;
}
template <class T>
inline T atomicMax(T* target, T value) {
  T old = *target;
  *target = max(old, value);
  return old;
}

// ---- tensor cores and asynchronous copies

enum class EmulatorHalf { F16, BF16 };
struct EmulatorMma {
  float* c;
  const unsigned *a, *b;
};
template <EmulatorHalf TYPE>
inline float emulator_half_of(unsigned pair, int high) {
  uint16_t bits = static_cast<uint16_t>(high ? pair >> 16 : pair);
  return TYPE == EmulatorHalf::F16 ? __half2float({bits}) : __bfloat162float({bits});
}
// mma.sync.m16n8k16: C[16,8] += A[16,16] B[16,8]; lane = 4 * group + member.
template <EmulatorHalf TYPE>
inline void emulator_mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  EmulatorMma mine{c, a, b};
  emulator::meet(~0u, &mine, [](void* const (&slots)[32], uint32_t) {
    float left[16][16], right[8][16];
    for (int lane = 0; lane < 32; lane++) {
      const auto& in = *static_cast<EmulatorMma*>(slots[lane]);
      int group = lane / 4, member = lane % 4;
      for (int high = 0; high < 2; high++) {
        for (int i = 0; i < 4; i++) {
          left[group + i % 2 * 8][member * 2 + high + i / 2 * 8] = emulator_half_of<TYPE>(in.a[i], high);
        }
        for (int i = 0; i < 2; i++) {
          right[group][member * 2 + high + i * 8] = emulator_half_of<TYPE>(in.b[i], high);
        }
      }
    }
    for (int lane = 0; lane < 32; lane++) {
      const auto& out = *static_cast<EmulatorMma*>(slots[lane]);
      for (int i = 0; i < 4; i++) {
        const float *row = left[lane / 4 + i / 2 * 8], *column = right[lane % 4 * 2 + i % 2];
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += row[k] * column[k];
        out.c[i] += sum;
      }
    }
  });
}
inline void mma_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator_mma<EmulatorHalf::F16>(c, a, b);
}
inline void mma_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator_mma<EmulatorHalf::BF16>(c, a, b);
}

// ldmatrix.x4: lane i brings the address of row i % 8 of matrix i / 8; lane l gets the pair l % 4 of row l / 4 of each.
struct EmulatorRows {
  unsigned* out;
  const void* row;
};
template <bool TRANSPOSED>
inline void emulator_ldmatrix(unsigned (&out)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulator::fail("ldmatrix: a row is not aligned to 16 bytes");
  EmulatorRows mine{out, row};
  emulator::meet(~0u, &mine, [](void* const (&slots)[32], uint32_t) {
    uint16_t values[4][8][8];
    for (int i = 0; i < 32; i++) memcpy(values[i / 8][i % 8], static_cast<EmulatorRows*>(slots[i])->row, 16);
    for (int lane = 0; lane < 32; lane++) {
      for (int i = 0; i < 4; i++) {
        int row = lane / 4, at = lane % 4 * 2;
        unsigned low = TRANSPOSED ? values[i][at][row] : values[i][row][at];
        unsigned high = TRANSPOSED ? values[i][at + 1][row] : values[i][row][at + 1];
        static_cast<EmulatorRows*>(slots[lane])->out[i] = high << 16 | low;
      }
    }
  });
}
inline void ldmatrix(unsigned (&out)[4], const void* row) { emulator_ldmatrix<false>(out, row); }
inline void ldmatrix_transposed(unsigned (&out)[4], const void* row) { emulator_ldmatrix<true>(out, row); }

// A copy that has not been waited for has not happened: it is done at the wait of its group, so that a read before
// that sees the old bytes.
struct EmulatorCopy {
  void* to;
  const void* from;
  unsigned bytes;
};
struct EmulatorCopies {
  EmulatorCopy pending[256];
  unsigned group_end[16];
  unsigned count = 0, groups = 0;
};
inline EmulatorCopies& emulator_copies() {
  static thread_local EmulatorCopies* copies = new EmulatorCopies[emulator::MAX_THREADS];
  return copies[emulator::block->current];
}
// Copies 16 bytes, or writes zeros if `bytes` is 0 (then nothing is read).
inline void copy_async(void* to, const void* from, unsigned bytes) {
  bool aligned = reinterpret_cast<uintptr_t>(to) % 16 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0;
  if (!aligned) emulator::fail("an asynchronous copy is not aligned to 16 bytes");
  EmulatorCopies& copies = emulator_copies();
  if (copies.count == 256) emulator::fail("too many asynchronous copies of one thread");
  copies.pending[copies.count++] = {to, from, bytes};
}
inline void copy_commit() {
  EmulatorCopies& copies = emulator_copies();
  if (copies.groups == 16) emulator::fail("too many groups of asynchronous copies");
  copies.group_end[copies.groups++] = copies.count;
}
// Waits until at most N of the last groups are under way.
template <int N>
inline void copy_wait() {
  EmulatorCopies& copies = emulator_copies();
  if (copies.groups <= N) return;
  unsigned done = copies.groups - N, end = copies.group_end[done - 1];
  for (unsigned i = 0; i < end; i++) {
    const EmulatorCopy& copy = copies.pending[i];
    memset(copy.to, 0, 16);
    if (copy.bytes > 0) memcpy(copy.to, copy.from, copy.bytes);
  }
  std::copy(copies.pending + end, copies.pending + copies.count, copies.pending);
  for (int i = 0; i < N; i++) copies.group_end[i] = copies.group_end[done + i] - end;
  copies.count -= end;
  copies.groups = N;
}

// At the end of a thread nothing may be under way; the next block begins with nothing.
inline void emulator_end_of_thread() {
  EmulatorCopies& copies = emulator_copies();
  if (copies.count > 0) emulator::fail("a thread exits before its asynchronous copies are waited for");
  copies.groups = 0;
}

inline uint4 load_streaming(const uint4* from) { return *from; }
inline uint2 load_streaming(const uint2* from) { return *from; }
inline unsigned load_streaming(const unsigned* from) { return *from; }
inline uint16_t load_streaming(const uint16_t* from) { return *from; }
// Two e4m3 values as a pair of f16.
inline unsigned fp8x2_to_f16x2(uint16_t pair) {
  __half low = __float2half(emulator_fp8_to_float(static_cast<uint8_t>(pair)));
  __half high = __float2half(emulator_fp8_to_float(static_cast<uint8_t>(pair >> 8)));
  return static_cast<unsigned>(high.bits) << 16 | low.bits;
}
inline uint8_t float_to_fp8(float x) { return emulator_float_to_fp8(x); }

#define SHARED_MEMORY(name) unsigned char* name = emulator::block->shared

// ---- what the library finds

namespace emulator {
struct Kernel {
  const char* name;
  size_t params_bytes;
  void (*call)(const void*);
  Kernel* next;
};
inline Kernel* kernels = nullptr;

template <auto FUNCTION, class PARAMS>
struct Registrar {
  Kernel kernel;
  explicit Registrar(const char* name)
      : kernel{name, sizeof(PARAMS), run, kernels} {
    kernels = &kernel;
  }
  static void run(const void* params) {
    FUNCTION(*static_cast<const PARAMS*>(params));
    emulator_end_of_thread();
  }
};
}  // namespace emulator

// A kernel with one parameter block.
#define KERNEL(name, Params, threads, ...)                             \
  static void name(Params params) { __VA_ARGS__; }                    \
  static emulator::Registrar<name, Params> name##_registrar(#name);

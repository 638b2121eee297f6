// What every kernel source includes: CUDA under nvcc, the emulator under g++, and a few helpers on top of either.
//
// Kernels take one parameter block by value (`KERNEL`), keep all shared memory in one dynamic array (`SHARED_MEMORY`)
// and use the operations below rather than PTX of their own, so that the same source runs in both places.
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]

#define KERNEL(name, Params, threads, ...) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Params params) { __VA_ARGS__; }

// C[16,8] += A[16,16] B[16,8] with fragments as in the PTX ISA.
__device__ __forceinline__ void mma_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of 16-bit values; lane i brings the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void ldmatrix(unsigned (&out)[4], const void* row) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address));
}
__device__ __forceinline__ void ldmatrix_transposed(unsigned (&out)[4], const void* row) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address));
}

// Copies 16 bytes to shared memory, or writes zeros if `bytes` is 0 (then nothing is read).
__device__ __forceinline__ void copy_async(void* to, const void* from, unsigned bytes) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Loads of data that is read once: past the first-level cache.
__device__ __forceinline__ uint4 load_streaming(const uint4* from) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
__device__ __forceinline__ uint2 load_streaming(const uint2* from) {
  uint2 v;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
  return v;
}
__device__ __forceinline__ unsigned load_streaming(const unsigned* from) {
  unsigned v;
  asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(from));
  return v;
}
__device__ __forceinline__ uint16_t load_streaming(const uint16_t* from) {
  uint16_t v;
  asm("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(from));
  return v;
}

// Two e4m3 values as a pair of f16; a float as e4m3, saturating.
__device__ __forceinline__ unsigned fp8x2_to_f16x2(uint16_t pair) {
  __half2_raw halves = __nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3);
  return static_cast<unsigned>(halves.y) << 16 | halves.x;
}
__device__ __forceinline__ uint8_t float_to_fp8(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }

#else
#include "emulator/cuda.h"
#endif

using bf16 = __nv_bfloat16;
using f16 = __half;
using fp8 = __nv_fp8_e4m3;
using int8 = signed char;

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }
__device__ __forceinline__ float to_float(float x) { return x; }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16(x);
}
template <>
__device__ __forceinline__ f16 from_float<f16>(float x) {
  return __float2half(x);
}
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}

// Pairs of 16-bit values in one register, the first in the low half.
template <class T>
struct Pair;
template <>
struct Pair<f16> {
  static __device__ __forceinline__ unsigned pack(float low, float high) {
    __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<unsigned*>(&pair);
  }
  static __device__ __forceinline__ float2 unpack(unsigned pair) {
    return __half22float2(*reinterpret_cast<__half2*>(&pair));
  }
  static __device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_f16(c, a, b);
  }
};
template <>
struct Pair<bf16> {
  static __device__ __forceinline__ unsigned pack(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<unsigned*>(&pair);
  }
  static __device__ __forceinline__ float2 unpack(unsigned pair) {
    return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162*>(&pair));
  }
  static __device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_bf16(c, a, b);
  }
};

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
  return x;
}

// Sum over the block, the same bits in every thread; `scratch` has a float for each warp and is free afterwards.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  unsigned warps = blockDim.x / 32;
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (unsigned i = 0; i < warps; i++) sum += scratch[i];
  __syncthreads();
  return sum;
}
__device__ __forceinline__ float block_max(float x, float* scratch) {
  unsigned warps = blockDim.x / 32;
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  float most = scratch[0];
  for (unsigned i = 1; i < warps; i++) most = fmaxf(most, scratch[i]);
  __syncthreads();
  return most;
}

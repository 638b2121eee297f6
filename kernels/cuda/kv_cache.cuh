// The paged cache of keys and values as attention reads it.
//
// `[2, num_blocks, kv_heads, block_size, head_dim]`, keys first: a page of one head is one piece of memory. Elements are
// f16, bf16, e4m3 (one scale a layer) or int8 (one f32 scale a position and head,
// `[2, num_blocks, kv_heads, block_size]`). Tensor cores see e4m3 and int8 as f16, which holds them exactly.
#pragma once
#include "device.cuh"

// The 16-bit type that stands for a cache element in a tensor core.
template <class T>
struct CacheElement;
template <>
struct CacheElement<f16> {
  using Operand = f16;
};
template <>
struct CacheElement<bf16> {
  using Operand = bf16;
};
template <>
struct CacheElement<fp8> {
  using Operand = f16;
};
template <>
struct CacheElement<int8> {
  using Operand = f16;
};

// Two 8-bit elements as a pair of f16.
template <class T>
__device__ __forceinline__ unsigned widen(uint16_t pair);
template <>
__device__ __forceinline__ unsigned widen<fp8>(uint16_t pair) {
  return fp8x2_to_f16x2(pair);
}
template <>
__device__ __forceinline__ unsigned widen<int8>(uint16_t pair) {
  float low = static_cast<float>(static_cast<int8>(pair & 0xff));
  float high = static_cast<float>(static_cast<int8>(pair >> 8));
  return Pair<f16>::pack(low, high);
}

// N consecutive elements as N / 2 pairs; one load of at most 16 bytes.
template <class T, int N>
__device__ __forceinline__ void load_pairs(const T* from, unsigned (&out)[N / 2]) {
  constexpr int BYTES = N * static_cast<int>(sizeof(T));
  static_assert(BYTES == 16 || BYTES == 8 || BYTES == 4 || BYTES == 2, "one load");
  unsigned raw[(BYTES + 3) / 4];
  if constexpr (BYTES == 16) {
    uint4 v = load_streaming(reinterpret_cast<const uint4*>(from));
    raw[0] = v.x, raw[1] = v.y, raw[2] = v.z, raw[3] = v.w;
  } else if constexpr (BYTES == 8) {
    uint2 v = load_streaming(reinterpret_cast<const uint2*>(from));
    raw[0] = v.x, raw[1] = v.y;
  } else if constexpr (BYTES == 4) {
    raw[0] = load_streaming(reinterpret_cast<const unsigned*>(from));
  } else {
    raw[0] = load_streaming(reinterpret_cast<const uint16_t*>(from));
  }
#pragma unroll
  for (int i = 0; i < N / 2; i++) {
    if constexpr (sizeof(T) == 2) {
      out[i] = raw[i];
    } else {
      out[i] = widen<T>(static_cast<uint16_t>(raw[i / 2] >> i % 2 * 16));
    }
  }
}

// Most elements that `lanes` lanes can take at once out of `rest`, each at most one 16-byte load.
template <class T>
__host__ __device__ constexpr int chunk_of(int rest, int lanes) {
  int chunk = 16 / static_cast<int>(sizeof(T));
  while (chunk * lanes > rest) chunk /= 2;
  return chunk;
}

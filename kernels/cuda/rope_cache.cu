// From the product `x W_qkv` to what attention reads: bias, normalisation of q and k heads, rotary embedding, and the
// write of k and v to their slots of the paged cache.
#include "kv_cache.cuh"

struct RopeCacheParams {
  const bf16* qkv;              // [tokens, (heads + 2 * kv_heads) * head_dim]
  const float* bias;            // [(heads + 2 * kv_heads) * head_dim]; null = none
  const float* query_norm;      // [head_dim]: weight of the normalisation of each q head; null = none
  const float* key_norm;        // [head_dim]
  const float* table;           // [max_positions, rotary_dim]: cosines of a position, then its sines
  const unsigned* positions;    // [tokens]
  const unsigned* slots;        // [tokens]: `page * block_size + offset`; NO_SLOT = the token is padding
  bf16* query;                  // [tokens, heads, head_dim]
  void* cache;                  // one layer
  float* cache_scales;          // int8 only
  unsigned heads, kv_heads, head_dim, rotary_dim, num_blocks, block_size;
  unsigned interleaved;         // pairs are (2i, 2i+1), else (i, i + rotary_dim / 2)
  float norm_eps;
  float key_scale, value_scale;  // of e4m3
};

constexpr unsigned NO_SLOT = 0xffffffffu;

// Stores a head at `to`: this lane's values are those at lane, lane + 32, ...
template <class T>
__device__ __forceinline__ void store_head(T* to, float* scale, const float* head, unsigned head_dim,
                                           float fixed_scale) {
  unsigned lane = threadIdx.x % 32;
  float inverse = 1.0f / fixed_scale;
  if constexpr (sizeof(T) == 1) {
    if (scale) {
      float most = 0;
      for (unsigned i = lane; i < head_dim; i += 32) most = fmaxf(most, fabsf(head[i]));
      most = warp_max(most);
      if (lane == 0) *scale = most / 127.0f;
      inverse = most > 0 ? 127.0f / most : 0.0f;
    }
  }
  for (unsigned i = lane; i < head_dim; i += 32) {
    if constexpr (sizeof(T) == 2) {
      to[i] = from_float<T>(head[i]);
    } else if (scale) {
      reinterpret_cast<int8*>(to)[i] = static_cast<int8>(__float2int_rn(head[i] * inverse));
    } else {
      reinterpret_cast<unsigned char*>(to)[i] = float_to_fp8(head[i] * inverse);
    }
  }
}

// Normalises and rotates a head in shared memory.
__device__ __forceinline__ void turn_head(float* head, const RopeCacheParams& params, const float* norm,
                                          const float* angles) {
  unsigned lane = threadIdx.x % 32;
  if (norm) {
    float squares = 0;
    for (unsigned i = lane; i < params.head_dim; i += 32) squares += head[i] * head[i];
    float scale = rsqrtf(warp_sum(squares) / static_cast<float>(params.head_dim) + params.norm_eps);
    for (unsigned i = lane; i < params.head_dim; i += 32) head[i] *= scale * norm[i];
    __syncwarp();
  }
  unsigned pairs = params.rotary_dim / 2;
  for (unsigned i = lane; i < pairs; i += 32) {
    unsigned a = params.interleaved ? 2 * i : i, b = params.interleaved ? 2 * i + 1 : i + pairs;
    float x = head[a], y = head[b], cosine = angles[i], sine = angles[pairs + i];
    head[a] = x * cosine - y * sine;
    head[b] = x * sine + y * cosine;
  }
  __syncwarp();
}

// Grid: (tokens). A warp takes every eighth head. Shared memory: a head for each warp, f32.
template <class T>
__device__ __forceinline__ void rope_cache(const RopeCacheParams& params) {
  SHARED_MEMORY(memory);
  unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, token = blockIdx.x;
  float* head = reinterpret_cast<float*>(memory) + warp * params.head_dim;
  unsigned all_heads = params.heads + 2 * params.kv_heads, slot = params.slots[token];
  const bf16* qkv = params.qkv + static_cast<size_t>(token) * all_heads * params.head_dim;
  const float* angles = params.table + static_cast<size_t>(params.positions[token]) * params.rotary_dim;
  size_t half = static_cast<size_t>(params.num_blocks) * params.kv_heads * params.block_size;

  for (unsigned h = warp; h < all_heads; h += warps) {
    bool is_query = h < params.heads, is_value = h >= params.heads + params.kv_heads;
    for (unsigned i = lane; i < params.head_dim; i += 32) {
      float x = to_float(qkv[h * params.head_dim + i]);
      head[i] = params.bias ? x + params.bias[h * params.head_dim + i] : x;
    }
    __syncwarp();
    if (!is_value) turn_head(head, params, is_query ? params.query_norm : params.key_norm, angles);
    if (is_query) {
      bf16* out = params.query + (static_cast<size_t>(token) * params.heads + h) * params.head_dim;
      store_head<bf16>(out, nullptr, head, params.head_dim, 1.0f);
    } else if (slot != NO_SLOT) {
      unsigned kv_head = (h - params.heads) % params.kv_heads;
      size_t place = (static_cast<size_t>(slot / params.block_size) * params.kv_heads + kv_head) * params.block_size +
                     slot % params.block_size + (is_value ? half : 0);
      float* scale = params.cache_scales ? params.cache_scales + place : nullptr;
      store_head<T>(static_cast<T*>(params.cache) + place * params.head_dim, scale, head, params.head_dim,
                    is_value ? params.value_scale : params.key_scale);
    }
    // The next head takes the same place.
    __syncwarp();
  }
}

KERNEL(rope_cache_f16, RopeCacheParams, 256, rope_cache<f16>(params))
KERNEL(rope_cache_bf16, RopeCacheParams, 256, rope_cache<bf16>(params))
KERNEL(rope_cache_fp8, RopeCacheParams, 256, rope_cache<fp8>(params))
KERNEL(rope_cache_int8, RopeCacheParams, 256, rope_cache<int8>(params))

// Root-mean-square normalisation, with what stands around it: the residual addition before, the gathering of rows, and
// the quantisation after.
#include "device.cuh"

struct NormParams {
  float* residual;       // [rows, width], the residual stream
  const bf16* delta;     // [rows, width], added to the residual first; null = nothing
  const float* weight;   // [width]
  const unsigned* rows;  // [gridDim.x]: which row each block takes; null = its own number
  void* out;             // [gridDim.x, width]: bf16, or e4m3
  float* scales;         // [gridDim.x], of e4m3
  unsigned width;        // a multiple of 4
  float eps;
};

constexpr float FP8_MOST = 448.0f;  // largest finite e4m3

// Writes `x(i)` as e4m3 with one scale for the row, chosen from its largest magnitude.
template <class Value>
__device__ __forceinline__ void write_fp8_row(unsigned char* out, float* scale, unsigned width, float most,
                                              Value value) {
  float step = fmaxf(most, 1e-12f) / FP8_MOST, inverse = 1.0f / step;
  for (unsigned i = threadIdx.x; i < width; i += blockDim.x) out[i] = float_to_fp8(value(i) * inverse);
  if (threadIdx.x == 0) *scale = step;
}

// One block a row. Shared memory: the row, then a float for each warp.
template <bool QUANTISED>
__device__ __forceinline__ void rms_norm(const NormParams& params) {
  SHARED_MEMORY(memory);
  float* row = reinterpret_cast<float*>(memory);
  float* scratch = row + params.width;
  size_t index = params.rows ? params.rows[blockIdx.x] : blockIdx.x;
  float* residual = params.residual + index * params.width;
  const bf16* delta = params.delta ? params.delta + index * params.width : nullptr;

  float squares = 0;
  for (unsigned i = threadIdx.x * 4; i < params.width; i += blockDim.x * 4) {
    float4 x = *reinterpret_cast<const float4*>(residual + i);
    if (delta) {
      uint2 pairs = *reinterpret_cast<const uint2*>(delta + i);
      float2 low = Pair<bf16>::unpack(pairs.x), high = Pair<bf16>::unpack(pairs.y);
      x.x += low.x, x.y += low.y, x.z += high.x, x.w += high.y;
      *reinterpret_cast<float4*>(residual + i) = x;
    }
    *reinterpret_cast<float4*>(row + i) = x;
    squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
  }
  float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(params.width) + params.eps);

  size_t start = static_cast<size_t>(blockIdx.x) * params.width;
  if constexpr (QUANTISED) {
    float most = 0;
    for (unsigned i = threadIdx.x; i < params.width; i += blockDim.x) {
      most = fmaxf(most, fabsf(row[i] * scale * params.weight[i]));
    }
    most = block_max(most, scratch);
    write_fp8_row(static_cast<unsigned char*>(params.out) + start, params.scales + blockIdx.x, params.width, most,
                  [&](unsigned i) { return row[i] * scale * params.weight[i]; });
  } else {
    bf16* out = static_cast<bf16*>(params.out) + start;
    for (unsigned i = threadIdx.x * 4; i < params.width; i += blockDim.x * 4) {
      float4 x = *reinterpret_cast<const float4*>(row + i);
      float4 w = *reinterpret_cast<const float4*>(params.weight + i);
      *reinterpret_cast<uint2*>(out + i) = make_uint2(Pair<bf16>::pack(x.x * scale * w.x, x.y * scale * w.y),
                                                      Pair<bf16>::pack(x.z * scale * w.z, x.w * scale * w.w));
    }
  }
}

KERNEL(rms_norm_bf16, NormParams, 256, rms_norm<false>(params))
KERNEL(rms_norm_fp8, NormParams, 256, rms_norm<true>(params))

struct SiluMulParams {
  const bf16* gate_up;  // [rows, 2 * width], the gate in the first half
  void* out;            // [rows, width]: bf16, or e4m3
  float* scales;        // [rows], of e4m3
  unsigned width;       // a multiple of 8
};

__device__ __forceinline__ float silu_mul(float gate, float up) { return gate / (1.0f + exp2f(-gate * LOG2_E)) * up; }

// `silu(gate) * up`, one block a row. Shared memory: quantised only, the row, then a float for each warp.
template <bool QUANTISED>
__device__ __forceinline__ void silu_mul_row(const SiluMulParams& params) {
  SHARED_MEMORY(memory);
  float* row = reinterpret_cast<float*>(memory);
  const bf16* gates = params.gate_up + static_cast<size_t>(blockIdx.x) * 2 * params.width;
  const bf16* ups = gates + params.width;
  size_t start = static_cast<size_t>(blockIdx.x) * params.width;
  float most = 0;
  for (unsigned i = threadIdx.x * 8; i < params.width; i += blockDim.x * 8) {
    uint4 gate = *reinterpret_cast<const uint4*>(gates + i), up = *reinterpret_cast<const uint4*>(ups + i);
    const unsigned *g = &gate.x, *u = &up.x;
    unsigned out[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float2 a = Pair<bf16>::unpack(g[j]), b = Pair<bf16>::unpack(u[j]);
      float x = silu_mul(a.x, b.x), y = silu_mul(a.y, b.y);
      if constexpr (QUANTISED) {
        row[i + 2 * j] = x;
        row[i + 2 * j + 1] = y;
        most = fmaxf(most, fmaxf(fabsf(x), fabsf(y)));
      } else {
        out[j] = Pair<bf16>::pack(x, y);
      }
    }
    if constexpr (!QUANTISED) {
      *reinterpret_cast<uint4*>(static_cast<bf16*>(params.out) + start + i) =
          make_uint4(out[0], out[1], out[2], out[3]);
    }
  }
  if constexpr (QUANTISED) {
    // It ends with a barrier, after which the row is complete.
    most = block_max(most, row + params.width);
    write_fp8_row(static_cast<unsigned char*>(params.out) + start, params.scales + blockIdx.x, params.width, most,
                  [&](unsigned i) { return row[i]; });
  }
}

KERNEL(silu_mul_bf16, SiluMulParams, 256, silu_mul_row<false>(params))
KERNEL(silu_mul_fp8, SiluMulParams, 256, silu_mul_row<true>(params))

struct EmbedParams {
  const unsigned* ids;  // [gridDim.x]
  const bf16* table;    // [vocab, width]
  float* out;           // [gridDim.x, width]
  unsigned width;       // a multiple of 8
  unsigned vocab;       // an id beyond it gives zeros
};

// Rows of the embedding as the residual stream, one block a row.
__device__ __forceinline__ void embed_row(const EmbedParams& params) {
  unsigned id = params.ids[blockIdx.x];
  const bf16* from = params.table + static_cast<size_t>(id) * params.width;
  float* out = params.out + static_cast<size_t>(blockIdx.x) * params.width;
  for (unsigned i = threadIdx.x * 8; i < params.width; i += blockDim.x * 8) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (id < params.vocab) v = *reinterpret_cast<const uint4*>(from + i);
    const unsigned* pairs = &v.x;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float2 x = Pair<bf16>::unpack(pairs[j]);
      *reinterpret_cast<float2*>(out + i + 2 * j) = x;
    }
  }
}

KERNEL(embed, EmbedParams, 256, embed_row(params))

// `y = x W^T` for up to eight rows of x: the weights are read once, in the order in which they lie in memory, and
// everything else hides behind that.
//
// A warp takes 16 rows of W (the rows of the tensor-core operand A) and every n-th piece of the columns; x is operand B,
// with one of its rows a column of B. As in attention_decode.cu the inner dimension is taken in an order in which each
// lane's share is 16 consecutive bytes.
#include "device.cuh"

struct LinearSmallParams {
  const bf16* x;         // [m, k]
  const void* weight;    // bf16 [n, k], or packed 4-bit (below)
  const unsigned* scales;  // 4-bit: [n, k / 32] pairs of f16: scale and minimum
  void* y;               // [m, n], bf16 or f32
  unsigned m, n, k;      // m <= 8; k a multiple of 32 (bf16) or 128 (4-bit)
  unsigned y_is_float;
};

constexpr unsigned SMALL_WARPS = 8;
constexpr unsigned SMALL_ROWS = 16;   // of W, for each block
constexpr unsigned SMALL_BATCH = 8;

// Adds the warps' fragments and writes y. Shared memory: [warps][16][8] floats.
__device__ __forceinline__ void reduce_and_write(const LinearSmallParams& params, float* shared, const float (&c)[4]) {
  unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, column = lane % 4 * 2;
  float* own = shared + warp * SMALL_ROWS * SMALL_BATCH;
  *reinterpret_cast<float2*>(own + group * SMALL_BATCH + column) = make_float2(c[0], c[1]);
  *reinterpret_cast<float2*>(own + (group + 8) * SMALL_BATCH + column) = make_float2(c[2], c[3]);
  __syncthreads();
  for (unsigned i = threadIdx.x; i < SMALL_ROWS * SMALL_BATCH; i += blockDim.x) {
    unsigned batch = i / SMALL_ROWS, row = blockIdx.x * SMALL_ROWS + i % SMALL_ROWS;
    if (batch >= params.m || row >= params.n) continue;
    float sum = 0;
    for (unsigned w = 0; w < SMALL_WARPS; w++) {
      sum += shared[w * SMALL_ROWS * SMALL_BATCH + i % SMALL_ROWS * SMALL_BATCH + batch];
    }
    size_t at = static_cast<size_t>(batch) * params.n + row;
    if (params.y_is_float) {
      static_cast<float*>(params.y)[at] = sum;
    } else {
      static_cast<bf16*>(params.y)[at] = from_float<bf16>(sum);
    }
  }
}

// 16 bytes of x: row `lane / 4`, zeros beyond the batch.
__device__ __forceinline__ uint4 load_x(const LinearSmallParams& params, unsigned k) {
  unsigned row = threadIdx.x % 32 / 4;
  if (row >= params.m) return make_uint4(0, 0, 0, 0);
  return *reinterpret_cast<const uint4*>(params.x + static_cast<size_t>(row) * params.k + k);
}

// Grid: (ceil(n / 16)).
__device__ __forceinline__ void multiply_bf16(const LinearSmallParams& params) {
  SHARED_MEMORY(memory);
  unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * SMALL_ROWS + lane / 4;
  // Rows beyond the matrix read its last one; their results are not written.
  const bf16* weight = static_cast<const bf16*>(params.weight);
  const bf16* low = weight + static_cast<size_t>(min(first, params.n - 1)) * params.k + lane % 4 * 8;
  const bf16* high = weight + static_cast<size_t>(min(first + 8, params.n - 1)) * params.k + lane % 4 * 8;
  float c[4] = {};
#pragma unroll 4
  for (unsigned k = warp * 32; k < params.k; k += SMALL_WARPS * 32) {
    uint4 a = load_streaming(reinterpret_cast<const uint4*>(low + k));
    uint4 b = load_streaming(reinterpret_cast<const uint4*>(high + k));
    uint4 x = load_x(params, k + lane % 4 * 8);
    unsigned first_a[4] = {a.x, b.x, a.y, b.y}, first_x[2] = {x.x, x.y};
    unsigned second_a[4] = {a.z, b.z, a.w, b.w}, second_x[2] = {x.z, x.w};
    mma_bf16(c, first_a, first_x);
    mma_bf16(c, second_a, second_x);
  }
  reduce_and_write(params, reinterpret_cast<float*>(memory), c);
}

// Four pairs of integers 128 + q, exact in bf16, from eight nibbles: pair i is nibbles i and i + 4.
__device__ __forceinline__ void unpack_nibbles(unsigned word, unsigned (&pairs)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) pairs[i] = (word >> 4 * i & 0x000f000fu) | 0x43004300u;
}

// 4-bit weights `q * scale + minimum` in blocks of 32 columns. Packed `[ceil(n / 8), k / 128, 8 rows, 4 lanes]` times 16
// bytes: the word b of a lane t holds the columns `128 j + 32 b + 8 t + 0..8` of its row in the nibble order
// 0, 2, 4, 6, 1, 3, 5, 7, so that a warp's load is 512 consecutive bytes.
//
// Products with the bare integers are exact; scale and minimum come in f32 once for each block of 32:
//   sum w x = scale * sum (128 + q) x + (minimum - 128 * scale) * sum x
__device__ __forceinline__ void multiply_u4(const LinearSmallParams& params) {
  SHARED_MEMORY(memory);
  unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, tiles = params.k / 128;
  unsigned row_groups = (params.n + 7) / 8;
  unsigned low_group = blockIdx.x * 2, high_group = min(low_group + 1, row_groups - 1);
  const uint4* weight = static_cast<const uint4*>(params.weight);
  unsigned low_row = min(blockIdx.x * SMALL_ROWS + group, params.n - 1);
  unsigned high_row = min(blockIdx.x * SMALL_ROWS + group + 8, params.n - 1);
  float c[4] = {};
#pragma unroll 2
  for (unsigned tile = warp; tile < tiles; tile += SMALL_WARPS) {
    uint4 low = load_streaming(weight + (static_cast<size_t>(low_group) * tiles + tile) * 32 + lane);
    uint4 high = load_streaming(weight + (static_cast<size_t>(high_group) * tiles + tile) * 32 + lane);
    uint4 low_scales = load_streaming(reinterpret_cast<const uint4*>(params.scales + static_cast<size_t>(low_row) * tiles * 4) + tile);
    uint4 high_scales = load_streaming(reinterpret_cast<const uint4*>(params.scales + static_cast<size_t>(high_row) * tiles * 4) + tile);
#pragma unroll
    for (int block = 0; block < 4; block++) {
      uint4 x = load_x(params, tile * 128 + block * 32 + lane % 4 * 8);
      unsigned a[4], b[4];
      unpack_nibbles((&low.x)[block], a);
      unpack_nibbles((&high.x)[block], b);
      unsigned first_a[4] = {a[0], b[0], a[1], b[1]}, first_x[2] = {x.x, x.y};
      unsigned second_a[4] = {a[2], b[2], a[3], b[3]}, second_x[2] = {x.z, x.w};
      unsigned ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
      float product[4] = {}, sum[4] = {};
      mma_bf16(product, first_a, first_x);
      mma_bf16(product, second_a, second_x);
      mma_bf16(sum, ones, first_x);
      mma_bf16(sum, ones, second_x);
      float2 s = Pair<f16>::unpack((&low_scales.x)[block]), t = Pair<f16>::unpack((&high_scales.x)[block]);
      c[0] += s.x * product[0] + (s.y - 128.0f * s.x) * sum[0];
      c[1] += s.x * product[1] + (s.y - 128.0f * s.x) * sum[1];
      c[2] += t.x * product[2] + (t.y - 128.0f * t.x) * sum[2];
      c[3] += t.x * product[3] + (t.y - 128.0f * t.x) * sum[3];
    }
  }
  reduce_and_write(params, reinterpret_cast<float*>(memory), c);
}

KERNEL(linear_small_bf16, LinearSmallParams, 256, multiply_bf16(params))
KERNEL(linear_small_u4, LinearSmallParams, 256, multiply_u4(params))

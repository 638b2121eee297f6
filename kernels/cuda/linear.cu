// `y = x W^T` for many rows, bf16 with f32 sums: tiles of 128 x 128 through shared memory in three stages.
//
// It serves where cuBLASLt is absent, and is the float reference of what that library does.
#include "device.cuh"

struct LinearParams {
  const bf16* x;       // [m, k]
  const bf16* weight;  // [n, k]
  void* y;             // [m, n], bf16 or f32
  unsigned m, n, k;    // k a multiple of 8, n even
  unsigned y_is_float;
};

constexpr unsigned LINEAR_ROWS = 128, LINEAR_COLUMNS = 128, LINEAR_INNER = 32, LINEAR_STAGES = 3;
// A row is padded by 16 bytes, which spreads the rows that one ldmatrix reads over all banks.
constexpr unsigned LINEAR_STRIDE = LINEAR_INNER + 8;
constexpr unsigned LINEAR_STAGE = (LINEAR_ROWS + LINEAR_COLUMNS) * LINEAR_STRIDE;
constexpr unsigned LINEAR_THREADS = 256;  // 8 warps as 2 x 4, each 64 x 32

// One stage: rows of x, then rows of W, of the columns from `k` on; zeros outside the matrices.
__device__ __forceinline__ void stage_operands(const LinearParams& params, bf16* stage, unsigned k) {
#pragma unroll
  for (unsigned i = threadIdx.x; i < (LINEAR_ROWS + LINEAR_COLUMNS) * 4; i += LINEAR_THREADS) {
    unsigned r = i / 4, column = k + i % 4 * 8;
    bool is_weight = r >= LINEAR_ROWS;
    unsigned row = is_weight ? blockIdx.x * LINEAR_COLUMNS + r - LINEAR_ROWS : blockIdx.y * LINEAR_ROWS + r;
    bool inside = row < (is_weight ? params.n : params.m) && column < params.k;
    const bf16* from = is_weight ? params.weight : params.x;
    copy_async(stage + r * LINEAR_STRIDE + i % 4 * 8,
               inside ? from + static_cast<size_t>(row) * params.k + column : from, inside ? 16 : 0);
  }
  copy_commit();
}

// Adds one stage's product to the warp's 64 x 32 tile.
__device__ __forceinline__ void multiply_stage(float (&c)[4][4][4], const bf16* x, const bf16* weight) {
  unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned k = 0; k < LINEAR_INNER; k += 16) {
    unsigned a[4][4], b[2][4];
#pragma unroll
    for (unsigned m = 0; m < 4; m++) ldmatrix(a[m], x + (m * 16 + lane % 16) * LINEAR_STRIDE + k + lane / 16 * 8);
#pragma unroll
    for (unsigned n = 0; n < 2; n++) {
      ldmatrix(b[n], weight + (n * 16 + lane / 16 * 8 + lane % 8) * LINEAR_STRIDE + k + lane / 8 % 2 * 8);
    }
#pragma unroll
    for (unsigned m = 0; m < 4; m++) {
#pragma unroll
      for (unsigned n = 0; n < 4; n++) {
        unsigned pair[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
        mma_bf16(c[m][n], a[m], pair);
      }
    }
  }
}

__device__ __forceinline__ void write_tile(const LinearParams& params, const float (&c)[4][4][4], unsigned warp_row,
                                           unsigned warp_column) {
  unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned m = 0; m < 4; m++) {
#pragma unroll
    for (unsigned n = 0; n < 4; n++) {
#pragma unroll
      for (unsigned half = 0; half < 2; half++) {
        unsigned row = blockIdx.y * LINEAR_ROWS + warp_row + m * 16 + half * 8 + lane / 4;
        unsigned column = blockIdx.x * LINEAR_COLUMNS + warp_column + n * 8 + lane % 4 * 2;
        if (row >= params.m || column >= params.n) continue;
        size_t at = static_cast<size_t>(row) * params.n + column;
        float low = c[m][n][half * 2], high = c[m][n][half * 2 + 1];
        if (params.y_is_float) {
          *reinterpret_cast<float2*>(static_cast<float*>(params.y) + at) = make_float2(low, high);
        } else {
          *reinterpret_cast<unsigned*>(static_cast<bf16*>(params.y) + at) = Pair<bf16>::pack(low, high);
        }
      }
    }
  }
}

// Grid: (ceil(n / 128), ceil(m / 128)).
__device__ __forceinline__ void linear_tile(const LinearParams& params) {
  SHARED_MEMORY(memory);
  bf16* stages = reinterpret_cast<bf16*>(memory);
  unsigned warp = threadIdx.x / 32, warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
  unsigned steps = (params.k + LINEAR_INNER - 1) / LINEAR_INNER;
#pragma unroll
  for (unsigned stage = 0; stage < LINEAR_STAGES - 1; stage++) {
    // Beyond the last column a stage is all zeros.
    stage_operands(params, stages + stage * LINEAR_STAGE, stage * LINEAR_INNER);
  }
  float c[4][4][4] = {};
  for (unsigned step = 0; step < steps; step++) {
    copy_wait<LINEAR_STAGES - 2>();
    // Everybody's copies have arrived, and everybody is done with the stage that is filled next.
    __syncthreads();
    unsigned ahead = step + LINEAR_STAGES - 1;
    stage_operands(params, stages + ahead % LINEAR_STAGES * LINEAR_STAGE, ahead * LINEAR_INNER);
    const bf16* stage = stages + step % LINEAR_STAGES * LINEAR_STAGE;
    multiply_stage(c, stage + warp_row * LINEAR_STRIDE, stage + (LINEAR_ROWS + warp_column) * LINEAR_STRIDE);
  }
  copy_wait<0>();
  write_tile(params, c, warp_row, warp_column);
}

KERNEL(linear_bf16, LinearParams, 256, linear_tile(params))

// Paged attention of many new tokens a sequence (FlashAttention-2 over pages, ragged batch).
//
// A block takes a tile of query rows of one key/value head. A row is a (token, query head) pair, so that all heads of a
// group share every key and value that is loaded. Keys and values come through shared memory in two stages, filled by
// asynchronous copies while the other is used; products run on tensor cores.
#include "kv_cache.cuh"

struct PrefillParams {
  const bf16* query;            // [tokens, heads, D], rotated
  const void* cache;            // one layer, this step's keys and values included
  const float* cache_scales;    // int8 only
  const unsigned* block_table;  // [sequences, table_stride]
  const unsigned* context_len;  // [sequences], this step's tokens included
  const unsigned* sequences;    // [gridDim.z]: which sequences
  const unsigned* query_start;  // [sequences + 1]
  bf16* out;                    // [tokens, heads, D]
  unsigned heads, kv_heads, num_blocks, block_size, table_stride;
  unsigned window;              // positions a query sees, its own included; 0 = all
  float softmax_scale, soft_cap;
  float key_scale, value_scale;  // 1 unless the cache is e4m3
};

constexpr unsigned PREFILL_WARPS = 4;
constexpr unsigned PREFILL_THREADS = PREFILL_WARPS * 32;
constexpr unsigned SUBTILE = 32;  // positions of one softmax update

template <int D>
struct PrefillTile {
  static constexpr unsigned ROW_TILES = D <= 128 ? 2 : 1;  // 16-row tiles of a warp
  static constexpr unsigned ROWS = PREFILL_WARPS * ROW_TILES * 16;
  static constexpr unsigned POSITIONS = D <= 128 ? 64 : 32;  // of a stage
  // A row is padded by 16 bytes, which spreads the rows that one ldmatrix reads over all banks.
  static constexpr unsigned STRIDE = D + 8;
  // Shared memory: queries, then two stages of keys and values, 16-bit elements.
  static constexpr unsigned STAGE = 2 * POSITIONS * STRIDE;
};

// What a block knows about its rows.
struct PrefillRows {
  unsigned first_token;   // of the sequence, in the batch
  unsigned rows;          // (token, head) pairs of the sequence for this key/value head
  unsigned begin;         // first row of the tile
  unsigned heads_per_kv;
  unsigned first_position;  // of the sequence's first new token
  unsigned context;

  __device__ __forceinline__ unsigned position(unsigned row) const {
    return first_position + min(row, rows - 1) / heads_per_kv;
  }
};

// Queries of the tile to shared memory in the operand type; rows beyond the sequence are zero.
template <class Operand, int D>
__device__ __forceinline__ void stage_queries(Operand* shared, const PrefillParams& params, const PrefillRows& rows,
                                              unsigned kv_head) {
  using Tile = PrefillTile<D>;
  for (unsigned i = threadIdx.x; i < Tile::ROWS * (D / 8); i += PREFILL_THREADS) {
    unsigned r = i / (D / 8), chunk = i % (D / 8) * 8, row = rows.begin + r;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (row < rows.rows) {
      size_t token = rows.first_token + row / rows.heads_per_kv;
      size_t head = kv_head * rows.heads_per_kv + row % rows.heads_per_kv;
      v = *reinterpret_cast<const uint4*>(params.query + (token * params.heads + head) * D + chunk);
      if constexpr (sizeof(Operand) == 2) {
        unsigned* pairs = &v.x;
#pragma unroll
        for (int j = 0; j < 4; j++) {
          float2 x = Pair<bf16>::unpack(pairs[j]);
          pairs[j] = Pair<Operand>::pack(x.x, x.y);
        }
      }
    }
    *reinterpret_cast<uint4*>(shared + r * Tile::STRIDE + chunk) = v;
  }
}

// Eight cache elements at `from` to shared memory as 16-bit operands; zeros where the position is not `seen`.
template <class T>
__device__ __forceinline__ void stage_chunk(void* to, const T* from, bool seen, const float* scale) {
  if constexpr (sizeof(T) == 2) {
    copy_async(to, from, seen ? 16 : 0);
  } else {
    unsigned pairs[4] = {0, 0, 0, 0};
    if (seen) {
      load_pairs<T, 8>(from, pairs);
      if (scale) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          float2 x = Pair<f16>::unpack(pairs[j]);
          pairs[j] = Pair<f16>::pack(x.x * *scale, x.y * *scale);
        }
      }
    }
    *static_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}

// Keys and values of the positions from `begin` on to a stage; those at or after `end` are zero.
template <class T, int D>
__device__ __forceinline__ void stage_cache(typename CacheElement<T>::Operand* stage, const PrefillParams& params,
                                            const unsigned* table, unsigned kv_head, unsigned begin, unsigned end) {
  using Tile = PrefillTile<D>;
  size_t half = static_cast<size_t>(params.num_blocks) * params.kv_heads * params.block_size;
  const T* cache = static_cast<const T*>(params.cache);
  for (unsigned i = threadIdx.x; i < Tile::POSITIONS * (D / 8); i += PREFILL_THREADS) {
    unsigned r = i / (D / 8), chunk = i % (D / 8) * 8, position = begin + r;
    bool seen = position < end;
    unsigned at = seen ? position : begin;
    size_t place = (static_cast<size_t>(table[at / params.block_size]) * params.kv_heads + kv_head) * params.block_size +
                   at % params.block_size;
    const float* scales = params.cache_scales;
    stage_chunk<T>(stage + r * Tile::STRIDE + chunk, cache + place * D + chunk, seen, scales ? scales + place : nullptr);
    stage_chunk<T>(stage + (Tile::POSITIONS + r) * Tile::STRIDE + chunk, cache + (half + place) * D + chunk, seen,
                   scales ? scales + half + place : nullptr);
  }
  copy_commit();
}

// A warp's running output: fragments of [16 * ROW_TILES, D], and of each of a lane's rows the maximum (in powers of
// two) and this lane's part of the sum.
template <int D>
struct PrefillState {
  static constexpr unsigned TILES = PrefillTile<D>::ROW_TILES;
  float out[TILES][D / 8][4];
  float max[TILES][2], sum[TILES][2];
};

// Scores of the warp's rows against SUBTILE positions, keys in shared memory.
template <class Operand, int D>
__device__ __forceinline__ void score_subtile(float (&s)[PrefillTile<D>::ROW_TILES][SUBTILE / 8][4],
                                              const Operand* queries, const Operand* keys) {
  using Tile = PrefillTile<D>;
  unsigned lane = threadIdx.x % 32;
  const Operand* a_row = queries + lane % 16 * Tile::STRIDE + lane / 16 * 8;
  const Operand* b_row = keys + (lane / 16 * 8 + lane % 8) * Tile::STRIDE + lane / 8 % 2 * 8;
#pragma unroll
  for (unsigned k = 0; k < D; k += 16) {
    unsigned a[Tile::ROW_TILES][4];
#pragma unroll
    for (unsigned m = 0; m < Tile::ROW_TILES; m++) ldmatrix(a[m], a_row + m * 16 * Tile::STRIDE + k);
#pragma unroll
    for (unsigned n = 0; n < SUBTILE / 16; n++) {
      unsigned b[4];
      ldmatrix(b, b_row + n * 16 * Tile::STRIDE + k);
      unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
      for (unsigned m = 0; m < Tile::ROW_TILES; m++) {
        Pair<Operand>::mma(s[m][2 * n], a[m], low);
        Pair<Operand>::mma(s[m][2 * n + 1], a[m], high);
      }
    }
  }
}

// Scale, cap and mask; `position` is that of the subtile's first key.
template <int D>
__device__ __forceinline__ void mask_scores(float (&s)[PrefillTile<D>::ROW_TILES][SUBTILE / 8][4],
                                            const PrefillParams& params, const PrefillRows& rows, unsigned first_row,
                                            unsigned position) {
  unsigned lane = threadIdx.x % 32;
  float scale = params.softmax_scale * params.key_scale;
#pragma unroll
  for (unsigned m = 0; m < PrefillTile<D>::ROW_TILES; m++) {
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
      unsigned own = rows.position(first_row + m * 16 + half * 8 + lane / 4);
      unsigned oldest = params.window > 0 && own + 1 > params.window ? own + 1 - params.window : 0;
#pragma unroll
      for (unsigned n = 0; n < SUBTILE / 8; n++) {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
          unsigned at = position + n * 8 + lane % 4 * 2 + i;
          float x = s[m][n][half * 2 + i] * scale;
          if (params.soft_cap > 0) x = params.soft_cap * tanhf(x / params.soft_cap);
          s[m][n][half * 2 + i] = at <= own && at >= oldest ? x * LOG2_E : -INFINITY;
        }
      }
    }
  }
}

// Scores to weights, with the running maximum and sum; rescales the output where a maximum has grown.
template <int D>
__device__ __forceinline__ void update_softmax(float (&s)[PrefillTile<D>::ROW_TILES][SUBTILE / 8][4],
                                               PrefillState<D>& state) {
#pragma unroll
  for (unsigned m = 0; m < PrefillTile<D>::ROW_TILES; m++) {
    float keep[2];
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
      float most = state.max[m][half];
#pragma unroll
      for (unsigned n = 0; n < SUBTILE / 8; n++) most = fmaxf(most, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]));
      most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
      most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
      // A row that has seen nothing yet must not compute infinity minus infinity.
      float base = most == -INFINITY ? 0.0f : most, sum = 0;
      keep[half] = exp2f(state.max[m][half] - base);
      state.max[m][half] = most;
#pragma unroll
      for (unsigned n = 0; n < SUBTILE / 8; n++) {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
          float x = exp2f(s[m][n][half * 2 + i] - base);
          s[m][n][half * 2 + i] = x;
          sum += x;
        }
      }
      state.sum[m][half] = state.sum[m][half] * keep[half] + sum;
    }
    if (__any_sync(ALL_LANES, keep[0] != 1.0f || keep[1] != 1.0f)) {
#pragma unroll
      for (unsigned n = 0; n < D / 8; n++) {
        state.out[m][n][0] *= keep[0];
        state.out[m][n][1] *= keep[0];
        state.out[m][n][2] *= keep[1];
        state.out[m][n][3] *= keep[1];
      }
    }
  }
}

// Adds weights times values.
template <class Operand, int D>
__device__ __forceinline__ void accumulate_subtile(PrefillState<D>& state,
                                                   const float (&p)[PrefillTile<D>::ROW_TILES][SUBTILE / 8][4],
                                                   const Operand* values) {
  using Tile = PrefillTile<D>;
  unsigned lane = threadIdx.x % 32;
  const Operand* b_row = values + lane % 16 * Tile::STRIDE + lane / 16 * 8;
#pragma unroll
  for (unsigned k = 0; k < SUBTILE / 16; k++) {
    unsigned a[Tile::ROW_TILES][4];
#pragma unroll
    for (unsigned m = 0; m < Tile::ROW_TILES; m++) {
      a[m][0] = Pair<Operand>::pack(p[m][2 * k][0], p[m][2 * k][1]);
      a[m][1] = Pair<Operand>::pack(p[m][2 * k][2], p[m][2 * k][3]);
      a[m][2] = Pair<Operand>::pack(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
      a[m][3] = Pair<Operand>::pack(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
    }
#pragma unroll
    for (unsigned n = 0; n < D / 16; n++) {
      unsigned b[4];
      ldmatrix_transposed(b, b_row + k * 16 * Tile::STRIDE + n * 16);
      unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
      for (unsigned m = 0; m < Tile::ROW_TILES; m++) {
        Pair<Operand>::mma(state.out[m][2 * n], a[m], low);
        Pair<Operand>::mma(state.out[m][2 * n + 1], a[m], high);
      }
    }
  }
}

template <int D>
__device__ __forceinline__ void write_rows(const PrefillParams& params, PrefillState<D>& state,
                                           const PrefillRows& rows, unsigned first_row, unsigned kv_head) {
  unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned m = 0; m < PrefillTile<D>::ROW_TILES; m++) {
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
      float sum = state.sum[m][half];
      sum += __shfl_xor_sync(ALL_LANES, sum, 1);
      sum += __shfl_xor_sync(ALL_LANES, sum, 2);
      unsigned row = first_row + m * 16 + half * 8 + lane / 4;
      if (row >= rows.rows) continue;
      float scale = params.value_scale / sum;
      size_t token = rows.first_token + row / rows.heads_per_kv;
      size_t head = kv_head * rows.heads_per_kv + row % rows.heads_per_kv;
      bf16* out = params.out + (token * params.heads + head) * D + lane % 4 * 2;
#pragma unroll
      for (unsigned n = 0; n < D / 8; n++) {
        const float(&c)[4] = state.out[m][n];
        *reinterpret_cast<unsigned*>(out + n * 8) = Pair<bf16>::pack(c[half * 2] * scale, c[half * 2 + 1] * scale);
      }
    }
  }
}

// Grid: (tiles of the longest sequence, kv_heads, sequences).
template <class T, int D>
__device__ __forceinline__ void attention_prefill(const PrefillParams& params) {
  using Tile = PrefillTile<D>;
  using Operand = typename CacheElement<T>::Operand;
  SHARED_MEMORY(memory);
  Operand* queries = reinterpret_cast<Operand*>(memory);
  Operand* stages = queries + Tile::ROWS * Tile::STRIDE;

  unsigned sequence = params.sequences[blockIdx.z], kv_head = blockIdx.y;
  PrefillRows rows;
  rows.first_token = params.query_start[sequence];
  rows.heads_per_kv = params.heads / params.kv_heads;
  unsigned tokens = params.query_start[sequence + 1] - rows.first_token;
  rows.rows = tokens * rows.heads_per_kv;
  rows.context = params.context_len[sequence];
  rows.first_position = rows.context - tokens;
  // The last tiles see the most positions; they begin first.
  rows.begin = (gridDim.x - 1 - blockIdx.x) * Tile::ROWS;
  if (rows.begin >= rows.rows) return;

  unsigned first = rows.position(rows.begin), end = rows.position(rows.begin + Tile::ROWS - 1) + 1;
  unsigned begin = params.window > 0 && first + 1 > params.window ? first + 1 - params.window : 0;
  begin = begin / Tile::POSITIONS * Tile::POSITIONS;
  const unsigned* table = params.block_table + static_cast<size_t>(sequence) * params.table_stride;

  stage_cache<T, D>(stages, params, table, kv_head, begin, end);
  stage_queries<Operand, D>(queries, params, rows, kv_head);

  unsigned warp_row = threadIdx.x / 32 * Tile::ROW_TILES * 16;
  PrefillState<D> state = {};
#pragma unroll
  for (unsigned m = 0; m < Tile::ROW_TILES; m++) state.max[m][0] = state.max[m][1] = -INFINITY;

  unsigned current = 0;
  for (unsigned position = begin; position < end; position += Tile::POSITIONS, current ^= 1) {
    if (position + Tile::POSITIONS < end) {
      stage_cache<T, D>(stages + (current ^ 1) * Tile::STAGE, params, table, kv_head, position + Tile::POSITIONS, end);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();
    const Operand* keys = stages + current * Tile::STAGE;
    const Operand* values = keys + Tile::POSITIONS * Tile::STRIDE;
#pragma unroll 1
    for (unsigned sub = 0; sub < Tile::POSITIONS; sub += SUBTILE) {
      float s[Tile::ROW_TILES][SUBTILE / 8][4] = {};
      score_subtile<Operand, D>(s, queries + warp_row * Tile::STRIDE, keys + sub * Tile::STRIDE);
      mask_scores<D>(s, params, rows, rows.begin + warp_row, position + sub);
      update_softmax<D>(s, state);
      accumulate_subtile<Operand, D>(state, s, values + sub * Tile::STRIDE);
    }
    // The stage is filled again in the next round.
    __syncthreads();
  }
  write_rows<D>(params, state, rows, rows.begin + warp_row, kv_head);
}

#define PREFILL(type, dim) \
  KERNEL(attention_prefill_##type##_d##dim, PrefillParams, 128, (attention_prefill<type, dim>(params)))
#define PREFILL_DIM(dim) \
  PREFILL(f16, dim)      \
  PREFILL(bf16, dim)     \
  PREFILL(fp8, dim)      \
  PREFILL(int8, dim)

PREFILL_DIM(64)
PREFILL_DIM(80)
PREFILL_DIM(96)
PREFILL_DIM(128)
PREFILL_DIM(256)

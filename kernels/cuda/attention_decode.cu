// Paged attention of one new token a sequence (FlashDecoding): each block takes one piece of a sequence's positions for
// up to eight query heads that share a key/value head; a second kernel combines the pieces.
//
// Keys and values go from global memory straight into tensor-core fragments by 16-byte loads. That works because the
// inner dimension of a product may be taken in any order as long as both sides agree: a lane's 8 consecutive elements
// of a key stand where the fragment wants columns 2t, 2t+1, 2t+8, 2t+9 of two steps, and the query is loaded likewise.
//   scores  S[heads, 16 positions] = Q K^T       heads are the rows of A (8 of 16 used), keys are B
//   output  O^T[dims, heads]      += V^T P^T     values are A, and S in registers already has the layout of B
//
// The pieces have a fixed length, so that a sequence's result does not depend on the others in the batch.
#include "kv_cache.cuh"

struct DecodeParams {
  const bf16* query;               // [tokens, heads, D], rotated
  const void* cache;               // one layer
  const float* cache_scales;       // int8 only
  const unsigned* block_table;     // [sequences, table_stride]
  const unsigned* context_len;     // [sequences], the new token included
  const unsigned* sequences;       // [gridDim.z]: which sequences, in launch order
  const unsigned* query_rows;      // [gridDim.z]: the token of each
  bf16* out;                       // [tokens, heads, D]
  float* partial_out;              // [gridDim.z, heads, splits, D]; unused with one split
  float2* partial_state;           // [gridDim.z, heads, splits]: maximum (in powers of two) and sum
  unsigned heads, kv_heads, num_blocks, block_size, table_stride;
  unsigned splits, split_len;      // split_len is a multiple of 64
  unsigned window;                 // positions a query sees, its own included; 0 = all
  float softmax_scale, soft_cap;   // soft_cap 0 = none
  float key_scale, value_scale;    // 1 unless the cache is e4m3
};

constexpr unsigned DECODE_WARPS = 4;
constexpr unsigned DECODE_HEADS = 8;  // query heads of a block
constexpr unsigned DECODE_STEP = 16;  // positions of a warp's step

// Shared memory: [warps][heads][D + 2] floats: a warp's output, maximum and sum.
template <int D>
struct DecodeState {
  float out[D / 16][4];  // O^T fragments
  float max, sum;        // of head `lane / 4`, maximum in powers of two
};

// Adds Q K^T over the dims from FROM on of the 8 positions whose keys start at `key` (this lane's position).
template <class T, int D, int FROM = 0>
__device__ __forceinline__ void score(float (&s)[4], const unsigned* query, const T* key) {
  using Operand = typename CacheElement<T>::Operand;
  constexpr int CHUNK = chunk_of<T>(D - FROM, 4);
  unsigned k[CHUNK / 2];
  load_pairs<T, CHUNK>(key + FROM + threadIdx.x % 4 * CHUNK, k);
#pragma unroll
  for (int i = 0; i < CHUNK / 4; i++) {
    unsigned a[4] = {query[FROM / 8 + 2 * i], 0, query[FROM / 8 + 2 * i + 1], 0};
    unsigned b[2] = {k[2 * i], k[2 * i + 1]};
    Pair<Operand>::mma(s, a, b);
  }
  if constexpr (FROM + 4 * CHUNK < D) score<T, D, FROM + 4 * CHUNK>(s, query, key);
}

// The query in the order in which `score` takes the keys. Rows beyond the block's heads are zero.
template <class T, int D, int FROM = 0>
__device__ __forceinline__ void load_query(unsigned* query, const bf16* row) {
  using Operand = typename CacheElement<T>::Operand;
  constexpr int CHUNK = chunk_of<T>(D - FROM, 4);
#pragma unroll
  for (int i = 0; i < CHUNK / 2; i++) {
    unsigned pair = 0;
    if (row) {
      float2 v = Pair<bf16>::unpack(
          *reinterpret_cast<const unsigned*>(row + FROM + threadIdx.x % 4 * CHUNK + 2 * i));
      pair = Pair<Operand>::pack(v.x, v.y);
    }
    query[FROM / 8 + i] = pair;
  }
  if constexpr (FROM + 4 * CHUNK < D) load_query<T, D, FROM + 4 * CHUNK>(query, row);
}

// This lane's values of the dims from FROM on: pairs of each of the positions 2t, 2t+1, 2t+8, 2t+9. `values`
// is the step's first position.
template <class T, int D, int FROM = 0>
__device__ __forceinline__ void load_values(unsigned (&v)[4][D / 16], const T* values) {
  constexpr int CHUNK = chunk_of<T>(D - FROM, 8);
  unsigned lane = threadIdx.x % 32, first = lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    unsigned position = first + i % 2 + i / 2 * 8, pairs[CHUNK / 2];
    load_pairs<T, CHUNK>(values + position * D + FROM + lane / 4 * CHUNK, pairs);
#pragma unroll
    for (int j = 0; j < CHUNK / 2; j++) v[i][FROM / 16 + j] = pairs[j];
  }
  if constexpr (FROM + 8 * CHUNK < D) load_values<T, D, FROM + 8 * CHUNK>(v, values);
}

// Adds V^T P^T.
template <class Operand, int D>
__device__ __forceinline__ void accumulate(float (&out)[D / 16][4], const unsigned (&p)[2],
                                           const unsigned (&v)[4][D / 16]) {
#pragma unroll
  for (int j = 0; j < D / 16; j++) {
    unsigned a[4] = {__byte_perm(v[0][j], v[1][j], 0x5410), __byte_perm(v[0][j], v[1][j], 0x7632),
                     __byte_perm(v[2][j], v[3][j], 0x5410), __byte_perm(v[2][j], v[3][j], 0x7632)};
    Pair<Operand>::mma(out[j], a, p);
  }
}

// One step of 16 positions from `position` on, of which those in `begin..end` count.
template <class T, int D>
__device__ __forceinline__ void decode_step(const DecodeParams& params, DecodeState<D>& state, const unsigned* query,
                                            const unsigned* table, unsigned kv_head, unsigned position, unsigned begin,
                                            unsigned end) {
  using Operand = typename CacheElement<T>::Operand;
  unsigned lane = threadIdx.x % 32, group = lane / 4, first = lane % 4 * 2;
  // A page is a multiple of 16 positions, so a step never crosses one.
  unsigned page = table[position / params.block_size];
  size_t place = (static_cast<size_t>(page) * params.kv_heads + kv_head) * params.block_size +
                 position % params.block_size;
  size_t half = static_cast<size_t>(params.num_blocks) * params.kv_heads * params.block_size;
  const T* keys = static_cast<const T*>(params.cache) + place * D;
  const T* values = keys + half * D;

  float s[2][4] = {};
  score<T, D>(s[0], query, keys + group * D);
  score<T, D>(s[1], query, keys + (group + 8) * D);
  // The values are on their way while the scores are worked on, if there are registers for both.
  constexpr bool EARLY = D <= 128;
  unsigned v[4][D / 16];
  if constexpr (EARLY) load_values<T, D>(v, values);

  // This lane's scores: head `group`, positions 2t, 2t+1 (s[0]) and 2t+8, 2t+9 (s[1]).
  unsigned seen = 0;
  float most = state.max;
  float scale = params.softmax_scale * params.key_scale;
  float x[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    unsigned at = first + i % 2 + i / 2 * 8;
    bool counts = position + at >= begin && position + at < end;
    float value = s[i / 2][i % 2] * scale;
    if constexpr (sizeof(int8) == sizeof(T)) {
      if (params.cache_scales && counts) value *= params.cache_scales[place + at];
    }
    if (params.soft_cap > 0) value = params.soft_cap * tanhf(value / params.soft_cap);
    x[i] = counts ? value * LOG2_E : -INFINITY;
    seen |= static_cast<unsigned>(counts) << i;
    most = fmaxf(most, x[i]);
  }
  most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
  most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
  float keep = exp2f(state.max - most), sum = 0;
  state.max = most;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    x[i] = exp2f(x[i] - most);
    sum += x[i];
    if constexpr (sizeof(int8) == sizeof(T)) {
      unsigned at = first + i % 2 + i / 2 * 8;
      if (params.cache_scales && (seen >> i & 1)) x[i] *= params.cache_scales[half + place + at];
    }
  }
  state.sum = state.sum * keep + sum;
  unsigned p[2] = {Pair<Operand>::pack(x[0], x[1]), Pair<Operand>::pack(x[2], x[3])};

  // The output fragments belong to heads 2t and 2t+1, whose factors are in the lanes of those groups.
  float keep_even = __shfl_sync(ALL_LANES, keep, static_cast<int>(first * 4));
  float keep_odd = __shfl_sync(ALL_LANES, keep, static_cast<int>(first * 4 + 4));
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    state.out[i][0] *= keep_even;
    state.out[i][1] *= keep_odd;
    state.out[i][2] *= keep_even;
    state.out[i][3] *= keep_odd;
  }
  if constexpr (!EARLY) load_values<T, D>(v, values);
  // What a page holds beyond the sequence may be anything, a NaN too.
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (seen >> i & 1) continue;
#pragma unroll
    for (int j = 0; j < D / 16; j++) v[i][j] = 0;
  }
  accumulate<Operand, D>(state.out, p, v);
}

// Writes a warp's output to shared memory, [heads][D] in the order of dims.
template <class T, int D, int FROM = 0>
__device__ __forceinline__ void spread(float* rows, const float (&out)[D / 16][4]) {
  constexpr int CHUNK = chunk_of<T>(D - FROM, 8), STRIDE = D + 2;
  unsigned lane = threadIdx.x % 32, head = lane % 4 * 2, dim = FROM + lane / 4 * CHUNK;
#pragma unroll
  for (int j = 0; j < CHUNK / 2; j++) {
    const float(&c)[4] = out[FROM / 16 + j];
    rows[head * STRIDE + dim + 2 * j] = c[0];
    rows[(head + 1) * STRIDE + dim + 2 * j] = c[1];
    rows[head * STRIDE + dim + 2 * j + 1] = c[2];
    rows[(head + 1) * STRIDE + dim + 2 * j + 1] = c[3];
  }
  if constexpr (FROM + 8 * CHUNK < D) spread<T, D, FROM + 8 * CHUNK>(rows, out);
}

// Combines the warps and writes the block's share.
template <int D>
__device__ __forceinline__ void finish(const DecodeParams& params, const float* shared, unsigned first_head,
                                       unsigned heads) {
  constexpr unsigned STRIDE = D + 2, WARP_STRIDE = DECODE_HEADS * STRIDE;
  for (unsigned i = threadIdx.x; i < heads * D; i += blockDim.x) {
    unsigned head = i / D, dim = i % D;
    const float* row = shared + head * STRIDE;
    float most = -INFINITY, sum = 0, out = 0;
    for (unsigned w = 0; w < DECODE_WARPS; w++) most = fmaxf(most, row[w * WARP_STRIDE + D]);
    for (unsigned w = 0; w < DECODE_WARPS; w++) {
      const float* part = row + w * WARP_STRIDE;
      // A warp without a position has maximum -infinity and adds nothing.
      float weight = part[D] == -INFINITY ? 0 : exp2f(part[D] - most);
      sum += part[D + 1] * weight;
      out += part[dim] * weight;
    }
    size_t target = static_cast<size_t>(blockIdx.z) * params.heads + first_head + head;
    if (params.splits == 1) {
      size_t row_out = static_cast<size_t>(params.query_rows[blockIdx.z]) * params.heads + first_head + head;
      params.out[row_out * D + dim] = from_float<bf16>(out / sum * params.value_scale);
    } else {
      size_t piece = target * params.splits + blockIdx.x;
      params.partial_out[piece * D + dim] = out;
      if (dim == 0) params.partial_state[piece] = make_float2(most, sum);
    }
  }
}

// Grid: (splits, kv_heads * ceil(heads per kv_head / 8), sequences).
template <class T, int D>
__device__ __forceinline__ void attention_decode(const DecodeParams& params) {
  SHARED_MEMORY(memory);
  float* shared = reinterpret_cast<float*>(memory);
  unsigned sequence = params.sequences[blockIdx.z], context = params.context_len[sequence];
  unsigned heads_per_kv = params.heads / params.kv_heads;
  unsigned head_groups = (heads_per_kv + DECODE_HEADS - 1) / DECODE_HEADS;
  unsigned kv_head = blockIdx.y / head_groups, from = blockIdx.y % head_groups * DECODE_HEADS;
  unsigned first_head = kv_head * heads_per_kv + from, heads = min(DECODE_HEADS, heads_per_kv - from);
  unsigned split_begin = blockIdx.x * params.split_len, end = min(context, split_begin + params.split_len);
  unsigned window_begin = params.window > 0 && context > params.window ? context - params.window : 0;
  unsigned begin = max(split_begin, window_begin);
  // An empty piece is known from the context alone; the combining kernel does not read it.
  if (begin >= end) return;

  unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4;
  unsigned query[D / 8];
  size_t row = static_cast<size_t>(params.query_rows[blockIdx.z]) * params.heads + first_head + group;
  load_query<T, D>(query, group < heads ? params.query + row * D : nullptr);

  DecodeState<D> state = {};
  state.max = -INFINITY;
  const unsigned* table = params.block_table + static_cast<size_t>(sequence) * params.table_stride;
  unsigned position = begin / DECODE_STEP * DECODE_STEP + warp * DECODE_STEP;
  for (; position < end; position += DECODE_WARPS * DECODE_STEP) {
    decode_step<T, D>(params, state, query, table, kv_head, position, begin, end);
  }

  state.sum += __shfl_xor_sync(ALL_LANES, state.sum, 1);
  state.sum += __shfl_xor_sync(ALL_LANES, state.sum, 2);
  float* rows = shared + warp * DECODE_HEADS * (D + 2);
  spread<T, D>(rows, state.out);
  if (lane % 4 == 0) {
    rows[group * (D + 2) + D] = state.max;
    rows[group * (D + 2) + D + 1] = state.sum;
  }
  __syncthreads();
  finish<D>(params, shared, first_head, heads);
}

// Grid: (heads, sequences); one block of D threads at most 128.
template <int D>
__device__ __forceinline__ void attention_combine(const DecodeParams& params) {
  unsigned head = blockIdx.x, context = params.context_len[params.sequences[blockIdx.y]];
  if (context == 0) return;
  unsigned window_begin = params.window > 0 && context > params.window ? context - params.window : 0;
  unsigned from = window_begin / params.split_len, to = (context + params.split_len - 1) / params.split_len;
  size_t base = (static_cast<size_t>(blockIdx.y) * params.heads + head) * params.splits;
  float most = -INFINITY;
  for (unsigned i = from; i < to; i++) most = fmaxf(most, params.partial_state[base + i].x);
  for (unsigned dim = threadIdx.x; dim < D; dim += blockDim.x) {
    float sum = 0, out = 0;
    for (unsigned i = from; i < to; i++) {
      float2 state = params.partial_state[base + i];
      float weight = exp2f(state.x - most);
      sum += state.y * weight;
      out += params.partial_out[(base + i) * D + dim] * weight;
    }
    size_t row = static_cast<size_t>(params.query_rows[blockIdx.y]) * params.heads + head;
    params.out[row * D + dim] = from_float<bf16>(out / sum * params.value_scale);
  }
}

#define DECODE(type, dim) \
  KERNEL(attention_decode_##type##_d##dim, DecodeParams, 128, (attention_decode<type, dim>(params)))
#define DECODE_DIM(dim)                                                                                    \
  DECODE(f16, dim)                                                                                         \
  DECODE(bf16, dim)                                                                                        \
  DECODE(fp8, dim)                                                                                         \
  DECODE(int8, dim)                                                                                        \
  KERNEL(attention_combine_d##dim, DecodeParams, 128, (attention_combine<dim>(params)))

DECODE_DIM(64)
DECODE_DIM(80)
DECODE_DIM(96)
DECODE_DIM(128)
DECODE_DIM(256)

// The next token of each sequence, chosen on the device: bias and penalties, grammar mask, temperature, min_p, top_k,
// top_p and a seeded draw; and what a log probability report needs.
//
// Order and rules are those of the CPU sampler. Nothing is sorted: top_k, top_p and the draw itself each ask for the
// token at which a running count or mass, from the likeliest on, reaches a target, and that token is found by
// histograms. Masses are integers (the weight in units of 2^-40), so that sums do not depend on any order and a
// sequence's token does not depend on the batch.
#include "device.cuh"

using u64 = unsigned long long;

// One row's settings; the mirror is in sampling.rs.
struct SampleRow {
  u64 seed;
  unsigned draw;         // tokens drawn before
  unsigned greedy;       // take the likeliest
  unsigned top_k;        // 0 = all
  float temperature, top_p, min_p;
  float repetition, presence, frequency;  // penalties
  unsigned adjustments_begin, adjustments_end;
  unsigned logprobs;     // likeliest tokens to report, + 1; 0 = no report
};

// A token whose logit is changed; a row names each at most once.
struct Adjustment {
  unsigned token;
  unsigned generated;    // how often it was generated
  float bias;
  unsigned flags;        // 1: it was seen, in the prompt or the output; 2: it is impossible
};

struct SampleParams {
  float* logits;                  // [gridDim.x, vocab]; changed by the adjustments
  const SampleRow* rows;          // [gridDim.x]
  const Adjustment* adjustments;
  float* raw;                     // as many as adjustments: logits as they were
  const unsigned* masks;          // [gridDim.x, ceil(vocab / 32)]: bit set = allowed; null = everything
  unsigned* tokens;               // [gridDim.x]
  unsigned* status;               // [gridDim.x]: 0, or SAMPLE_NOT_FINITE, SAMPLE_NOTHING
  float* logprobs;                // [gridDim.x, 1 + top_stride]: of the chosen, then of the likeliest
  unsigned* top_tokens;           // [gridDim.x, top_stride]
  unsigned vocab, top_stride;     // vocab <= 2^20
};

constexpr unsigned SAMPLE_NOT_FINITE = 1, SAMPLE_NOTHING = 2;
constexpr unsigned SEEN = 1, IMPOSSIBLE = 2;
constexpr unsigned TOKEN_BITS = 20, BINS = 256;
constexpr float UNITS = 1099511627776.0f;  // 2^40, the weight of the likeliest

// Everything a row's threads share.
struct SampleShared {
  u64 mass[BINS];
  unsigned count[BINS];
  u64 least, most;           // ranks of the tokens still in question
  u64 mass_before;           // mass and count of the tokens before them
  unsigned count_before, bin;
  float scratch[32];
  u64 warp_mass[32];
  u64 best;
  unsigned chosen;
};

// A row's adjusted logits and the scale of its weights.
struct Logits {
  const float* row;
  const unsigned* mask;
  unsigned vocab;
  float max, per_unit;  // per_unit: 1 / temperature

  __device__ __forceinline__ float operator[](unsigned token) const {
    if (mask && !(mask[token / 32] >> token % 32 & 1)) return -INFINITY;
    return row[token];
  }
  __device__ __forceinline__ u64 weight(float logit) const {
    return __float2ull_rn(exp2f((logit - max) * per_unit * LOG2_E) * UNITS);
  }
};

// Tokens in order of likelihood, of equal ones the lower first: a larger rank comes first.
__device__ __forceinline__ u64 rank_of(float logit, unsigned token) {
  // Negative zero is the same logit as zero.
  unsigned bits = __float_as_uint(logit + 0.0f);
  unsigned key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<u64>(key) << TOKEN_BITS | ((1u << TOKEN_BITS) - 1 - token);
}
__device__ __forceinline__ unsigned token_of(u64 rank) {
  return (1u << TOKEN_BITS) - 1 - static_cast<unsigned>(rank & ((1u << TOKEN_BITS) - 1));
}

// A number in [0, 1) for draw `n` of a seed: two rounds of the SplitMix64 finaliser, as in the CPU sampler.
__device__ __forceinline__ u64 mix(u64 x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
__device__ __forceinline__ double uniform(u64 seed, u64 n) {
  const u64 golden = 0x9e3779b97f4a7c15ull;
  u64 bits = mix(mix(seed + golden) + (n + 1) * golden);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

__device__ __forceinline__ u64 warp_sum(u64 x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
  return x;
}

// Largest rank among those that `keep` allows; 0 if none.
template <class Keep>
__device__ __forceinline__ u64 likeliest(SampleShared& shared, const Logits& logits, Keep keep) {
  if (threadIdx.x == 0) shared.best = 0;
  __syncthreads();
  u64 best = 0;
  for (unsigned i = threadIdx.x; i < logits.vocab; i += blockDim.x) {
    u64 rank = rank_of(logits[i], i);
    if (keep(rank) && rank > best) best = rank;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) best = max(best, __shfl_xor_sync(ALL_LANES, best, distance));
  if (threadIdx.x % 32 == 0) atomicMax(&shared.best, best);
  __syncthreads();
  best = shared.best;
  __syncthreads();
  return best;
}

// Mass of the tokens with a logit of at least `floor`.
__device__ __forceinline__ u64 mass_from(SampleShared& shared, const Logits& logits, float floor) {
  u64 sum = 0;
  for (unsigned i = threadIdx.x; i < logits.vocab; i += blockDim.x) {
    float logit = logits[i];
    if (logit >= floor) sum += logits.weight(logit);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) shared.warp_mass[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (unsigned i = 0; i < blockDim.x / 32; i++) sum += shared.warp_mass[i];
  __syncthreads();
  return sum;
}

// Where the running count or mass reaches the target.
struct Reached {
  u64 rank;
  u64 mass;  // of the tokens up to and with that one
};

// The first bin at which the running measure reaches `target`; warp 0, eight bins a lane.
template <bool BY_MASS>
__device__ __forceinline__ void find_bin(SampleShared& shared, u64 target) {
  unsigned lane = threadIdx.x;
  u64 mass = 0, count = 0;
  for (unsigned i = 0; i < BINS / 32; i++) {
    mass += shared.mass[lane * (BINS / 32) + i];
    count += shared.count[lane * (BINS / 32) + i];
  }
  u64 mass_through = mass, count_through = count;
#pragma unroll
  for (unsigned distance = 1; distance < 32; distance *= 2) {
    u64 m = __shfl_up_sync(ALL_LANES, mass_through, distance), c = __shfl_up_sync(ALL_LANES, count_through, distance);
    if (lane >= distance) {
      mass_through += m;
      count_through += c;
    }
  }
  u64 mass_before = shared.mass_before + mass_through - mass;
  u64 count_before = shared.count_before + count_through - count;
  bool here = (BY_MASS ? mass_before + mass : count_before + count) >= target;
  unsigned found = __ffs(static_cast<int>(__ballot_sync(ALL_LANES, here)));
  // Every lane has read what the one lane below changes.
  if (found == 0 || lane != found - 1) return;
  unsigned bin = lane * (BINS / 32);
  while ((BY_MASS ? mass_before + shared.mass[bin] : count_before + shared.count[bin]) < target) {
    mass_before += shared.mass[bin];
    count_before += shared.count[bin];
    bin++;
  }
  shared.bin = bin;
  shared.mass_before = mass_before;
  shared.count_before = static_cast<unsigned>(count_before);
}

// Counts the tokens that `bin_of` puts into a bin (BINS = none), narrows to the bin of the target, and leaves the
// smallest and largest rank in it in `shared`.
template <bool BY_MASS, class BinOf>
__device__ __forceinline__ void narrow(SampleShared& shared, const Logits& logits, u64 target, BinOf bin_of) {
  for (unsigned i = threadIdx.x; i < BINS; i += blockDim.x) {
    shared.mass[i] = 0;
    shared.count[i] = 0;
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < logits.vocab; i += blockDim.x) {
    float logit = logits[i];
    unsigned bin = bin_of(logit, rank_of(logit, i));
    if (bin >= BINS) continue;
    atomicAdd(&shared.count[bin], 1u);
    if (BY_MASS || logit > -INFINITY) atomicAdd(&shared.mass[bin], logits.weight(logit));
  }
  __syncthreads();
  if (threadIdx.x < 32) find_bin<BY_MASS>(shared, target);
  __syncthreads();
  unsigned chosen = shared.bin;
  u64 least = ~0ull, most = 0;
  for (unsigned i = threadIdx.x; i < logits.vocab; i += blockDim.x) {
    float logit = logits[i];
    u64 rank = rank_of(logit, i);
    if (bin_of(logit, rank) != chosen) continue;
    least = min(least, rank);
    most = max(most, rank);
  }
  // `bin_of` may read the old bounds, so they change only now.
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.least = ~0ull;
    shared.most = 0;
  }
  __syncthreads();
  if (most > 0) {
    atomicMin(&shared.least, least);
    atomicMax(&shared.most, most);
  }
  __syncthreads();
}

// The first token, from the likeliest on, at which the running count or mass is at least `target`, which the whole
// vocabulary reaches.
template <bool BY_MASS>
__device__ __forceinline__ Reached reach(SampleShared& shared, const Logits& logits, u64 target) {
  if (threadIdx.x == 0) {
    shared.mass_before = 0;
    shared.count_before = 0;
  }
  // First bins of equal width below the maximum, which spread a vocabulary far better than the bits of a float.
  narrow<BY_MASS>(shared, logits, target, [&](float logit, u64) {
    float below = (logits.max - logit) * logits.per_unit * 8.0f;
    return below < static_cast<float>(BINS - 1) ? static_cast<unsigned>(below) : BINS - 1;
  });
  // Then equal steps of rank among what is left.
  while (shared.least != shared.most) {
    u64 least = shared.least, most = shared.most;
    int bits = 64 - __clzll(static_cast<long long>(most - least)), shift = bits > 8 ? bits - 8 : 0;
    narrow<BY_MASS>(shared, logits, target, [&](float, u64 rank) {
      return rank >= least && rank <= most ? static_cast<unsigned>((most - rank) >> shift) : BINS;
    });
  }
  u64 rank = shared.least;
  u64 mass = shared.mass_before + logits.weight(logits[token_of(rank)]);
  __syncthreads();
  return {rank, mass};
}

// The smallest mass that is at least `share` of `mass`; at least one unit.
__device__ __forceinline__ u64 share_of(u64 mass, float share) {
  u64 part = static_cast<u64>(ceil(static_cast<double>(mass) * static_cast<double>(share)));
  return max(1ull, min(part, mass));
}

// The token, in order of number, at which the mass of those with a logit of at least `floor` exceeds `target`.
__device__ __forceinline__ unsigned draw_in_order(SampleShared& shared, const Logits& logits, float floor, double u) {
  unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  // Each warp takes a run of tokens.
  unsigned run = (logits.vocab + warps - 1) / warps, begin = warp * run, end = min(begin + run, logits.vocab);
  auto weight = [&](unsigned token) {
    float logit = token < end ? logits[token] : -INFINITY;
    return logit >= floor && logit > -INFINITY ? logits.weight(logit) : 0ull;
  };
  u64 mass = 0;
  for (unsigned i = begin + lane; i < end; i += 32) mass += weight(i);
  mass = warp_sum(mass);
  if (lane == 0) shared.warp_mass[warp] = mass;
  __syncthreads();
  u64 before = 0, total = 0;
  for (unsigned i = 0; i < warps; i++) {
    if (i == warp) before = total;
    total += shared.warp_mass[i];
  }
  u64 target = min(static_cast<u64>(static_cast<double>(total) * u), total - 1);
  if (before <= target && target < before + mass) {
    for (unsigned i = begin; i < end; i += 32) {
      u64 through = weight(i + lane);
#pragma unroll
      for (unsigned distance = 1; distance < 32; distance *= 2) {
        u64 other = __shfl_up_sync(ALL_LANES, through, distance);
        if (lane >= distance) through += other;
      }
      unsigned found = __ffs(static_cast<int>(__ballot_sync(ALL_LANES, before + through > target)));
      if (found > 0) {
        if (lane == 0) shared.chosen = i + found - 1;
        break;
      }
      before += __shfl_sync(ALL_LANES, through, 31);
    }
  }
  __syncthreads();
  unsigned token = shared.chosen;
  __syncthreads();
  return token;
}

__device__ __forceinline__ unsigned draw(SampleShared& shared, const Logits& logits, const SampleRow& row) {
  double u = uniform(row.seed, row.draw);
  // The likeliest always stays, whatever rounding does.
  float floor = row.min_p > 0 ? min(logits.max + logf(row.min_p) * row.temperature, logits.max) : -INFINITY;
  bool has_top_k = row.top_k > 0 && row.top_k < logits.vocab, has_top_p = row.top_p < 1.0f;
  if (!has_top_k && !has_top_p) return draw_in_order(shared, logits, floor, u);
  // Every filter keeps a head of the tokens in order of likelihood, so its mass says which.
  u64 kept = has_top_k ? reach<false>(shared, logits, row.top_k).mass : mass_from(shared, logits, -INFINITY);
  if (!has_top_k) kept = reach<true>(shared, logits, share_of(kept, row.top_p)).mass;
  if (row.min_p > 0) kept = min(kept, mass_from(shared, logits, floor));
  if (has_top_k && has_top_p) kept = reach<true>(shared, logits, share_of(kept, row.top_p)).mass;
  u64 target = min(static_cast<u64>(static_cast<double>(kept) * u), kept - 1);
  return token_of(reach<true>(shared, logits, target + 1).rank);
}

// The raw logits' report: log of the sum, and the likeliest tokens. Returns the former.
__device__ __forceinline__ float report(SampleShared& shared, const Logits& raw, const SampleParams& params,
                                        unsigned top) {
  float sum = 0;
  for (unsigned i = threadIdx.x; i < raw.vocab; i += blockDim.x) sum += exp2f((raw[i] - raw.max) * LOG2_E);
  float total = raw.max + logf(block_sum(sum, shared.scratch));
  u64 last = ~0ull;
  for (unsigned n = 0; n < top; n++) {
    last = likeliest(shared, raw, [&](u64 rank) { return rank < last; });
    unsigned token = token_of(last);
    if (threadIdx.x == 0) {
      params.top_tokens[blockIdx.x * params.top_stride + n] = token;
      params.logprobs[blockIdx.x * (params.top_stride + 1) + 1 + n] = raw.row[token] - total;
    }
  }
  return total;
}

// Applies the row's penalties, bias and impossible endings in place; keeps the old values.
__device__ __forceinline__ void adjust(float* logits, const SampleParams& params, const SampleRow& row) {
  for (unsigned i = row.adjustments_begin + threadIdx.x; i < row.adjustments_end; i += blockDim.x) {
    Adjustment change = params.adjustments[i];
    if (change.token >= params.vocab) continue;
    float logit = logits[change.token];
    params.raw[i] = logit;
    if (change.flags & SEEN) {
      logit = logit > 0 ? logit / row.repetition : logit * row.repetition;
      if (change.generated > 0) logit -= row.presence + row.frequency * static_cast<float>(change.generated);
    }
    logits[change.token] = change.flags & IMPOSSIBLE ? -INFINITY : logit + change.bias;
  }
  __syncthreads();
}

// The chosen token's logit before the adjustments.
__device__ __forceinline__ float raw_logit(const SampleParams& params, const SampleRow& row, const float* logits,
                                           unsigned token) {
  for (unsigned i = row.adjustments_begin; i < row.adjustments_end; i++) {
    if (params.adjustments[i].token == token) return params.raw[i];
  }
  return logits[token];
}

// One block a row. Shared memory: a SampleShared.
__device__ __forceinline__ void sample_row(const SampleParams& params) {
  SHARED_MEMORY(memory);
  SampleShared& shared = *reinterpret_cast<SampleShared*>(memory);
  const SampleRow row = params.rows[blockIdx.x];
  float* own = params.logits + static_cast<size_t>(blockIdx.x) * params.vocab;
  Logits logits = {own, nullptr, params.vocab, 0, 1.0f};

  // Checked before bias and penalties, which could hide it.
  float most = -INFINITY;
  bool bad = false;
  for (unsigned i = threadIdx.x; i < params.vocab; i += blockDim.x) {
    bad |= own[i] != own[i] || own[i] == INFINITY;
    most = fmaxf(most, own[i]);
  }
  bad = block_max(bad ? 1.0f : 0.0f, shared.scratch) > 0;
  logits.max = block_max(most, shared.scratch);
  if (bad) {
    if (threadIdx.x == 0) params.status[blockIdx.x] = SAMPLE_NOT_FINITE;
    return;
  }
  float total = row.logprobs > 0 ? report(shared, logits, params, row.logprobs - 1) : 0;
  adjust(own, params, row);

  if (params.masks) logits.mask = params.masks + static_cast<size_t>(blockIdx.x) * ((params.vocab + 31) / 32);
  u64 best = likeliest(shared, logits, [](u64) { return true; });
  unsigned token = token_of(best);
  logits.max = logits[token];
  if (logits.max == -INFINITY) {
    if (threadIdx.x == 0) params.status[blockIdx.x] = SAMPLE_NOTHING;
    return;
  }
  if (!row.greedy) {
    logits.per_unit = 1.0f / row.temperature;
    token = draw(shared, logits, row);
  }
  if (threadIdx.x == 0) {
    params.status[blockIdx.x] = 0;
    params.tokens[blockIdx.x] = token;
    if (row.logprobs > 0) {
      params.logprobs[blockIdx.x * (params.top_stride + 1)] = raw_logit(params, row, own, token) - total;
    }
  }
}

KERNEL(sample, SampleParams, 512, sample_row(params))

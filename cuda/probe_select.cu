// Chooses the probe by residual importance and gathers its positions and mask (paper section 3.1).
// sum_squares (B, S) f32, positions, mask (B, S) u32 -> probe_samples (Bp), probe_slots (Sp), probe_positions, probe_mask
//   (Bp, Sp) u32: n = sqrt(sum_squares), 0 at pads; tokens by sqrt(sum_b n^2), samples by sqrt(sum_s n^2); pads only: -inf.
// Launch: one block of 1024 threads; probe_select_large where max(B, S) > 8192.
// Registers: at most 64. Static shared memory: 9216 bytes. Dynamic shared memory: 4 max(B, S) rounded up to 16, + 16; large: 0
// Bytes: reads 4 B S + 8 B Sp + 9 Bp Sp (default order; norms and masks of kept tokens alone as sectors; large: norms are
//        read five times), writes 4 (Bp + Sp) + 8 Bp Sp. Where all are kept, their norms are not read.
// Bank conflicts: those of neighbouring keys whose digits share a bank in the histogram's atomics.
// Accumulation: f32 with the CPU backend's roundings and order. Over samples ascending; over tokens a warp's 32 sums of the
//        i-th, (i + 32)-th, ... and then a butterfly.
// Test: gpu_ops::probe_select
#include "select.cuh"

constexpr unsigned NONE = 0xffffffffu;

// Which rows a norm is taken over: `count` of `list`, or the first `count`.
struct Rows {
  const unsigned* list;
  int count;
  __device__ __forceinline__ size_t at(int i) const { return list ? list[i] : (unsigned)i; }
};

// n^2 of a cell; the square of the rounded root, as published.
__device__ __forceinline__ float cell(const ProbeSelectArgs& p, size_t sample, size_t token, bool& real) {
  const size_t at = sample * p.tokens + token;
  if (p.mask && !p.mask[at]) return 0.f;
  real = true;
  const float n = __fsqrt_rn(p.sum_squares[at]);
  return __fmul_rn(n, n);
}

__device__ __forceinline__ unsigned norm_key(float sum, bool real) {
  return order_bits(real ? __fsqrt_rn(sum) : __uint_as_float(0xff800000u));
}

template <int UNROLL> __device__ __forceinline__ unsigned token_key(const ProbeSelectArgs& p, int token, const Rows& samples) {
  float sum = 0.f;
  bool real = false;
#pragma unroll UNROLL
  for (int i = 0; i < samples.count; i++) sum += cell(p, samples.at(i), token, real);
  return norm_key(sum, real);
}

// For a whole warp; every lane has the key.
template <int UNROLL> __device__ __forceinline__ unsigned sample_key(const ProbeSelectArgs& p, int sample, const Rows& tokens) {
  float sum = 0.f;
  bool real = false;
#pragma unroll UNROLL
  for (int i = threadIdx.x & 31; i < tokens.count; i += 32) sum += cell(p, sample, tokens.at(i), real);
  return norm_key(warp_sum(sum), __any_sync(FULL_WARP, real));
}

// One of the two choices, of tokens or of samples: norms over the rows of the other.
struct Choice {
  bool tokens;
  int n, k;
  Rows over;
  unsigned* out;
};

// A key for each lane; for whole warps.
__device__ __forceinline__ unsigned lanes_key(const ProbeSelectArgs& p, const Choice& choice, int i) {
  if (choice.tokens) return i < choice.n ? token_key<1>(p, i, choice.over) : NO_KEY;
  unsigned mine = NO_KEY;
#pragma unroll 1
  for (int lane = 0; lane < 32; lane++) {
    const int sample = __shfl_sync(FULL_WARP, i, lane);
    const unsigned key = sample < choice.n ? sample_key<1>(p, sample, choice.over) : NO_KEY;
    if (lane == (threadIdx.x & 31)) mine = key;
  }
  return mine;
}

// Keys into shared memory, NO_KEY behind them.
__device__ __forceinline__ void stage_keys(const ProbeSelectArgs& p, const Choice& choice, unsigned* staged) {
  const int tid = threadIdx.x, n = choice.n;
  if (choice.tokens) {
    for (int t = tid; t < n; t += SELECT_THREADS) staged[t] = token_key<4>(p, t, choice.over);
  } else {
    for (int b = tid >> 5; b < n; b += SELECT_WARPS) {
      const unsigned key = sample_key<4>(p, b, choice.over);
      if ((tid & 31) == 0) staged[b] = key;
    }
  }
  if (n + tid < (n + 3) / 4 * 4) staged[n + tid] = NO_KEY;
}

// The first slot that is a token in some sample, 0 if there is none.
__device__ __forceinline__ unsigned first_real(const ProbeSelectArgs& p, const Rows& samples, unsigned* first) {
  if (!p.mask) return 0;
  unsigned mine = NONE;
  for (int t = threadIdx.x; t < p.tokens && mine == NONE; t += SELECT_THREADS)
    for (int i = 0; i < samples.count; i++)
      if (p.mask[samples.at(i) * p.tokens + t]) mine = t;
  mine = __reduce_min_sync(FULL_WARP, mine);
  if ((threadIdx.x & 31) == 0) atomicMin(first, mine);
  __syncthreads();
  return *first == NONE ? 0u : *first;
}

// STAGED: keys fit into shared memory; otherwise they are computed each time they are needed.
template <bool STAGED>
__device__ __forceinline__ void choose(const ProbeSelectArgs& p, const Choice& choice, unsigned* staged, SelectScratch& s,
                                       unsigned* first) {
  const int tid = threadIdx.x, n = choice.n;
  if (choice.k == n) {
    for (int i = tid; i < n; i += SELECT_THREADS) choice.out[i] = i;
    return;
  }
  const unsigned lead = choice.tokens && p.keep_leading_slot ? first_real(p, choice.over, first) : NONE;
  const auto emit = [&](unsigned at, unsigned i) { choice.out[at] = at == 0 ? min(i, lead) : i; };
  if (STAGED) {
    stage_keys(p, choice, staged);
    __syncthreads();
    if (n <= SELECT_FEW) {
      select_few(staged, n, choice.k, s.before, [&](unsigned at) { emit(at, tid); });
      return;
    }
  }
  const auto keys =
      looked_up_keys<1, !STAGED>([&](int i) { return STAGED ? staged[i] : lanes_key(p, choice, i); }, n);
  select_largest(keys, choice.k, s, [&](unsigned at, int j) { emit(at, keys.share.first + 32 * j); });
}

template <bool STAGED> __device__ __forceinline__ void probe_select(const ProbeSelectArgs& p) {
  unsigned* staged = nullptr;
  if (STAGED) {
    DYNAMIC_SHARED(shared);
    staged = shared.take<unsigned>((max(p.samples, p.tokens) + 3) / 4 * 4);
  }
  __shared__ SelectScratch s;
  __shared__ unsigned first;
  clear_bins(s);
  if (threadIdx.x == 0) first = NONE;
  __syncthreads();
#pragma unroll 1
  for (int second = 0; second < 2; second++) {
    Choice choice;
    if (second != p.tokens_first) {
      const Rows over = second ? Rows{p.probe_samples, p.kept_samples} : Rows{nullptr, p.samples};
      choice = {true, p.tokens, p.kept_tokens, over, p.probe_slots};
    } else {
      const Rows over = second ? Rows{p.probe_slots, p.kept_tokens} : Rows{nullptr, p.tokens};
      choice = {false, p.samples, p.kept_samples, over, p.probe_samples};
    }
    choose<STAGED>(p, choice, staged, s, &first);
    __syncthreads();
  }
  for (int row = threadIdx.x; row < p.kept_samples * p.kept_tokens; row += SELECT_THREADS) {
    const size_t sample = p.probe_samples[row / p.kept_tokens], slot = p.probe_slots[row % p.kept_tokens];
    const size_t from = sample * p.tokens + slot;
    p.probe_positions[row] = p.positions[from];
    p.probe_mask[row] = p.mask ? p.mask[from] : 1u;
  }
}

extern "C" __global__ void __launch_bounds__(SELECT_THREADS, 1) probe_select(ProbeSelectArgs p) { probe_select<true>(p); }
extern "C" __global__ void __launch_bounds__(SELECT_THREADS, 1) probe_select_large(ProbeSelectArgs p) {
  probe_select<false>(p);
}

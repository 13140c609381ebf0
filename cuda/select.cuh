// The k largest of n values by one block, as ascending indices; of equal values the lower indices are kept.
#pragma once
#include "device.cuh"

constexpr int SELECT_THREADS = 1024;
constexpr int SELECT_WARPS = SELECT_THREADS / 32;
constexpr int SELECT_BINS = 2 * SELECT_THREADS;  // 11 bits of a key at a time
constexpr int SELECT_FEW = 256;                  // up to here every value is compared with every other

struct alignas(16) SelectScratch {
  unsigned bins[SELECT_BINS];  // all 0 before and after a selection
  unsigned before[SELECT_WARPS], equal[SELECT_WARPS];
  unsigned digit, need;
};

// Bits that order as the values do, the largest value first. -0 and 0 are a tie; NaN counts as -inf. NO_KEY comes last.
constexpr unsigned NO_KEY = 0xffffffffu;
__device__ __forceinline__ unsigned order_bits_of_number(float x) {
  const int bits = __float_as_int(x + 0.f);
  return bits ^ (~(bits >> 31) & 0x7fffffff);
}
__device__ __forceinline__ unsigned order_bits(float x) {
  return order_bits_of_number(x == x ? x : __uint_as_float(0xff800000u));
}

// Of n values warp w has 32 * items neighbours: lane l those at first + 32 j, j < items. So a warp's loads are coalesced
// and its kept ones follow those of the warps before it.
struct Share {
  int items, first;
  __device__ __forceinline__ explicit Share(int each)
      : items(each), first((threadIdx.x & ~31) * items + (threadIdx.x & 31)) {}
  static __device__ __forceinline__ Share of(int n) { return Share((n + SELECT_THREADS - 1) / SELECT_THREADS); }
};

// Keys that stay in registers.
template <int ITEMS> struct RegisterKeys {
  static constexpr int UNROLL = 3;
  unsigned key[ITEMS];
  template <class F> __device__ __forceinline__ void each(F f) const {
#pragma unroll
    for (int j = 0; j < ITEMS; j++) f(key[j], j);
  }
};

// Keys that are looked up each time they are needed, BATCH at a time: `of(i)` for index i < n, else NO_KEY. Where whole
// warps look up together (TOGETHER), `of` is called for every i, and has to give NO_KEY itself.
template <int BATCH, bool TOGETHER, class Of> struct LookedUpKeys {
  static constexpr int UNROLL = 1;
  Of of;
  Share share;
  int n;
  template <class F> __device__ __forceinline__ void each(F f) const {
#pragma unroll 1
    for (int j = 0; j < share.items; j += BATCH) {
      unsigned key[BATCH];
#pragma unroll
      for (int b = 0; b < BATCH; b++) {
        const int i = share.first + 32 * (j + b);
        key[b] = TOGETHER || (i < n && j + b < share.items) ? of(i) : NO_KEY;
      }
#pragma unroll
      for (int b = 0; b < BATCH; b++)
        if (BATCH == 1 || j + b < share.items) f(key[b], j + b);
    }
  }
};
template <int BATCH, bool TOGETHER, class Of>
__device__ __forceinline__ LookedUpKeys<BATCH, TOGETHER, Of> looked_up_keys(Of of, int n) {
  return LookedUpKeys<BATCH, TOGETHER, Of>{of, Share::of(n), n};
}

// Clears the bins for `select_largest`; a barrier must follow.
__device__ __forceinline__ void clear_bins(SelectScratch& s) {
  reinterpret_cast<uint2*>(s.bins)[threadIdx.x] = make_uint2(0, 0);
}

// Calls emit(position, j) for those of this thread's keys that are among the k largest, 1 <= k <= n.
template <class Keys, class Emit>
__device__ __forceinline__ void select_largest(const Keys& keys, unsigned k, SelectScratch& s, Emit emit) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  // Radix select: after each pass the k-th largest key's upper bits are known, and how many of its equals are needed.
  unsigned threshold = 0, need = k;
#pragma unroll Keys::UNROLL
  for (int pass = 0; pass < 3; pass++) {
    const int bits = pass < 2 ? 11 : 10, shift = pass == 0 ? 21 : pass == 1 ? 10 : 0;
    const unsigned known = pass == 0 ? 0u : threshold << (shift + bits), left = pass == 0 ? ~0u : (1u << (shift + bits)) - 1;
    keys.each([&](unsigned key, int) {
      const unsigned rest = key ^ known;
      if (rest <= left) atomicAdd(&s.bins[rest >> shift], 1u);
    });
    __syncthreads();
    uint2* mine = reinterpret_cast<uint2*>(s.bins) + threadIdx.x;
    const uint2 count = *mine;
    *mine = make_uint2(0, 0);
    const unsigned total = __reduce_add_sync(FULL_WARP, count.x + count.y);
    if (lane == 0) s.before[warp] = total;
    __syncthreads();
    unsigned before = __reduce_add_sync(FULL_WARP, lane < warp ? s.before[lane] : 0u);
    if (before < need && need <= before + total) {  // one warp's bins hold the k-th largest
      unsigned up_to = count.x + count.y;
#pragma unroll
      for (int d = 1; d < 32; d <<= 1) {
        const unsigned other = __shfl_up_sync(FULL_WARP, up_to, d);
        if (lane >= d) up_to += other;
      }
      before += up_to - count.x - count.y;
      if (before < need && need <= before + count.x + count.y) {
        const bool second = need > before + count.x;
        s.digit = 2 * threadIdx.x + second;
        s.need = need - before - (second ? count.x : 0u);
      }
    }
    __syncthreads();
    threshold = threshold << bits | s.digit;
    need = s.need;
  }
  // Every key before the threshold is kept, and of those that equal it the first `need`.
  unsigned before = 0, equal = 0;
  keys.each([&](unsigned key, int) { before += key < threshold, equal += key == threshold; });
  before = __reduce_add_sync(FULL_WARP, before);
  const unsigned own = __reduce_add_sync(FULL_WARP, equal);
  if (lane == 0) s.before[warp] = before, s.equal[warp] = own;
  __syncthreads();
  before = __reduce_add_sync(FULL_WARP, lane < warp ? s.before[lane] : 0u);
  equal = __reduce_add_sync(FULL_WARP, lane < warp ? s.equal[lane] : 0u);
  unsigned position = before + min(equal, need);
  unsigned take = min(need - min(equal, need), own);  // of this warp's equal ones
  const bool some = take > 0 && take < own;           // in one warp at most
  const unsigned bound = threshold + (take > 0 && !some);
  const unsigned lower = (1u << lane) - 1;
  keys.each([&](unsigned key, int j) {
    bool kept = key < bound;
    if (some) {
      const unsigned same = __ballot_sync(FULL_WARP, key == threshold);
      kept = kept || (key == threshold && __popc(same & lower) < take);
      take -= min(take, __popc(same));
    }
    const unsigned all = __ballot_sync(FULL_WARP, kept);
    if (kept) emit(position + __popc(all & lower), j);
    position += __popc(all);
  });
}

// The same for n <= SELECT_FEW keys in shared memory, padded with NO_KEY to a multiple of 4: every thread of at
// least n compares one key with all. `totals` is shared, a word per warp.
template <class Emit>
__device__ __forceinline__ void select_few(const unsigned* keys, int n, unsigned k, unsigned* totals, Emit emit) {
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  bool kept = false;
  if (tid < n) {
    const unsigned key = keys[tid];
    unsigned ahead = 0;
    for (int i = 0; i < n; i += 4) {
      const uint4 other = *reinterpret_cast<const uint4*>(keys + i);
      // Of equal keys the one with the lower index comes first.
      ahead += (other.x < key + (i < tid)) + (other.y < key + (i + 1 < tid)) + (other.z < key + (i + 2 < tid)) +
               (other.w < key + (i + 3 < tid));
    }
    kept = ahead < k;
  }
  const unsigned ballot = __ballot_sync(FULL_WARP, kept);
  if (lane == 0) totals[warp] = __popc(ballot);
  __syncthreads();
  unsigned position = __popc(ballot & ((1u << lane) - 1));
  for (int w = 0; w < warp && 32 * w < n; w++) position += totals[w];
  if (kept) emit(position);
}

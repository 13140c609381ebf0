// The k largest of n values by one block, as ascending indices; of equal values the lower indices are kept.
#pragma once
#include "device.cuh"

constexpr int SELECT_THREADS = 1024;
constexpr int SELECT_WARPS = SELECT_THREADS / 32;
constexpr int SELECT_BINS = 2 * SELECT_THREADS;  // 11 bits of a key at a time
constexpr int SELECT_FEW = 256;                  // up to here every value is compared with every other

struct alignas(16) SelectScratch {
  unsigned bins[SELECT_BINS];  // all 0 before and after a selection
  unsigned above[SELECT_WARPS], equal[SELECT_WARPS];
  unsigned digit, need;
};

// Bits that order as the values do. -0 and 0 are a tie; NaN counts as -inf. Never 0: that is the key of no value.
__device__ __forceinline__ unsigned order_bits(float x) {
  const unsigned bits = __float_as_uint(x == x ? x + 0.f : __uint_as_float(0xff800000u));
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// Of n values warp w has 32 * items neighbours: lane l those at first + 32 j, j < items. So a warp's loads are coalesced
// and its kept ones follow those of the warps before it.
struct Share {
  int items, first;
  __device__ __forceinline__ explicit Share(int n)
      : items((n + SELECT_THREADS - 1) / SELECT_THREADS), first((threadIdx.x & ~31) * items + (threadIdx.x & 31)) {}
};

// Keys that stay in registers; `items` of them count.
template <int MOST> struct RegisterKeys {
  unsigned key[MOST];
  int items;
  template <class F> __device__ __forceinline__ void each(F f) const {
#pragma unroll
    for (int j = 0; j < MOST; j++)
      if (j < items) f(key[j], j);
  }
};

// Keys that are read or computed each time they are needed, BATCH at a time: `of(i)` for index i, called by whole warps;
// -1 is no index.
template <int BATCH, class Of> struct ComputedKeys {
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
        key[b] = of(j + b < share.items && i < n ? i : -1);
      }
#pragma unroll
      for (int b = 0; b < BATCH; b++)
        if (j + b < share.items) f(key[b], j + b);
    }
  }
};
template <int BATCH, class Of> __device__ __forceinline__ ComputedKeys<BATCH, Of> computed_keys(Of of, int n) {
  return ComputedKeys<BATCH, Of>{of, Share(n), n};
}

// Clears what `select_largest` needs cleared; a barrier has to follow.
__device__ __forceinline__ void clear_bins(SelectScratch& s) {
  reinterpret_cast<uint2*>(s.bins)[threadIdx.x] = make_uint2(0, 0);
}

// Calls emit(position, j) for those of this thread's keys that are among the k largest, 1 <= k <= n.
template <class Keys, class Emit>
__device__ __forceinline__ void select_largest(const Keys& keys, unsigned k, SelectScratch& s, Emit emit) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  // Radix select: after each pass the k-th largest key's upper bits are known, and how many are needed among its likes.
  unsigned threshold = 0, need = k;
#pragma unroll 1
  for (int pass = 0; pass < 3; pass++) {
    const int bits = pass < 2 ? 11 : 10, shift = pass == 0 ? 21 : pass == 1 ? 10 : 0;
    keys.each([&](unsigned key, int) {
      // Bins from the highest digit down, so that sums before a bin count what is larger.
      if (pass == 0 || key >> (shift + bits) == threshold)
        atomicAdd(&s.bins[SELECT_BINS - 1 - (key >> shift & ((1u << bits) - 1))], 1u);
    });
    __syncthreads();
    uint2* mine = reinterpret_cast<uint2*>(s.bins) + threadIdx.x;
    const uint2 count = *mine;
    *mine = make_uint2(0, 0);
    const unsigned total = __reduce_add_sync(FULL_WARP, count.x + count.y);
    if (lane == 0) s.above[warp] = total;
    __syncthreads();
    unsigned before = __reduce_add_sync(FULL_WARP, lane < warp ? s.above[lane] : 0u);
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
        s.digit = SELECT_BINS - 1 - 2 * threadIdx.x - second;
        s.need = need - before - (second ? count.x : 0u);
      }
    }
    __syncthreads();
    threshold = threshold << bits | s.digit;
    need = s.need;
  }
  // Every key above the threshold is kept, and of those that equal it the first `need`.
  unsigned above = 0, equal = 0;
  keys.each([&](unsigned key, int) { above += key > threshold, equal += key == threshold; });
  above = __reduce_add_sync(FULL_WARP, above);
  equal = __reduce_add_sync(FULL_WARP, equal);
  if (lane == 0) s.above[warp] = above, s.equal[warp] = equal;
  __syncthreads();
  above = __reduce_add_sync(FULL_WARP, lane < warp ? s.above[lane] : 0u);
  equal = __reduce_add_sync(FULL_WARP, lane < warp ? s.equal[lane] : 0u);
  const unsigned lower = (1u << lane) - 1;
  keys.each([&](unsigned key, int j) {
    const unsigned higher = __ballot_sync(FULL_WARP, key > threshold), same = __ballot_sync(FULL_WARP, key == threshold);
    const unsigned rank = equal + __popc(same & lower);
    if (key > threshold || (key == threshold && rank < need))
      emit(above + __popc(higher & lower) + min(rank, need), j);
    above += __popc(higher);
    equal += __popc(same);
  });
}

// The same for n <= SELECT_FEW keys in shared memory, behind which lie zeros up to a multiple of 4: every thread of at
// least n compares one key with all. `totals` is shared, a word per warp.
template <class Emit>
__device__ __forceinline__ void select_few(const unsigned* keys, int n, unsigned k, unsigned* totals, Emit emit) {
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  bool kept = false;
  if (tid < n) {
    const unsigned key = keys[tid];
    unsigned larger = 0;
    for (int i = 0; i < n; i += 4) {
      const uint4 other = *reinterpret_cast<const uint4*>(keys + i);
      // Before this one an equal key comes first too.
      larger += (other.x > key - (i < tid)) + (other.y > key - (i + 1 < tid)) + (other.z > key - (i + 2 < tid)) +
                (other.w > key - (i + 3 < tid));
    }
    kept = larger < k;
  }
  const unsigned ballot = __ballot_sync(FULL_WARP, kept);
  if (lane == 0) totals[warp] = __popc(ballot);
  __syncthreads();
  unsigned position = __popc(ballot & ((1u << lane) - 1));
  for (int w = 0; w < warp && 32 * w < n; w++) position += totals[w];
  if (kept) emit(position);
}

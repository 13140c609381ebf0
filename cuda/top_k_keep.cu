// Which heads or channels are kept: the k highest scores, ascending, ties to the lower index (paper section 3.3).
// scores (n) f32 -> kept (k) u32; a score that is not finite writes tag to fault (1) u32 if that is 0.
// Launch: one block; n rounded up to 32 threads for n <= 256, else 1024.
// Registers: at most 64. Static shared memory: 9520 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 n (n > 24576: 24 n, five sixths of it from L1), writes 4 k
// Bank conflicts: those of neighbouring values whose digits share a bank in the histogram's atomics.
// Accumulation: counts are integers.
// Test: gpu_ops::top_k
#include "select.cuh"

// Up to 1024 * ITEMS scores are held in registers, so that they are read once.
template <int ITEMS> __device__ __forceinline__ bool keep(const TopKKeepArgs& p, SelectScratch& s) {
  const Share share(ITEMS);
  float score[ITEMS];
#pragma unroll
  for (int j = 0; j < ITEMS; j++) score[j] = share.first + 32 * j < p.of ? p.scores[share.first + 32 * j] : 0.f;
  RegisterKeys<ITEMS> keys;
  unsigned largest = 0;  // of the absolute values' bits: infinity and NaN lie above every number
#pragma unroll
  for (int j = 0; j < ITEMS; j++) {
    largest = max(largest, __float_as_uint(score[j]) & 0x7fffffffu);
    keys.key[j] = share.first + 32 * j < p.of ? order_bits_of_number(score[j]) : NO_KEY;
  }
  if (largest > 0x7f800000u) {
#pragma unroll
    for (int j = 0; j < ITEMS; j++)
      if (score[j] != score[j]) keys.key[j] = order_bits(score[j]);
  }
  select_largest(keys, p.k, s, [&](unsigned at, int j) { p.kept[at] = share.first + 32 * j; });
  return largest < 0x7f800000u;
}

__device__ __forceinline__ bool keep_many(const TopKKeepArgs& p, SelectScratch& s) {
  unsigned largest = 0;
  for (int i = threadIdx.x; i < p.of; i += SELECT_THREADS)
    largest = max(largest, __float_as_uint(p.scores[i]) & 0x7fffffffu);
  const auto keys = looked_up_keys<4, false>([&](int i) { return order_bits(p.scores[i]); }, p.of);
  select_largest(keys, p.k, s, [&](unsigned at, int j) { p.kept[at] = keys.share.first + 32 * j; });
  return largest < 0x7f800000u;
}

__device__ __forceinline__ bool keep_few(const TopKKeepArgs& p) {
  __shared__ alignas(16) unsigned keys[SELECT_FEW];
  __shared__ unsigned totals[SELECT_FEW / 32];
  const int i = threadIdx.x;
  const float score = i < p.of ? p.scores[i] : 0.f;
  keys[i] = i < p.of ? order_bits(score) : NO_KEY;
  __syncthreads();
  select_few(keys, p.of, p.k, totals, [&](unsigned at) { p.kept[at] = i; });
  return (__float_as_uint(score) & 0x7f800000u) != 0x7f800000u;
}

extern "C" __global__ void __launch_bounds__(SELECT_THREADS) top_k_keep(TopKKeepArgs p) {
  bool finite;
  if (p.of <= SELECT_FEW) {
    finite = keep_few(p);
  } else {
    __shared__ SelectScratch s;
    clear_bins(s);
    __syncthreads();
    const int items = (p.of + SELECT_THREADS - 1) / SELECT_THREADS;
    if (items <= 4) finite = keep<4>(p, s);
    else if (items <= 8) finite = keep<8>(p, s);
    else if (items <= 12) finite = keep<12>(p, s);
    else if (items <= 16) finite = keep<16>(p, s);
    else if (items <= 24) finite = keep<24>(p, s);
    else finite = keep_many(p, s);
  }
  if (!finite) atomicCAS(p.fault, 0u, p.tag);
}

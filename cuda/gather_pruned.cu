// The pruned blocks, and the pruned columns of a few rows (compensation of pruned channels: ours).
// kept (k) u32 ascending blocks of block_width channels, coefficients (r, C) f32 or null, mean (C) f32 -> pruned
//   (C / block_width - k) u32 ascending, out (r + 1, P) element, P = C - k block_width: the pruned columns of coefficients
//   and, in the last row, of mean.
// Launch: ceil(C / 256) blocks of 256 threads.
// Registers: at most 40. Static shared memory: 320 bytes. Dynamic shared memory: 0.
// Bytes: reads ceil(C / 256) 4 k + 4 (r + 1) P, writes 4 (C / block_width - k) + 2 (r + 1) P
// Bank conflicts: none.
// Accumulation: none; positions are integers.
// Test: gpu_ops::compensation
#include "device.cuh"

constexpr int THREADS = 256;

template <class T> __device__ __forceinline__ void gather_pruned(const GatherPrunedArgs& p) {
  __shared__ unsigned char kept_here[THREADS];  // of the blocks that this thread block's channels lie in
  __shared__ int before[THREADS / 32];
  __shared__ unsigned bits[THREADS / 32];  // the same as bits
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, c = blockIdx.x * THREADS + tid;
  const int first = blockIdx.x * THREADS / p.block_width, unit = c / p.block_width;
  kept_here[tid] = 0;
  __syncthreads();
  int below = 0;
  for (int i = tid; i < p.count; i += THREADS) {
    const int at = (int)p.kept[i] - first;
    below += at < 0;
    if (at >= 0 && at < THREADS) kept_here[at] = 1;
  }
  below = __reduce_add_sync(FULL_WARP, below);
  if (lane == 0) before[warp] = below;
  __syncthreads();
  const unsigned ballot = __ballot_sync(FULL_WARP, kept_here[tid]);
  if (lane == 0) bits[warp] = ballot;
  __syncthreads();
  const int own = unit - first;
  const unsigned own_bit = 1u << own % 32;
  if (c >= p.channels || bits[own / 32] & own_bit) return;
  int kept = __popc(bits[own / 32] & (own_bit - 1));  // those before this one
#pragma unroll
  for (int w = 0; w < THREADS / 32; w++) kept += before[w] + (w < own / 32 ? __popc(bits[w]) : 0);
  const int at = (unit - kept) * p.block_width + c % p.block_width, pruned = p.channels - p.count * p.block_width;
  if (c % p.block_width == 0) p.pruned[unit - kept] = unit;
  T* out = (T*)p.out + at;
#pragma unroll 4
  for (int r = 0; r < p.rank; r++) out[(size_t)r * pruned] = round_to(T{}, p.coefficients[(size_t)r * p.channels + c]);
  out[(size_t)p.rank * pruned] = round_to(T{}, p.mean[c]);
}

extern "C" __global__ void __launch_bounds__(THREADS) gather_pruned_bf16(GatherPrunedArgs p) { gather_pruned<bf16>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) gather_pruned_f16(GatherPrunedArgs p) { gather_pruned<f16>(p); }

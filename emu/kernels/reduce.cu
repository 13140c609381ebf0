// Sum of n floats: each block sums a slice, the last block to finish sums the partial sums.
// out = sum x. Accumulates in f32; order: strided over the slice per thread, tree over lanes, tree over warps, then the
// partial sums strided over one warp and a tree over its lanes: the same bits for the same n and launch.
// Launch: any grid, 256 threads; dynamic shared memory 148 bytes. Moves 4 n + 12 gridDim.x bytes and 8 bytes per block.
// Test: kernels::reduce
#include "args.h"
#include "primitives.cuh"

#ifndef BUG
#define BUG 0
#endif
// 1 no barrier, 2 shared out of bounds, 3 uninitialised read, 4 blocks write one place, 5 global out of bounds,
// 6 barrier in divergent code, 7 no release fence, 8 no acquire fence

__device__ __forceinline__ float warp_sum(float v) {
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}

extern "C" __global__ void __launch_bounds__(256) reduce(ReduceArgs p) {
  DYNAMIC_SHARED(shared);
  float* part = shared.take<float>(32);
  unsigned* last = shared.take<unsigned>(1);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, warps = blockDim.x >> 5;
  const int per = (p.n + gridDim.x - 1) / gridDim.x, lo = blockIdx.x * per;
  const int hi = BUG == 5 ? lo + per : min(p.n, lo + per);
  float s = 0.f;
#pragma unroll 1
  for (int i = lo + tid; i < hi; i += blockDim.x) s += p.x[i];
  s = warp_sum(s);
  if (BUG == 6 && tid < 48) __syncthreads();
  if (lane == 0) part[warp + (BUG == 2 ? 32 : 0)] = s;
  if (BUG != 1) __syncthreads();
  if (warp == 0) {
    float t = lane < warps || BUG == 3 ? part[lane] : 0.f;
    t = warp_sum(t);
    if (lane == 0) {
      p.partial[BUG == 4 ? 0 : blockIdx.x] = t;
      if (BUG != 7) __threadfence();
      *last = atomicAdd(p.counter, 1u) == gridDim.x - 1;
      if (BUG != 8) __threadfence();
    }
  }
  __syncthreads();
  if (*last && warp == 0) {
    float t = 0.f;
#pragma unroll 1
    for (int i = lane; i < gridDim.x; i += 32) t += p.partial[i];
    t = warp_sum(t);
    if (lane == 0) {
      p.out[0] = t;
      *p.counter = 0;
    }
  }
}

// Sum of 32 floats through shared memory, one warp. BUG 9 relies on lanes running in step.
extern "C" __global__ void warp_sum_shared(WarpSumArgs p) {
  DYNAMIC_SHARED(shared);
  float* b = shared.take<float>(32);
  const int l = threadIdx.x;
  b[l] = p.x[l];
  __syncwarp();
  for (int d = 16; d; d >>= 1) {
    float t = l < d ? b[l + d] : 0.f;
    if (BUG != 9) __syncwarp();
    if (l < d) b[l] += t;
    if (BUG != 9) __syncwarp();
  }
  if (l == 0) p.out[0] = b[0];
}

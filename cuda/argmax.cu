// Greedy sampling: the index of each row's largest value; the lowest index of equal ones.
// x (T, V) f32 -> out (T) u32; 0xffffffff where a value of the row is not finite
// Launch: T blocks of 1024 threads.
// Registers: at most 32. Static shared memory: 256 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 T V, writes 4 T
// Bank conflicts: none.
// Accumulation: none; comparisons only, so the order does not matter.
// Test: gpu_ops::argmax
#include "device.cuh"

constexpr int THREADS = 1024;
constexpr unsigned NONE = 0xffffffffu;

struct Best { float value; unsigned index; };

__device__ __forceinline__ Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

__device__ __forceinline__ Best warp_best(Best best) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1)
    best = better(best, {__shfl_xor_sync(FULL_WARP, best.value, d), __shfl_xor_sync(FULL_WARP, best.index, d)});
  return best;
}

extern "C" __global__ void __launch_bounds__(THREADS) argmax(ArgmaxArgs p) {
  __shared__ float values[THREADS / 32];
  __shared__ unsigned indices[THREADS / 32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const float* x = p.x + (size_t)blockIdx.x * p.vocab_size;
  Best best = {-INFINITY, NONE};
  bool finite = true;
  for (int i = threadIdx.x; i < p.vocab_size; i += THREADS) {
    const float v = x[i];
    finite = finite && fabsf(v) < INFINITY;
    best = better(best, {v, (unsigned)i});
  }
  best = warp_best(best);
  if (lane == 0) {
    values[warp] = best.value;
    indices[warp] = best.index;
  }
  finite = __syncthreads_and(finite);
  if (warp == 0) {
    best = warp_best({values[lane], indices[lane]});
    if (lane == 0) p.out[blockIdx.x] = finite ? best.index : NONE;
  }
}

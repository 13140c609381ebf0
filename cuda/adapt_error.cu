// The mean square of rows, in two steps, and whether it is finite (correction of folds: ours).
// adapt_squares: x (T, N) f32 -> sums (T) f32: the sum of each row's squares.
// adapt_error: sums (T) f32, ones (T) f32 -> error (1) f32, fault (1) u32:
//   error = sum of sums / max(sum of ones, 1); fault = 1 where error is not finite, else 0.
// Launch: T blocks of 256 threads, and 1 block of 256 threads.
// Registers: at most 40. Static shared memory: 64 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 T N, writes 32 T (a float each); reads 8 T, writes 64
// Bank conflicts: none.
// Accumulation: f32. A thread has every 256th value, ascending; a warp's as a butterfly; then the warps ascending.
// Test: gpu_ops::adapt
#include "device.cuh"

constexpr int THREADS = 256;

// The sum over the block, for its first thread.
__device__ __forceinline__ float block_sum(float (&partial)[THREADS / 32], float x) {
  x = warp_sum(x);
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.f;
#pragma unroll
  for (int w = 0; w < THREADS / 32; w++) sum += partial[w];
  return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_squares(AdaptSquaresArgs p) {
  __shared__ float partial[THREADS / 32];
  const float* x = p.x + (size_t)blockIdx.x * p.columns;
  float sum = 0.f;
#pragma unroll 4
  for (int c = threadIdx.x; c < p.columns; c += THREADS) sum += x[c] * x[c];
  sum = block_sum(partial, sum);
  if (threadIdx.x == 0) p.sums[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_error(AdaptErrorArgs p) {
  __shared__ float squares[THREADS / 32], counts[THREADS / 32];
  float sum = 0.f, count = 0.f;
#pragma unroll 4
  for (int r = threadIdx.x; r < p.rows; r += THREADS) sum += p.sums[r], count += p.ones[r];
  sum = block_sum(squares, sum), count = block_sum(counts, count);
  if (threadIdx.x > 0) return;
  const float error = sum / fmaxf(count, 1.f);
  *p.error = error;
  *p.fault = (__float_as_uint(error) & 0x7f800000u) == 0x7f800000u;
}

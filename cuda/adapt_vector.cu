// A vector with the product of a vector and a matrix (correction of folds: ours).
// base (N) f32, x (K) f32, matrix (K, N) f32, fault (1) u32 or null -> out (N) f32, which may be base:
//   out = base + scale x matrix, but as before where fault is not 0.
// Launch: ceil(N / 32) blocks of 256 threads.
// Registers: at most 40. Static shared memory: 1024 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 K N + 32 K ceil(N / 32) + 4 N (and 256 B of fault for each block), writes 4 N
// Bank conflicts: none.
// Accumulation: f32. A warp has every eighth row, ascending; then the warps ascending; then the base.
// Test: gpu_ops::adapt
#include "device.cuh"

constexpr int WARPS = 8;

extern "C" __global__ void __launch_bounds__(32 * WARPS) adapt_vector(AdaptVectorArgs p) {
  __shared__ float partial[WARPS][32];
  if (p.fault && *p.fault) return;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c = blockIdx.x * 32 + lane;
  float sum = 0.f;
#pragma unroll 4
  for (int r = warp; r < p.rows; r += WARPS) sum += c < p.columns ? p.x[r] * p.matrix[(size_t)r * p.columns + c] : 0.f;
  partial[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || c >= p.columns) return;
  sum = 0.f;
#pragma unroll
  for (int w = 0; w < WARPS; w++) sum += partial[w][lane];
  p.out[c] = p.base[c] + p.scale * sum;
}

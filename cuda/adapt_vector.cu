// A vector with the product of a vector and a matrix, or with the squares of a matrix (correction of folds: ours).
// adapt_vector: base (N) f32, x (K) f32, matrix (K, N) f32, fault (1) u32 or null -> out (N) f32, which may be base:
//   out = base + scale x matrix, but as before where fault is not 0.
// adapt_precision: base (N) f32, matrix (K, N) f32, fault (1) u32 or null -> out (N) f32, which may be base:
//   out = base / (scale (1 + base sum(squares of matrix's column))), but as before where fault is not 0.
// Launch: ceil(N / 32) blocks of 256 threads.
// Registers: at most 40. Static shared memory: 1024 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 K N + 32 K ceil(N / 32) + 4 N (and 256 B of fault for each block), writes 4 N; adapt_precision without the
//   second term
// Bank conflicts: none.
// Accumulation: f32. A warp has every eighth row, ascending; then the warps ascending; then the base.
// Test: gpu_ops::adapt
#include "device.cuh"

constexpr int WARPS = 8;

// The sum of term(row) over the rows of column c, for the first warp.
template <typename F>
__device__ __forceinline__ float column_sum(float (&partial)[WARPS][32], const AdaptVectorArgs& p, int c, F term) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  float sum = 0.f;
#pragma unroll 4
  for (int r = warp; r < p.rows; r += WARPS) sum += c < p.columns ? term(r, p.matrix[(size_t)r * p.columns + c]) : 0.f;
  partial[warp][lane] = sum;
  __syncthreads();
  sum = 0.f;
#pragma unroll
  for (int w = 0; w < WARPS; w++) sum += partial[w][lane];
  return sum;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) adapt_vector(AdaptVectorArgs p) {
  __shared__ float partial[WARPS][32];
  if (p.fault && *p.fault) return;
  const int c = blockIdx.x * 32 + (threadIdx.x & 31);
  const float sum = column_sum(partial, p, c, [&](int r, float x) { return p.x[r] * x; });
  if (threadIdx.x < 32 && c < p.columns) p.out[c] = p.base[c] + p.scale * sum;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) adapt_precision(AdaptVectorArgs p) {
  __shared__ float partial[WARPS][32];
  if (p.fault && *p.fault) return;
  const int c = blockIdx.x * 32 + (threadIdx.x & 31);
  const float sum = column_sum(partial, p, c, [](int, float x) { return x * x; });
  if (threadIdx.x < 32 && c < p.columns) p.out[c] = p.base[c] / (p.scale * (1.f + p.base[c] * sum));
}

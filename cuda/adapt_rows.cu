// Some columns of rows, less a centre (correction of folds: ours).
// x (T, C) element, kept (n / block_width) u32 blocks of columns or null for all, mask (T) u32 or null, centre (n) f32, scale (n)
//   f32 or null -> out (T, n) f32, images (T, n) f32 or null, ones (T) f32 or null:
//   out = x - centre and images = out scale; 0, and images 0 scale, in rows whose mask is 0. ones: 1, or 0 where the mask is 0.
// Launch: T blocks of 256 threads.
// Registers: at most 40. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 6 T n (with kept 4 T n / block_width more, with scale 4 T n), writes 4 T n (with images 8 T n)
// Bank conflicts: none.
// Accumulation: none.
// Test: gpu_ops::adapt
#include "device.cuh"

constexpr int THREADS = 256;

template <class T> __device__ __forceinline__ void adapt_rows(const AdaptRowsArgs& p) {
  const int row = blockIdx.x;
  const bool token = !p.mask || p.mask[row];
  const T* x = (const T*)p.x + (size_t)row * p.width;
  const size_t first = (size_t)row * p.columns;
#pragma unroll 2
  for (int c = threadIdx.x; c < p.columns; c += THREADS) {
    const int from = p.kept ? (int)p.kept[c / p.block_width] * p.block_width + c % p.block_width : c;
    const float value = token ? to_float(x[from]) - p.centre[c] : 0.f;
    p.out[first + c] = value;
    if (p.images) p.images[first + c] = value * p.scale[c];
  }
  if (p.ones && threadIdx.x == 0) p.ones[row] = token;
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_rows_bf16(AdaptRowsArgs p) { adapt_rows<bf16>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) adapt_rows_f16(AdaptRowsArgs p) { adapt_rows<f16>(p); }

// RMSNorm, LayerNorm or a copy, with the sum of squares that residual importance is made of (paper section 3.1).
//   rms: out = x * rsqrt(mean x^2 + eps) * weight; layer: out = (x - mean) * rsqrt(var + eps) * weight + bias
// x (T, H) element -> out (T, H) element, sum_squares (T) f32; weight, bias (H) f32 or null.
// Launch: T blocks of 256 threads.
// Registers: at most 64. Static shared memory: 32 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 T H (a second and a third pass hit L1: counted as 2 T H each for layer, one more for rms)
//        + 4 H T weight (+ 4 H T bias), writes 2 T H + 4 T.
// Bank conflicts: none.
// Accumulation: f32; each thread over its elements ascending, butterfly over a warp, warps ascending.
// Test: gpu_ops::norm
#include "device.cuh"

constexpr int THREADS = 256;

template <class T> __device__ __forceinline__ void norm(const NormArgs& p) {
  __shared__ float partial[THREADS / 32];
  const size_t at = (size_t)blockIdx.x * p.width;
  const T* x = (const T*)p.x + at;
  T* out = (T*)p.out + at;
  float squares = 0.f, sum = 0.f;
  for (int c = threadIdx.x; c < p.width; c += THREADS) {
    const float v = to_float(x[c]);
    squares += v * v;
    sum += v;
  }
  squares = block_sum(squares, partial);
  if (threadIdx.x == 0) p.sum_squares[blockIdx.x] = squares;
  float mean = 0.f, scale = 1.f;
  if (p.kind == 1) scale = 1.f / sqrtf(squares / p.width + p.eps);
  if (p.kind == 2) {
    mean = block_sum(sum, partial) / p.width;
    float variance = 0.f;
    for (int c = threadIdx.x; c < p.width; c += THREADS) {
      const float d = to_float(x[c]) - mean;
      variance += d * d;
    }
    scale = 1.f / sqrtf(block_sum(variance, partial) / p.width + p.eps);
  }
  for (int c = threadIdx.x; c < p.width; c += THREADS) {
    float v = (to_float(x[c]) - mean) * scale;
    if (p.weight) v *= p.weight[c];
    if (p.bias) v += p.bias[c];
    out[c] = round_to(T{}, v);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) norm_bf16(NormArgs p) { norm<bf16>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) norm_f16(NormArgs p) { norm<f16>(p); }

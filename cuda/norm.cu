// RMSNorm, LayerNorm or a copy, with the sum of squares for residual importance (paper section 3.1).
//   rms: out = x * rsqrt(mean x^2 + eps) * weight; layer: out = (x - mean) * rsqrt(var + eps) * weight + bias
// x (T, H) element, weight (H) f32 or null, bias (H) f32 or null -> out (T, H) element, sum_squares (T) f32
// Launch: T blocks of ceil(H / 16) threads, rounded up to whole warps, 1024 at most.
// Registers: at most 32. Static shared memory: 384 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 T H + 8 T H weight + 8 T H bias, writes 2 T H + 4 T
//   (weight and bias from L1 or L2 after the first row, and each of their sectors by two instructions; H a multiple of 8
//   and at most 16384: otherwise rows are read again, three times for layer, once for rms and the copy)
// Bank conflicts: none.
// Accumulation: f32; each thread over its elements, butterfly over a warp, butterfly over the warps' sums.
// Test: gpu_ops::norm
#include "device.cuh"

constexpr int MAX_THREADS = 1024;
// Vectors of eight elements that a thread keeps.
constexpr int KEEP = 2;

// One barrier: every thread gets the sum, from shared memory that nothing else in the kernel uses.
__device__ __forceinline__ float sum_over_block(float x, float (&partial)[32]) {
  const int lane = threadIdx.x & 31;
  x = warp_sum(x);
  if (lane == 0) partial[threadIdx.x >> 5] = x;
  __syncthreads();
  return warp_sum(lane < (int)(blockDim.x >> 5) ? partial[lane] : 0.f);
}

__device__ __forceinline__ void load_floats(const float* from, float (&to)[8]) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float4 v = ((const float4*)from)[i];
    to[4 * i] = v.x;
    to[4 * i + 1] = v.y;
    to[4 * i + 2] = v.z;
    to[4 * i + 3] = v.w;
  }
}

// Rows that fit the block's registers, 16 bytes at a time.
template <class T> struct KeptRow {
  Vector8<T> kept[KEEP];
  const NormArgs& p;
  __device__ __forceinline__ KeptRow(const NormArgs& args, const T* x) : p(args) {
#pragma unroll
    for (int i = 0; i < KEEP; i++) {
      const int c = column(i);
      kept[i] = c < p.hidden_size ? load8(x + c) : Vector8<T>{};
    }
  }
  static __device__ __forceinline__ int column(int i) { return 8 * (threadIdx.x + i * blockDim.x); }
  template <class F> __device__ __forceinline__ void each(F&& f) const {
#pragma unroll
    for (int i = 0; i < KEEP; i++) {
      if (column(i) >= p.hidden_size) continue;
      float v[8];
      unpack(kept[i], v);
#pragma unroll
      for (int k = 0; k < 8; k++) f(v[k]);
    }
  }
  __device__ __forceinline__ void write(T* out, float mean, float scale) const {
#pragma unroll
    for (int i = 0; i < KEEP; i++) {
      const int c = column(i);
      if (c >= p.hidden_size) continue;
      float v[8], of[8];
      unpack(kept[i], v);
#pragma unroll
      for (int k = 0; k < 8; k++) v[k] = (v[k] - mean) * scale;
      if (p.weight) {
        load_floats(p.weight + c, of);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] *= of[k];
      }
      if (p.bias) {
        load_floats(p.bias + c, of);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] += of[k];
      }
      *(Vector8<T>*)(out + c) = pack8<T>(v);
    }
  }
};

// Any row, read again for each use.
template <class T> struct AnyRow {
  const NormArgs& p;
  const T* x;
  template <class F> __device__ __forceinline__ void each(F&& f) const {
    for (int c = threadIdx.x; c < p.hidden_size; c += blockDim.x) f(to_float(x[c]));
  }
  __device__ __forceinline__ void write(T* out, float mean, float scale) const {
    for (int c = threadIdx.x; c < p.hidden_size; c += blockDim.x) {
      float v = (to_float(x[c]) - mean) * scale;
      if (p.weight) v *= p.weight[c];
      if (p.bias) v += p.bias[c];
      out[c] = round_to(T{}, v);
    }
  }
};

template <class T, class Row> __device__ __forceinline__ void norm_row(const NormArgs& p, const Row& row, T* out,
                                                                  float (&partial)[3][32]) {
  float squares = 0.f;
  row.each([&](float x) { squares += x * x; });
  squares = sum_over_block(squares, partial[0]);
  if (threadIdx.x == 0) p.sum_squares[blockIdx.x] = squares;
  float mean = 0.f, scale = 1.f;
  if (p.kind == 1) scale = 1.f / sqrtf(squares / p.hidden_size + p.eps);
  if (p.kind == 2) {
    // The variance is summed around the mean: sum x^2 - n mean^2 cancels where the mean is large.
    float sum = 0.f, variance = 0.f;
    row.each([&](float x) { sum += x; });
    mean = sum_over_block(sum, partial[1]) / p.hidden_size;
    row.each([&](float x) { variance += (x - mean) * (x - mean); });
    scale = 1.f / sqrtf(sum_over_block(variance, partial[2]) / p.hidden_size + p.eps);
  }
  row.write(out, mean, scale);
}

template <class T> __device__ __forceinline__ void norm(const NormArgs& p) {
  __shared__ float partial[3][32];
  const size_t at = (size_t)blockIdx.x * p.hidden_size;
  const T* x = (const T*)p.x + at;
  T* out = (T*)p.out + at;
  if (p.hidden_size % 8 == 0 && p.hidden_size <= 8 * KEEP * (int)blockDim.x) {
    norm_row(p, KeptRow<T>(p, x), out, partial);
  } else {
    norm_row(p, AnyRow<T>{p, x}, out, partial);
  }
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS) norm_bf16(NormArgs p) { norm<bf16>(p); }
extern "C" __global__ void __launch_bounds__(MAX_THREADS) norm_f16(NormArgs p) { norm<f16>(p); }

// Energies of intermediate states: out = mean over samples of a^2 (paper section 3.2; pads are left out).
// a (B, S, C) element, mask (B, S) u32 or null -> out (S, C) f32; the divisor is B, or with a mask its count + 1e-3; sums
//   (S, C) f32 or null = sum over samples of a.
// Launch: S C / 8 vectors (S C elements where C is no multiple of 8) over blocks of 128 threads.
// Registers: at most 64. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 B S C (with a mask 32 B for each warp, which has 256 channels, more), writes 4 S C (8 with sums)
// Bank conflicts: none.
// Accumulation: f32, samples ascending.
// Test: gpu_ops::energy, gpu_ops::linear
#include "device.cuh"

constexpr int THREADS = 128;
constexpr int AHEAD = 4;  // samples whose loads are under way together

// The factor on every sum at a slot with `real` tokens.
__device__ __forceinline__ float inverse_count(const EnergyArgs& p, int real) {
  return 1.f / (p.mask ? (float)real + 1e-3f : (float)p.samples);
}

// Adds the squares of samples b .. b + N: all loads first, without a branch between them. Pads are read but not used.
template <int N, class T>
__device__ __forceinline__ void add_squares(const EnergyArgs& p, const T* a, const unsigned* mask, int b,
                                            float (&squares)[8], float (&sum)[8], int& real) {
  const size_t plane = (size_t)p.tokens * p.channels;
  Vector8<T> v[N];
  unsigned use[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    v[i] = *reinterpret_cast<const Vector8<T>*>(a + (b + i) * plane);
    use[i] = mask ? mask[(size_t)(b + i) * p.tokens] : 1u;
  }
#pragma unroll
  for (int i = 0; i < N; i++) {
    float x[8];
    unpack(v[i], x);
#pragma unroll
    for (int c = 0; c < 8; c++) squares[c] += use[i] ? x[c] * x[c] : 0.f, sum[c] += use[i] ? x[c] : 0.f;
    real += use[i] != 0;
  }
}

template <class T> __device__ __forceinline__ void energy8(const EnergyArgs& p) {
  const size_t plane = (size_t)p.tokens * p.channels, first = ((size_t)blockIdx.x * THREADS + threadIdx.x) * 8;
  const size_t from = first < plane ? first : 0;  // threads past the end work on existing entries and store nothing
  const T* a = (const T*)p.a + from;
  const unsigned* mask = p.mask ? p.mask + from / p.channels : nullptr;
  float squares[8] = {}, sum[8] = {};
  int real = 0, b = 0;
#pragma unroll 1
  for (; b + AHEAD <= p.samples; b += AHEAD) add_squares<AHEAD>(p, a, mask, b, squares, sum, real);
#pragma unroll 1
  for (; b < p.samples; b++) add_squares<1>(p, a, mask, b, squares, sum, real);
  const float scale = inverse_count(p, real);
#pragma unroll
  for (int c = 0; c < 8; c++) squares[c] *= scale;
  store8(p.out, first, plane, squares);
  if (p.sums) store8(p.sums, first, plane, sum);
}

template <class T> __device__ __forceinline__ void energy1(const EnergyArgs& p) {
  const size_t plane = (size_t)p.tokens * p.channels, i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= plane) return;
  float squares = 0.f, sum = 0.f;
  int real = 0;
  for (int b = 0; b < p.samples; b++) {
    if (p.mask && !p.mask[(size_t)b * p.tokens + i / p.channels]) continue;
    const float x = to_float(((const T*)p.a)[b * plane + i]);
    squares += x * x;
    sum += x;
    real++;
  }
  p.out[i] = squares * inverse_count(p, real);
  if (p.sums) p.sums[i] = sum;
}

template <class T> __device__ __forceinline__ void energy(const EnergyArgs& p) {
  if (p.channels % 8 == 0) energy8<T>(p);
  else energy1<T>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) energy_bf16(EnergyArgs p) { energy<bf16>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) energy_f16(EnergyArgs p) { energy<f16>(p); }

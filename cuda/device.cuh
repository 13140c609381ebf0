// What kernels share: reductions in a fixed order, vectors of elements.
#pragma once
#include "args.h"
#include "primitives.cuh"

constexpr unsigned FULL_WARP = 0xffffffffu;

// Sum over a warp; every lane has it. Fixed order: a butterfly.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(FULL_WARP, x, d);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, d));
  return x;
}

// Sum over a block of whole warps; every thread has it. `partial` is shared, one float per warp, and may be used again
// at once: there is a barrier before the first write and one before the reads.
__device__ __forceinline__ float block_sum(float x, float* partial) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  x = warp_sum(x);
  __syncthreads();
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  float sum = 0.f;
  for (int w = 0; w < (int)(blockDim.x >> 5); w++) sum += partial[w];
  return sum;
}

// Eight elements as 16 bytes.
template <class T> struct alignas(16) Vector8 { uint32_t word[4]; };

// One 16-byte load, which a dereferenced Vector8 need not become: the compiler splits it up where it uses the words singly.
template <class T> __device__ __forceinline__ Vector8<T> load8(const T* from) {
  const uint4 v = *(const uint4*)from;
  return {{v.x, v.y, v.z, v.w}};
}

template <class T> __device__ __forceinline__ void unpack(const Vector8<T>& v, float (&x)[8]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    x[2 * i] = to_float(T{(uint16_t)v.word[i]});
    x[2 * i + 1] = to_float(T{(uint16_t)(v.word[i] >> 16)});
  }
}

template <class T> __device__ __forceinline__ Vector8<T> pack8(const float (&x)[8]) {
  Vector8<T> v;
#pragma unroll
  for (int i = 0; i < 4; i++) v.word[i] = pack(T{}, x[2 * i], x[2 * i + 1]);
  return v;
}

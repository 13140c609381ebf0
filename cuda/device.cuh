// Shared by all kernels: reductions in a fixed order, vectors of elements.
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

// Eight floats per lane are two float4 in memory. Loads and stores whose lanes alternate between the first and the second
// float4 of each pair of lanes fill whole 32-byte sectors; this swaps between that arrangement and a lane's own eight.
__device__ __forceinline__ void swap_in_pairs(float4& x, float4& y) {
  const bool odd = threadIdx.x & 1;
  float4 out = odd ? x : y;
  out.x = __shfl_xor_sync(FULL_WARP, out.x, 1);
  out.y = __shfl_xor_sync(FULL_WARP, out.y, 1);
  out.z = __shfl_xor_sync(FULL_WARP, out.z, 1);
  out.w = __shfl_xor_sync(FULL_WARP, out.w, 1);
  x = make_float4(odd ? out.x : x.x, odd ? out.y : x.y, odd ? out.z : x.z, odd ? out.w : x.w);
  y = make_float4(odd ? y.x : out.x, odd ? y.y : out.y, odd ? y.z : out.z, odd ? y.w : out.w);
}
// The eight floats from `at` on, neighbours of the other lane's of the pair; those from `end` on do not exist (both
// multiples of 8). For whole warps.
__device__ __forceinline__ void load8(const float* x, size_t at, size_t end, float (&v)[8]) {
  const int odd = threadIdx.x & 1;
  const size_t first = at - 8 * odd;
  float4 lower = {}, upper = {};
  const float4* from = reinterpret_cast<const float4*>(x + first) + odd;
  if (first < end) lower = from[0];
  if (first + 8 < end) upper = from[2];
  swap_in_pairs(lower, upper);
  v[0] = lower.x, v[1] = lower.y, v[2] = lower.z, v[3] = lower.w;
  v[4] = upper.x, v[5] = upper.y, v[6] = upper.z, v[7] = upper.w;
}
__device__ __forceinline__ void store8(float* x, size_t at, size_t end, const float (&v)[8]) {
  const int odd = threadIdx.x & 1;
  const size_t first = at - 8 * odd;
  float4 lower = make_float4(v[0], v[1], v[2], v[3]), upper = make_float4(v[4], v[5], v[6], v[7]);
  swap_in_pairs(lower, upper);
  float4* to = reinterpret_cast<float4*>(x + first) + odd;
  if (first < end) to[0] = lower;
  if (first + 8 < end) to[2] = upper;
}

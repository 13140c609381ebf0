// Rotary positions in place, x' = (x1 cos - x2 sin, x2 cos + x1 sin) over the halves of a head, and the cache write.
// q (B, S, N, D), k (B, S, K, D), v (B, S, K, D) element -> q, k in place; keys, values (B, capacity, K, D) element;
//   table (positions, D) f32, positions (B, S). Without a table only the cache is written.
// Launch: (T, parts) blocks of 128 threads; parts: q and k with a table, k without; and v with a cache.
// Registers: at most 64. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 T (N + 2 K) D + T (2 warps 4 D + 256) for the table, where 4 warps of a block have work,
//        writes 2 T (N + 3 K) D.
// Bank conflicts: none.
// Accumulation: none; a rotation is two products and a sum in f32, rounded once.
// Test: gpu_ops::rope_cache
#include "device.cuh"

constexpr int THREADS = 128;

// Eight elements in one access, or one.
template <class T, int WIDTH> struct Piece;
template <class T> struct Piece<T, 8> {
  float x[8];
  __device__ __forceinline__ explicit Piece(const T* p) { unpack(*(const Vector8<T>*)p, x); }
  __device__ __forceinline__ void store(T* p) const { *(Vector8<T>*)p = pack8<T>(x); }
};
template <class T> struct Piece<T, 1> {
  float x[1];
  __device__ __forceinline__ explicit Piece(const T* p) { x[0] = to_float(*p); }
  __device__ __forceinline__ void store(T* p) const { *p = round_to(T{}, x[0]); }
};

// Rotates the heads of a row in place and writes them to `copy` too if there is one. A thread keeps its piece of the
// table for all its heads.
template <class T, int WIDTH>
__device__ __forceinline__ void rotate(T* row, T* copy, const float* angles, int heads, int head_dim) {
  const int half = head_dim / 2, pieces = half / WIDTH;
  // Threads that stand side by side in a head; heads that a block does at once. A head wider than the block is done in turns.
  const int side = min(pieces, THREADS), at_once = THREADS / side, first = threadIdx.x / side;
  if (first >= at_once) return;
  for (int piece = threadIdx.x % side; piece < pieces; piece += side) {
    const int i = piece * WIDTH;
    float cosine[WIDTH], sine[WIDTH];
#pragma unroll
    for (int e = 0; e < WIDTH; e++) {
      cosine[e] = angles[i + e];
      sine[e] = angles[half + i + e];
    }
#pragma unroll 2
    for (int h = first; h < heads; h += at_once) {
      const size_t at = (size_t)h * head_dim + i;
      Piece<T, WIDTH> low(row + at), high(row + at + half);
#pragma unroll
      for (int e = 0; e < WIDTH; e++) {
        const float a = low.x[e], b = high.x[e];
        low.x[e] = a * cosine[e] - b * sine[e];
        high.x[e] = b * cosine[e] + a * sine[e];
      }
      low.store(row + at);
      high.store(row + at + half);
      if (copy) {
        low.store(copy + at);
        high.store(copy + at + half);
      }
    }
  }
}

template <class T> __device__ __forceinline__ void copy_row(const T* __restrict__ from, T* __restrict__ to, int n) {
  if (n % 8 == 0) {
#pragma unroll 4
    for (int i = threadIdx.x; i < n / 8; i += THREADS) ((Vector8<T>*)to)[i] = ((const Vector8<T>*)from)[i];
  } else {
    for (int i = threadIdx.x; i < n; i += THREADS) to[i] = from[i];
  }
}

template <class T> __device__ __forceinline__ void rope_cache(const RopeCacheArgs& p) {
  const size_t t = blockIdx.x;
  // 0: q, 1: k, 2: v.
  const int part = blockIdx.y + (p.table ? 0 : 1), heads = part == 0 ? p.heads : p.kv_heads;
  const int width = heads * p.head_dim;
  const size_t slot = t / p.tokens * p.capacity + p.at + t % p.tokens;
  T* const cache = (T*)(part == 0 ? nullptr : part == 1 ? p.cache_keys : p.cache_values);
  T* const copy = cache ? cache + slot * width : nullptr;
  if (part == 2 || !p.table) {
    copy_row<T>((const T*)(part == 2 ? p.v : p.k) + t * width, copy, width);
    return;
  }
  T* const row = (T*)(part == 0 ? p.q : p.k) + t * width;
  const float* angles = p.table + (size_t)p.positions[t] * p.head_dim;
  if (p.head_dim % 16 == 0)
    rotate<T, 8>(row, copy, angles, heads, p.head_dim);
  else
    rotate<T, 1>(row, copy, angles, heads, p.head_dim);
}

extern "C" __global__ void __launch_bounds__(THREADS) rope_cache_bf16(RopeCacheArgs p) { rope_cache<bf16>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) rope_cache_f16(RopeCacheArgs p) { rope_cache<f16>(p); }

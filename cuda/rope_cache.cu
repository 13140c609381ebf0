// Rotary positions in place, x' = (x1 cos - x2 sin, x2 cos + x1 sin) over the halves of a head, and the cache write.
// q (B, S, N, D), k (B, S, K, D), v (B, S, K, D) element -> q, k in place; keys, values (B, capacity, K, D) element;
//   table (positions, D) f32, positions (B, S). Without a table only the cache is written.
// Launch: (T, parts) blocks of 128 threads; parts: q and k with a table, k without; and v with a cache.
// Registers: at most 64. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 T (N + 2 K) D + 8 T (8 D + 32) for table and positions, once per warp of q and of k (32-byte sectors,
//        each asked for twice), writes 2 T (N + 3 K) D.
// Bank conflicts: none.
// Accumulation: none; a rotation is two products and a sum in f32, rounded once.
// Test: gpu_ops::rope_cache
#include "device.cuh"

// Loads of BATCH heads, or as many bytes, are issued before the first store.
constexpr int THREADS = 128, BATCH = 2;

// Eight elements in one access, or one. From a reference to global memory unpack would load a word at a time.
template <class T, int WIDTH> struct Piece;
template <class T> struct Piece<T, 8> {
  uint4 bits;
  __device__ __forceinline__ void load(const T* p) { bits = *(const uint4*)p; }
  __device__ __forceinline__ void store(T* p) const { *(uint4*)p = bits; }
  __device__ __forceinline__ void get(float (&x)[8]) const {
    unpack(Vector8<T>{{bits.x, bits.y, bits.z, bits.w}}, x);
  }
  __device__ __forceinline__ void set(const float (&x)[8]) {
    const Vector8<T> v = pack8<T>(x);
    bits = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
  }
};
template <class T> struct Piece<T, 1> {
  T bits;
  __device__ __forceinline__ void load(const T* p) { bits = *p; }
  __device__ __forceinline__ void store(T* p) const { *p = bits; }
  __device__ __forceinline__ void get(float (&x)[1]) const { x[0] = to_float(bits); }
  __device__ __forceinline__ void set(const float (&x)[1]) { bits = round_to(T{}, x[0]); }
};

template <int WIDTH> __device__ __forceinline__ void load_angles(const float* p, float (&x)[WIDTH]) {
  if constexpr (WIDTH == 1) {
    x[0] = __ldg(p);
  } else {
#pragma unroll
    for (int i = 0; i < WIDTH; i += 4) {
      const float4 v = __ldg((const float4*)(p + i));
      x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
    }
  }
}

// Rotates the heads of a row in place and writes them to `copy` too if there is one. A thread keeps its piece of the
// table for all its heads.
template <class T, int WIDTH>
__device__ __forceinline__ void rotate(T* row, T* copy, const float* angles, int heads, int head_dim) {
  const int half = head_dim / 2, pieces = half / WIDTH;
  // Threads side by side in a head, and heads at once; a head wider than the block takes several rounds.
  const int side = min(pieces, THREADS), at_once = THREADS / side, first = threadIdx.x / side;
  if (first >= at_once) return;
  for (int piece = threadIdx.x % side; piece < pieces; piece += side) {
    const int i = piece * WIDTH;
    float cosine[WIDTH], sine[WIDTH];
    load_angles(angles + i, cosine);
    load_angles(angles + half + i, sine);
    for (int h = first; h < heads; h += BATCH * at_once) {
      Piece<T, WIDTH> low[BATCH], high[BATCH];
#pragma unroll
      for (int n = 0; n < BATCH; n++) {
        if (h + n * at_once >= heads) break;
        const T* from = row + (size_t)(h + n * at_once) * head_dim + i;
        low[n].load(from);
        high[n].load(from + half);
      }
#pragma unroll
      for (int n = 0; n < BATCH; n++) {
        if (h + n * at_once >= heads) break;
        float a[WIDTH], b[WIDTH], x[WIDTH], y[WIDTH];
        low[n].get(a);
        high[n].get(b);
#pragma unroll
        for (int e = 0; e < WIDTH; e++) {
          x[e] = a[e] * cosine[e] - b[e] * sine[e];
          y[e] = b[e] * cosine[e] + a[e] * sine[e];
        }
        low[n].set(x);
        high[n].set(y);
        const size_t at = (size_t)(h + n * at_once) * head_dim + i;
        low[n].store(row + at);
        high[n].store(row + at + half);
        if (copy) {
          low[n].store(copy + at);
          high[n].store(copy + at + half);
        }
      }
    }
  }
}

// n elements, in pieces.
template <class T, int WIDTH> __device__ __forceinline__ void copy_row(const T* from, T* to, int n) {
  for (int i = threadIdx.x * WIDTH; i < n; i += 2 * BATCH * THREADS * WIDTH) {
    Piece<T, WIDTH> piece[2 * BATCH];
#pragma unroll
    for (int j = 0; j < 2 * BATCH; j++)
      if (i + j * THREADS * WIDTH < n) piece[j].load(from + i + j * THREADS * WIDTH);
#pragma unroll
    for (int j = 0; j < 2 * BATCH; j++)
      if (i + j * THREADS * WIDTH < n) piece[j].store(to + i + j * THREADS * WIDTH);
  }
}

template <class T> __device__ __forceinline__ void rope_cache(const RopeCacheArgs& p) {
  const size_t t = blockIdx.x;
  // 0: q, 1: k, 2: v.
  const int part = blockIdx.y + (p.table ? 0 : 1), heads = part == 0 ? p.heads : p.kv_heads;
  const int channels = heads * p.head_dim;
  const size_t slot = t / p.tokens * p.capacity + p.at + t % p.tokens;
  T* const cache = (T*)(part == 0 ? nullptr : part == 1 ? p.cache_keys : p.cache_values);
  T* const copy = cache ? cache + slot * channels : nullptr;
  if (part == 2 || !p.table) {
    const T* from = (const T*)(part == 2 ? p.v : p.k) + t * channels;
    if (channels % 8 == 0)
      copy_row<T, 8>(from, copy, channels);
    else
      copy_row<T, 1>(from, copy, channels);
    return;
  }
  T* const row = (T*)(part == 0 ? p.q : p.k) + t * channels;
  const float* angles = p.table + (size_t)p.positions[t] * p.head_dim;
  if (p.head_dim % 16 == 0)
    rotate<T, 8>(row, copy, angles, heads, p.head_dim);
  else
    rotate<T, 1>(row, copy, angles, heads, p.head_dim);
}

extern "C" __global__ void __launch_bounds__(THREADS) rope_cache_bf16(RopeCacheArgs p) { rope_cache<bf16>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) rope_cache_f16(RopeCacheArgs p) { rope_cache<f16>(p); }

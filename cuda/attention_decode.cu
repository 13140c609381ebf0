// Causal softmax attention of few queries: out = softmax(q k^T scale) v; reads every key and value once for all the
//   query heads that share it. Keys and values bypass shared memory.
// q (B, S, N, D), k and v (B, capacity, K, D) element, kv_head_of (N), mask (B, capacity), slots (keys) -> out (B, S, N, D).
// Launch: (K, B) blocks of 256 threads.
// Registers: at most 255. Static shared memory: 43088 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 B S N D + B K (4 keys D + 4 N, and with a mask 4 keys) per 16 rows (tokens x query heads of a key/value head);
//        a window leaves out steps in front; writes 2 B S N D.
// Bank conflicts: none (rows of q are 64 bytes further apart than they are wide; 16-byte chunks of sums are permuted).
// Accumulation: f32; a warp takes every eighth step of 16 keys, mma over d, then over its keys ascending; warps ascending.
//   Probabilities are rounded to the element for their product with v; the sum takes them unrounded.
// Test: gpu_ops::attention
#include "attention.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS, ROWS = 16, KEYS = 16;

template <class T, int W> struct Shared {
  alignas(16) T q[ROWS * (W + 32)];
  float4 o[WARPS * ROWS * 16];  // of 64 columns
  float most[WARPS][ROWS], sum[WARPS][ROWS];
  int heads[ROWS], matches;
};

// mma lets d be permuted as long as q and k agree. Lane 4 g + t holds columns 32 c + 8 t .. + 7 of key g, 16 bytes of
// global memory; its words are the fragments of two steps, words 0 and 1 of the first. The last key replaces
// missing ones, in v too: they are hidden.
template <class T, bool VECTOR> struct Keys {
  uint4 x[2];  // of keys 0 to 7 and 8 to 15
  __device__ __forceinline__ void load(const T* k, size_t stride, int key, int end, int column, int head_dim) {
    const int group = threadIdx.x >> 2 & 7, own = column + (threadIdx.x & 3) * 8;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int row = min(key + j * 8 + group, end - 1);
      x[j] = load8<T, VECTOR>(k + row * stride, own, head_dim);
    }
  }
};

// Likewise columns of v: lane 4 g + t holds columns 64 c + 8 g .. + 7 of the four keys that its fragments need; the i-th
// of the eight is column g of tile 8 c + i.
template <class T, bool VECTOR> struct Values {
  uint4 x[4];
  __device__ __forceinline__ void load(const T* v, size_t stride, int key, int end, int column, int head_dim) {
    const int group = threadIdx.x >> 2 & 7, pair = (threadIdx.x & 3) * 2;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int row = min(key + pair + j / 2 * 8 + j % 2, end - 1);
      x[j] = load8<T, VECTOR>(v + row * stride, column + group * 8, head_dim);
    }
  }
  // The fragment of tile i: keys 2 t, 2 t + 1, and 8 further.
  __device__ __forceinline__ void fragment(int i, uint32_t (&b)[2]) const {
    const unsigned halves = i & 1 ? 0x7632 : 0x5410;
    b[0] = __byte_perm(word(x[0], i >> 1), word(x[1], i >> 1), halves);
    b[1] = __byte_perm(word(x[2], i >> 1), word(x[3], i >> 1), halves);
  }
  static __device__ __forceinline__ unsigned word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
  }
};

// Place of a 16-byte chunk in a row of 64 sums: neither the writes (lane 4 g + t: chunks 4 t .. 4 t + 3 of row g) nor the
// reads (a row's chunks side by side) conflict.
__device__ __forceinline__ int sums_at(int row, int chunk) {
  return row * 16 + (chunk ^ (chunk >> 3 | (row & 1) << 1));
}

template <class T, int W, bool VECTOR> __device__ __forceinline__ void decode(const AttentionArgs& p, Shared<T, W>& shared) {
  constexpr int Q_STRIDE = W + 32;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = lane >> 2, quad = lane & 3;
  const int kv_head = blockIdx.x, sample = blockIdx.y, past = p.keys - p.tokens;
  const size_t stride = (size_t)p.kv_heads * p.head_dim, out_stride = (size_t)p.heads * p.head_dim;
  const size_t kv_at = (size_t)sample * p.capacity * stride + (size_t)kv_head * p.head_dim;
  const T *k = (const T*)p.k + kv_at, *v = (const T*)p.v + kv_at;
  const unsigned* mask = p.mask ? p.mask + (size_t)sample * p.capacity : nullptr;
  const int start = first_in_window(p, past) / KEYS * KEYS + warp * KEYS;
  const float scale = p.scale * LOG2_E;

  // Keys are loaded a step ahead, values before the scores; the widest heads have no registers for that.
  constexpr bool AHEAD = W <= 128;
  Keys<T, VECTOR> keys[AHEAD ? W / 32 : 1];
  unsigned ahead = 0;
  auto fetch = [&](int key) {
    if (AHEAD) {
#pragma unroll
      for (int c = 0; c < W / 32; c++) keys[c].load(k, stride, key, p.keys, c * 32, p.head_dim);
    }
    ahead = mask_at(p, mask, key + lane % KEYS);
  };

  // Rows are the new tokens of this key/value head's query heads, sixteen at a time.
  int from = 0, all;
  do {
    // Under way during the search for heads; with few keys some warps have none.
    if (start < p.keys) fetch(start);
    if (warp == 0) {
      int found = 0;
      for (int h = 0; h < p.heads; h += 32) {
        const bool match = h + lane < p.heads && p.kv_head_of[h + lane] == kv_head;
        const unsigned bits = __ballot_sync(FULL_WARP, match);
        const int at = found + __popc(bits & ((1u << lane) - 1)) - from / p.tokens;
        if (match && at >= 0 && at < ROWS) shared.heads[at] = h + lane;
        found += __popc(bits);
      }
      if (lane == 0) shared.matches = found;
    }
    __syncthreads();
    all = shared.matches * p.tokens;
    if (all == 0) return;
    const int rows = min(ROWS, all - from);
    auto row_at = [&](int row) {
      const int of = from + row, head = shared.heads[of / p.tokens - from / p.tokens];
      return ((size_t)sample * p.tokens + of % p.tokens) * out_stride + (size_t)head * p.head_dim;
    };
    for (int i = threadIdx.x; i < ROWS * W / 8; i += THREADS) {
      const int row = i / (W / 8), column = i % (W / 8) * 8;
      const bool inside = row < rows && column < p.head_dim;
      *(uint4*)(shared.q + row * Q_STRIDE + column) =
          inside ? load8<T, VECTOR>((const T*)p.q + row_at(row), column, p.head_dim) : make_uint4(0, 0, 0, 0);
    }
    __syncthreads();

    int low[2], high[2];
    float o[W / 8][4] = {}, most[2] = {MINUS_INFINITY, MINUS_INFINITY}, sum[2] = {};
#pragma unroll
    for (int h = 0; h < 2; h++) {
      high[h] = past + (from + h * 8 + group) % p.tokens;
      low[h] = first_in_window(p, high[h]);
    }
#pragma unroll 1
    for (int key = start; key < p.keys; key += WARPS * KEYS) {
      Values<T, VECTOR> values[AHEAD ? W / 64 : 1];
      if (AHEAD) {
#pragma unroll
        for (int c = 0; c < W / 64; c++) values[c].load(v, stride, key, p.keys, c * 64, p.head_dim);
      }
      const unsigned show = __ballot_sync(FULL_WARP, ahead != 0);
      float s[2][4] = {};
#pragma unroll(AHEAD ? W / 32 : 2)
      for (int c = 0; c < W / 32; c++) {
        Keys<T, VECTOR>& here = keys[AHEAD ? c : 0];
        if (!AHEAD) here.load(k, stride, key, p.keys, c * 32, p.head_dim);
        const T* q = shared.q + group * Q_STRIDE + c * 32 + quad * 8;
        const uint4 a = *(const uint4*)q, b = *(const uint4*)(q + 8 * Q_STRIDE);
        const uint32_t q0[4] = {a.x, b.x, a.y, b.y}, q1[4] = {a.z, b.z, a.w, b.w};
#pragma unroll
        for (int j = 0; j < 2; j++) {
          mma(T{}, s[j], q0, here.x[j].x, here.x[j].y);
          mma(T{}, s[j], q1, here.x[j].z, here.x[j].w);
        }
      }
      const int next = key + WARPS * KEYS;
      if (next < p.keys) fetch(next);
      float shrink[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float m = most[h];
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const int at = j * 8 + quad * 2 + e;
            const bool seen = (show >> at & 1) && key + at >= low[h] && key + at <= high[h];
            float& x = s[j][2 * h + e];
            x = seen ? x : MINUS_INFINITY;
            m = fmaxf(m, x);
          }
        }
        m = fmaxf(m, __shfl_xor_sync(FULL_WARP, m, 1));
        m = fmaxf(m, __shfl_xor_sync(FULL_WARP, m, 2));
        // A row that has seen no key yet keeps exponents of minus infinity.
        const float base = m == MINUS_INFINITY ? 0.f : m * scale;
        shrink[h] = exp2_approx(most[h] * scale - base);
        most[h] = m;
        float total = 0.f;
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float& x = s[j][2 * h + e];
            x = exp2_approx(x * scale - base);
            total += x;
          }
        }
        sum[h] = sum[h] * shrink[h] + total;
      }
      const uint32_t a[4] = {pack(T{}, s[0][0], s[0][1]), pack(T{}, s[0][2], s[0][3]), pack(T{}, s[1][0], s[1][1]),
                             pack(T{}, s[1][2], s[1][3])};
#pragma unroll
      for (int c = 0; c < W / 64; c++) {
        Values<T, VECTOR>& here = values[AHEAD ? c : 0];
        if (!AHEAD) here.load(v, stride, key, p.keys, c * 64, p.head_dim);
#pragma unroll
        for (int i = 0; i < 8; i++) {
          float(&d)[4] = o[c * 8 + i];
#pragma unroll
          for (int e = 0; e < 4; e++) d[e] *= shrink[e >> 1];
          uint32_t b[2];
          here.fragment(i, b);
          mma(T{}, d, a, b[0], b[1]);
        }
      }
    }

    // The warps' sums, each relative to its own largest score, meet at the largest of all.
#pragma unroll
    for (int h = 0; h < 2; h++) {
      sum[h] += __shfl_xor_sync(FULL_WARP, sum[h], 1);
      sum[h] += __shfl_xor_sync(FULL_WARP, sum[h], 2);
      if (quad == 0) {
        shared.most[warp][h * 8 + group] = most[h];
        shared.sum[warp][h * 8 + group] = sum[h];
      }
    }
    __syncthreads();
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float m = MINUS_INFINITY, total = 0.f;
      for (int w = 0; w < WARPS; w++) m = fmaxf(m, shared.most[w][h * 8 + group]);
      const float base = m == MINUS_INFINITY ? 0.f : m * scale;
      for (int w = 0; w < WARPS; w++)
        total += shared.sum[w][h * 8 + group] * exp2_approx(shared.most[w][h * 8 + group] * scale - base);
      factor[h] = total > 0.f ? exp2_approx(most[h] * scale - base) / total : 0.f;
    }
    // 64 columns at a time.
#pragma unroll
    for (int c = 0; c < W / 64; c++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          // Column 2 quad + (i >> 1) of tile 8 c + n is the n-th of eight.
          const float(*x)[4] = o + c * 8 + (i & 1) * 4;
          const int e = 2 * h + (i >> 1);
          const float4 four = {x[0][e] * factor[h], x[1][e] * factor[h], x[2][e] * factor[h], x[3][e] * factor[h]};
          shared.o[warp * ROWS * 16 + sums_at(h * 8 + group, quad * 4 + i)] = four;
        }
      }
      __syncthreads();
      const int row = threadIdx.x / 16, chunk = threadIdx.x % 16, column = c * 64 + chunk * 4;
      if (row < rows && column < p.head_dim) {
        float4 total = {0.f, 0.f, 0.f, 0.f};
        for (int w = 0; w < WARPS; w++) {
          const float4 x = shared.o[w * ROWS * 16 + sums_at(row, chunk)];
          total.x += x.x, total.y += x.y, total.z += x.z, total.w += x.w;
        }
        T* out = (T*)p.out + row_at(row) + column;
        if (VECTOR) {
          *(uint2*)out = make_uint2(pack(T{}, total.x, total.y), pack(T{}, total.z, total.w));
        } else {
          const float x[4] = {total.x, total.y, total.z, total.w};
#pragma unroll
          for (int i = 0; i < 4; i++)
            if (column + i < p.head_dim) out[i] = round_to(T{}, x[i]);
        }
      }
      __syncthreads();
    }
    from += ROWS;
  } while (from < all);
}

template <class T, int W> __device__ __forceinline__ void any_width(const AttentionArgs& p) {
  __shared__ Shared<T, W> shared;
  if (W == 256 || p.head_dim % 8 == 0)
    decode<T, W, true>(p, shared);
  else
    decode<T, W, W == 256>(p, shared);
}

#define KERNELS(name, width)                                                                                             \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) name##_bf16(AttentionArgs p) { any_width<bf16, width>(p); }      \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) name##_f16(AttentionArgs p) { any_width<f16, width>(p); }

KERNELS(attention_decode_d64, 64)
KERNELS(attention_decode_d128, 128)
// For widths that are multiples of 8 only: other rows need more registers.
KERNELS(attention_decode_d256, 256)

// Causal softmax attention of many queries: out = softmax(q k^T scale) v with an online softmax (flash attention).
// q (B, S, N, D), k and v (B, capacity, K, D) element, kv_head_of (N), mask (B, capacity), slots (keys) -> out (B, S, N, D).
// Launch: (N, ceil(S / Q), B) blocks of 128 threads, for Q = 128 or 64 queries; longest rows first.
// Registers: at most 255. Static shared memory: 0 bytes. Dynamic shared memory: 2 W (Q + 3 R) + 4 Q and gaps, for head
//   width W >= D and key tiles of R = 64 keys (32 for W = 256): 82592 bytes at most.
// Bytes: reads 2 B S N D + sum over blocks of (4 D E + 128, and with a mask 16 min(keys, E up to whole tiles + R)), E the
//        keys up to the block's last query (a window leaves out tiles in front), writes 2 B S N D.
// Bank conflicts: none (16-byte chunks of a row are permuted by its number).
// Accumulation: f32; mma over d, then over keys ascending; the sum of a row over its four lanes last. Probabilities are
//   rounded to the element for their product with v; the sum takes them unrounded.
// Test: gpu_ops::attention
#include "attention.cuh"

constexpr int WARPS = 4, THREADS = 32 * WARPS, STAGES = 3;

// Where 16-byte chunk `chunk` of row `row` is in a tile of rows of W elements: neither cp.async nor ldmatrix conflict.
template <int W> __device__ __forceinline__ int at(int row, int chunk) {
  return row * W + ((chunk ^ (W == 32 ? row >> 1 & 3 : row & 7)) << 3);
}

// Copies a tile of ROWS rows, of which `rows` exist, to shared memory; the rest becomes 0.
template <class T, int W, int ROWS, bool VECTOR>
__device__ __forceinline__ void load_tile(T* to, const T* from, size_t stride, int rows, int head_dim) {
  if (VECTOR) {
    constexpr int SIDE = W / 8;
    const int row = threadIdx.x / SIDE, chunk = threadIdx.x % SIDE;
    const bool column = chunk * 8 < head_dim;
    from += row * stride + chunk * 8;
#pragma unroll
    for (int r = 0; r < ROWS; r += THREADS / SIDE, from += THREADS / SIDE * stride)
      cp_async16(to + at<W>(row + r, chunk), from, column && row + r < rows ? 16 : 0);
  } else {
    for (int i = threadIdx.x; i < ROWS * W; i += THREADS) {
      const int row = i / W, column = i % W;
      const bool inside = row < rows && column < head_dim;
      to[at<W>(row, column / 8) + column % 8] = inside ? from[row * stride + column] : T{0};
    }
  }
}

// TILES times 16 queries per warp, KEYS keys at a time.
template <class T, int W, int TILES, int KEYS, bool VECTOR>
__device__ __forceinline__ void attention(const AttentionArgs& p) {
  constexpr int QUERIES = 16 * TILES * WARPS, WORDS = KEYS / 32;
  DYNAMIC_SHARED(shared);
  T* const sq = shared.take<T>(QUERIES * W, 128);
  T* const ring = shared.take<T>(STAGES * KEYS * W, 128);
  int* const lows = shared.take<int>(QUERIES);
  const int lane = threadIdx.x & 31, own = (threadIdx.x >> 5) * 16 * TILES, group = lane >> 2, pair = (lane & 3) * 2;
  const int head = blockIdx.x, first = (gridDim.y - 1 - blockIdx.y) * QUERIES, sample = blockIdx.z;
  const size_t q_stride = (size_t)p.heads * p.head_dim, kv_stride = (size_t)p.kv_heads * p.head_dim;
  const size_t q_at = ((size_t)sample * p.tokens + first) * q_stride + (size_t)head * p.head_dim;
  const size_t kv_at = (size_t)sample * p.capacity * kv_stride + (size_t)p.kv_head_of[head] * p.head_dim;
  const unsigned* mask = p.mask ? p.mask + (size_t)sample * p.capacity : nullptr;
  const int rows = min(QUERIES, p.tokens - first);
  // As keys: the first query, and one past the last.
  const int diagonal = p.keys - p.tokens + first, end = diagonal + rows;
  const int start = min(first_in_window(p, diagonal), end - 1) / KEYS * KEYS;
  const int steps = 2 * ((end - start + KEYS - 1) / KEYS);

  // Tiles come as k, v, k, v, ... into a ring.
  int next = 0, next_stage = 0;
  auto fetch = [&] {
    if (next < steps) {
      const int key = start + next / 2 * KEYS;
      const T* from = (const T*)(next % 2 ? p.v : p.k) + kv_at + (size_t)key * kv_stride;
      load_tile<T, W, KEYS, VECTOR>(ring + next_stage * KEYS * W, from, kv_stride, end - key, p.head_dim);
    }
    cp_async_commit();
    next++;
    next_stage = next_stage + 1 == STAGES ? 0 : next_stage + 1;
  };
  // The oldest tile under way, once all of it has arrived and no thread reads the tile before it, whose place is filled
  // again.
  int stage = 0;
  auto take = [&] {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    fetch();
    const T* tile = ring + stage * KEYS * W;
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    return tile;
  };
  load_tile<T, W, QUERIES, VECTOR>(sq, (const T*)p.q + q_at, q_stride, rows, p.head_dim);
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) fetch();
  if (threadIdx.x < QUERIES) lows[threadIdx.x] = first_in_window(p, diagonal + min((int)threadIdx.x, rows - 1));

  const float scale = p.scale * LOG2_E;
  float o[TILES][W / 8][4] = {}, most[TILES][2], sum[TILES][2] = {};
#pragma unroll
  for (int i = 0; i < TILES; i++) most[i][0] = most[i][1] = MINUS_INFINITY;
  // Masks are read a tile ahead.
  unsigned ahead[WORDS];
#pragma unroll
  for (int w = 0; w < WORDS; w++) ahead[w] = mask_at(p, mask, start + 32 * w + lane);

#pragma unroll 1
  for (int key = start; key < end; key += KEYS) {
    unsigned show[WORDS], none = 0, all = FULL_WARP;
#pragma unroll
    for (int w = 0; w < WORDS; w++) {
      show[w] = __ballot_sync(FULL_WARP, ahead[w] != 0);
      ahead[w] = mask_at(p, mask, key + KEYS + 32 * w + lane);
      none |= show[w];
      all &= show[w];
    }
    const T* k = take();
    // Whether this warp's queries see any of the tile; the same for all its lanes.
    const int last = min(own + 16 * TILES, rows) - 1;
    const bool visible = own <= last && key <= diagonal + last && key + KEYS > lows[own] && none != 0;
    uint32_t probability[TILES][KEYS / 16][4];
    if (visible) {
      float s[TILES][KEYS / 8][4] = {};
#pragma unroll
      for (int d = 0; d < W / 16; d++) {
        uint32_t a[TILES][4];
#pragma unroll
        for (int i = 0; i < TILES; i++)
          ldmatrix_x4(a[i], sq + at<W>(own + i * 16 + (lane & 15), d * 2 + (lane >> 4)));
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
          uint32_t b[4];
          ldmatrix_x4(b, k + at<W>(j * 16 + (lane & 7) + ((lane >> 4) << 3), d * 2 + (lane >> 3 & 1)));
#pragma unroll
          for (int i = 0; i < TILES; i++) {
            mma(T{}, s[i][2 * j], a[i], b[0], b[1]);
            mma(T{}, s[i][2 * j + 1], a[i], b[2], b[3]);
          }
        }
      }
      // Most tiles are visible throughout.
      if (all != FULL_WARP || key + KEYS - 1 > diagonal + own || key < lows[own + 16 * TILES - 1]) {
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
          for (int h = 0; h < 2; h++) {
            const int row = own + i * 16 + h * 8 + group, high = diagonal + row, low = lows[row];
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
              for (int e = 0; e < 2; e++) {
                const int at_key = key + j * 8 + pair + e;
                const bool seen = (show[j / 4] >> (j % 4 * 8 + pair + e) & 1) && at_key >= low && at_key <= high;
                if (!seen) s[i][j][2 * h + e] = MINUS_INFINITY;
              }
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        float shrink[2];
        bool grown = false;
#pragma unroll
        for (int h = 0; h < 2; h++) {
          float m = most[i][h];
#pragma unroll
          for (int j = 0; j < KEYS / 8; j++) m = fmaxf(m, fmaxf(s[i][j][2 * h], s[i][j][2 * h + 1]));
          m = fmaxf(m, __shfl_xor_sync(FULL_WARP, m, 1));
          m = fmaxf(m, __shfl_xor_sync(FULL_WARP, m, 2));
          grown |= m != most[i][h];
          // A row that has seen no key yet keeps exponents of minus infinity.
          const float base = m == MINUS_INFINITY ? 0.f : m * scale;
          shrink[h] = exp2_approx(most[i][h] * scale - base);
          most[i][h] = m;
          float total = 0.f;
#pragma unroll
          for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
              float& x = s[i][j][2 * h + e];
              x = exp2_approx(x * scale - base);
              total += x;
            }
          }
          sum[i][h] = sum[i][h] * shrink[h] + total;
        }
        if (__any_sync(FULL_WARP, grown)) {
#pragma unroll
          for (int j = 0; j < W / 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) o[i][j][e] *= shrink[e >> 1];
          }
        }
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const float* x = s[i][2 * j + (e >> 1)] + (e & 1) * 2;
            probability[i][j][e] = pack(T{}, x[0], x[1]);
          }
        }
      }
    }
    const T* v = take();
    if (visible) {
#pragma unroll
      for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
        for (int d = 0; d < W / 16; d++) {
          uint32_t b[4];
          ldmatrix_x4_trans(b, v + at<W>(j * 16 + (lane & 15), d * 2 + (lane >> 4)));
#pragma unroll
          for (int i = 0; i < TILES; i++) {
            mma(T{}, o[i][2 * d], probability[i][j], b[0], b[1]);
            mma(T{}, o[i][2 * d + 1], probability[i][j], b[2], b[3]);
          }
        }
      }
    }
  }

  // Through the warp's own rows of q, so that whole sectors are written.
#pragma unroll
  for (int i = 0; i < TILES; i++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float total = sum[i][h];
      total += __shfl_xor_sync(FULL_WARP, total, 1);
      total += __shfl_xor_sync(FULL_WARP, total, 2);
      const float inverse = total > 0.f ? 1.f / total : 0.f;
      const int row = own + i * 16 + h * 8 + group;
#pragma unroll
      for (int j = 0; j < W / 8; j++)
        *(uint32_t*)(sq + at<W>(row, j) + pair) = pack(T{}, o[i][j][2 * h] * inverse, o[i][j][2 * h + 1] * inverse);
    }
  }
  __syncwarp();
  T* const out = (T*)p.out + q_at;
  constexpr int PIECE = VECTOR ? 8 : 1;
#pragma unroll 4
  for (int i = lane; i < 16 * TILES * W / PIECE; i += 32) {
    const int row = own + i / (W / PIECE), column = i % (W / PIECE) * PIECE;
    if (row >= rows || column >= p.head_dim) continue;
    const T* from = sq + at<W>(row, column / 8) + column % 8;
    if (VECTOR)
      *(uint4*)(out + row * q_stride + column) = *(const uint4*)from;
    else
      out[row * q_stride + column] = *from;
  }
}

template <class T, int W, int TILES, int KEYS> __device__ __forceinline__ void any_width(const AttentionArgs& p) {
  if (p.head_dim % 8 == 0)
    attention<T, W, TILES, KEYS, true>(p);
  else
    attention<T, W, TILES, KEYS, false>(p);
}

#define KERNELS(name, blocks, body)                                                                                 \
  extern "C" __global__ void __launch_bounds__(THREADS, blocks) name##_bf16(AttentionArgs p) { using T = bf16; body(p); } \
  extern "C" __global__ void __launch_bounds__(THREADS, blocks) name##_f16(AttentionArgs p) { using T = f16; body(p); }

KERNELS(attention_q64_d32, 4, (any_width<T, 32, 1, 64>))
KERNELS(attention_q64_d64, 4, (any_width<T, 64, 1, 64>))
KERNELS(attention_q64_d128, 2, (any_width<T, 128, 1, 64>))
KERNELS(attention_q64_d256, 2, (any_width<T, 256, 1, 32>))
// Twice the queries per key tile read from shared memory; for widths that are multiples of 8 only.
KERNELS(attention_q128_d32, 2, (attention<T, 32, 2, 64, true>))
KERNELS(attention_q128_d64, 2, (attention<T, 64, 2, 64, true>))
KERNELS(attention_q128_d128, 2, (attention<T, 128, 2, 64, true>))

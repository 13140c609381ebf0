// Cross-entropy without logits in memory: loss = log sum exp(x head^T) - logit of the target (docs/method.md, section 8).
//   The first kernel leaves the largest logit and the sum of exponentials of each row and tile of 128 tokens, the second
//   combines them.
// x (T, H) element, head (V, H) element, targets (T) u32 -> partial (ceil(V / 128), T, 2) f32, target_logits (T) f32; then
//   out (T) f32, 0 where the target is 0xffffffff
// Launch: ceil(T / M) ceil(V / 128) blocks of 128 threads for M = 128, 64 or 32; then ceil(T / 32) blocks of 256 threads.
// Registers: at most 255. Static shared memory: 2048 bytes. Dynamic shared memory: 69648 bytes for M = 128, 73744 for 64,
//   61456 for 32.
// Bytes: reads ceil(V / 128) (2 T H + 4 T) + ceil(T / M) 2 V H, writes 8 T ceil(V / 128) + a sector per target
// Bank conflicts: none.
// Accumulation: f32; a tile's exponentials by lane and butterfly; tiles by warp ascending, warps ascending.
// Test: gpu_ops::cross_entropy
#include "activation.cuh"
#include "gemm.cuh"

template <class T, class Tile> __device__ __forceinline__ void cross_entropy(const CrossEntropyArgs& p) {
  DYNAMIC_SHARED(shared);
  unsigned char* workspace = shared.take<unsigned char>(Tile::SHARED);
  __shared__ float2 partial[Tile::M];
  const RowOrder order{p.rows, 0, 0};
  const Place at = place(order.tiles(Tile::M), (p.vocab_size + Tile::N - 1) / Tile::N, p.raster_group);
  const int m = at.m * Tile::M, n = at.n * Tile::N, tid = threadIdx.x;
  const T *x = (const T*)p.x, *head = (const T*)p.head;
  RowLoader<T, Tile, Tile::M> a(x, p.in_features,
                                [&](int r) { return m + r < p.rows ? x + (size_t)(m + r) * p.in_features : nullptr; });
  RowLoader<T, Tile, Tile::N> b(head, p.in_features,
                                [&](int r) { return n + r < p.vocab_size ? head + (size_t)(n + r) * p.in_features : nullptr; });
  float sum[Tile::I][Tile::J][4] = {};
  multiply<T, Tile>((T*)workspace, a, b, (p.in_features + Tile::K - 1) / Tile::K, sum);
  float* sums = (float*)workspace;
  stage<1>(sum, sums, Tile{});

  // Half a warp takes a row; all of them go through the shuffles.
  const int c = tid % 16 * 8, real = min(8, p.vocab_size - n - c);
#pragma unroll 1
  for (int r = tid / 16; r < Tile::M; r += Tile::THREADS / 16) {
    const unsigned target = m + r < p.rows ? p.targets[m + r] : 0xffffffffu;
    float v[8], largest = -INFINITY, total = 0.f;
    read8(sums + r * Tile::PITCH, c, v);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (i >= real) continue;
      largest = fmaxf(largest, v[i]);
      if (target == n + c + i) p.target_logits[m + r] = v[i];
    }
#pragma unroll
    for (int d = 8; d > 0; d >>= 1) largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, d));
    // v - v is 0, or a NaN where the logit is not finite: the loss then is NaN too.
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < real) total += exp2_approx((v[i] - largest) * LOG2_E) + (v[i] - v[i]);
#pragma unroll
    for (int d = 8; d > 0; d >>= 1) total += __shfl_xor_sync(FULL_WARP, total, d);
    if (tid % 16 == 0) partial[r] = make_float2(largest, total);
  }
  __syncthreads();
  if (tid < Tile::M && m + tid < p.rows) ((float2*)p.partial)[(size_t)at.n * p.rows + m + tid] = partial[tid];
}

TILE_KERNELS(cross_entropy, CrossEntropyArgs, cross_entropy)

// A block has 32 rows, a warp every eighth tile of them.
extern "C" __global__ void __launch_bounds__(256) cross_entropy_combine(CrossEntropyCombineArgs p) {
  __shared__ float largest[8][32], sums[8][32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = blockIdx.x * 32 + lane;
  const float2* partial = (const float2*)p.partial + row;
  float most = -INFINITY, sum = 0.f;
  if (row < p.rows) {
    for (int tile = warp; tile < p.tiles; tile += 8) most = fmaxf(most, partial[(size_t)tile * p.rows].x);
  }
  largest[warp][lane] = most;
  __syncthreads();
  most = largest[0][lane];
#pragma unroll
  for (int w = 1; w < 8; w++) most = fmaxf(most, largest[w][lane]);
  if (row < p.rows) {
    for (int tile = warp; tile < p.tiles; tile += 8) {
      const float2 part = partial[(size_t)tile * p.rows];
      sum += part.y * exp2_approx((part.x - most) * LOG2_E);
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || row >= p.rows) return;
  sum = sums[0][lane];
#pragma unroll
  for (int w = 1; w < 8; w++) sum += sums[w][lane];
  const bool has_target = p.targets[row] != 0xffffffffu;
  p.out[row] = has_target ? logf(sum) + (most - p.target_logits[row]) : 0.f;
}

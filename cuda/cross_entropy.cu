// Cross-entropy without logits in memory: loss = log sum exp(x * head^T) - logit of the target. The first kernel leaves the
// largest logit and the sum of exponentials of each row and tile of 128 tokens, the second combines them.
// x (T, H) element, weight (V, H) element, targets (T) u32 -> partial (T, ceil(V / 128), 2) f32, target_logits (T) f32;
//   then losses (T) f32, 0 where the target is 0xffffffff
// Launch: ceil(V / 128) ceil(T / BM) blocks of 256 threads, BM = 128 or 64; then T blocks of 32 threads.
// Registers: at most 128. Static shared memory: 0 bytes. Dynamic shared memory: 69648 bytes for BM = 128, 49168 for 64.
// Bytes: reads ceil(V / 128) (2 T H + 32 T) + ceil(T / BM) 2 V H, writes 32 T ceil(V / 128) + 32 T, a sector for each pair
// Bank conflicts: none.
// Accumulation: f32; a tile's exponentials by lane and butterfly, tiles likewise.
// Test: gpu_ops::cross_entropy
#include "gemm.cuh"

constexpr float LOG2_E = 1.44269504f;

template <class T, int BM> __device__ __forceinline__ void cross_entropy(const CrossEntropyArgs& p) {
  DYNAMIC_SHARED(shared);
  unsigned char* const memory = shared.take<unsigned char>(SHARED_BYTES<BM>, 128);
  const int n_tiles = (p.vocab + BN - 1) / BN;
  const TileIndex tile(p.m_tiles, n_tiles);
  const TileRows rows = TileRows::of<BM>(tile.m, p.rows, 0);
  const int n0 = tile.n * BN, wn = threadIdx.x >> 6, lane = threadIdx.x & 31;
  const auto first = [&](int j) { return wn * 32 + j * 16; };
  Sums<BM> sums;
  {
    const KMajor<T, BM> a(p.x, p.width, [&](int m) {
      const int row = rows.row(m);
      return row < 0 ? nullptr : (const T*)p.x + (size_t)row * p.width;
    });
    const KMajor<T, BN> b(p.weight, p.width, [&](int n) {
      return n0 + n < p.vocab ? (const T*)p.weight + (size_t)(n0 + n) * p.width : nullptr;
    });
    const bool aligned = p.width % 8 == 0;
    const auto load = [&](T* to_a, T* to_b, int k) {
      a.load(to_a, k, aligned);
      b.load(to_b, k, aligned);
    };
    pipeline<T, BM, RowsOfB<T, BM>>(sums, (T*)memory, p.width, load, first);
  }
  float* const values = (float*)memory;
  spread<BM>(sums, values, first);
  const int count = p.vocab - n0 - 4 * lane;
#pragma unroll 1
  for (int m = threadIdx.x / 32; m < BM; m += THREADS / 32) {
    const int row = rows.row(m);
    if (row < 0) continue;
    const float4 at = *(const float4*)(values + m * PITCH + 4 * lane);
    const float v[4] = {at.x, at.y, at.z, at.w};
    float most = -INFINITY, sum = 0.f;
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (i < count) most = fmaxf(most, v[i]);
    most = warp_max(most);
    // A NaN among the logits is not the largest, but makes the sum a NaN; so do infinities.
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (i < count) sum += exp2_approx((v[i] - most) * LOG2_E);
    sum = warp_sum(sum);
    if (lane == 0) *(float2*)(p.partial + 2 * ((size_t)row * n_tiles + tile.n)) = make_float2(most, sum);
    const int target = (int)(p.targets[row] - (unsigned)n0);
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (target == 4 * lane + i && i < count) p.target_logits[row] = v[i];
  }
}

#define KERNELS(rows)                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) cross_entropy_m##rows##_bf16(CrossEntropyArgs p) { \
    cross_entropy<bf16, rows>(p);                                                                            \
  }                                                                                                          \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) cross_entropy_m##rows##_f16(CrossEntropyArgs p) { \
    cross_entropy<f16, rows>(p);                                                                             \
  }
KERNELS(128)
KERNELS(64)

extern "C" __global__ void __launch_bounds__(32) cross_entropy_combine(CrossEntropyCombineArgs p) {
  const int row = blockIdx.x;
  if (p.targets[row] == 0xffffffffu) {
    if (threadIdx.x == 0) p.losses[row] = 0.f;
    return;
  }
  const float2* partial = (const float2*)p.partial + (size_t)row * p.tiles;
  float most = -INFINITY, sum = 0.f;
  for (int i = threadIdx.x; i < p.tiles; i += 32) most = fmaxf(most, partial[i].x);
  most = warp_max(most);
  for (int i = threadIdx.x; i < p.tiles; i += 32) sum += partial[i].y * exp2_approx((partial[i].x - most) * LOG2_E);
  sum = warp_sum(sum);
  if (threadIdx.x == 0) p.losses[row] = most + logf(sum) - p.target_logits[row];
}

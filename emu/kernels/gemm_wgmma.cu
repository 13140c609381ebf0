// C = A * B^T in bf16 with f32 accumulation, on bulk tensor copies, an mbarrier ring and wgmma (sm_90a).
// A (M, K), B (N, K) row-major bf16, C (M, N) row-major f32, all by tensor maps: boxes of 64 k x 64 rows with 128-byte
// swizzle for A and B, of 64 x 64 floats without for C. Tile 64x64x64, three stages, one producer thread, one consumer
// warpgroup. Launch: (ceil(N/64), ceil(M/64)) blocks of 256 threads; dynamic shared memory 66768 bytes. Order: k ascending.
// Test: kernels::gemm_wgmma
#include "args.h"
#include "primitives.cuh"

#ifndef BUG
#define BUG 0
#endif
// 1 stage overwritten while it is read, 2 expects too many bytes, 3 stage released before wgmma is done, 4 wrong swizzle
// in the descriptor, 5 does not wait for the data, 6 no fence.proxy.async, 7 wrong stride in the descriptor, 8 expects
// too few bytes, 9 phase never flips, 10 no wgmma.fence, 11 accumulators used without a last wgmma.wait_group,
// 12 returns before the store has read shared memory

constexpr int BM = 64, BN = 64, BK = 64, STAGES = 3;

extern "C" __global__ void __launch_bounds__(256)
gemm_wgmma(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
           const __grid_constant__ TensorMap map_c, GemmTmaArgs p) {
  DYNAMIC_SHARED(shared);
  bf16* sa = shared.take<bf16>(STAGES * BM * BK, 1024);
  bf16* sb = shared.take<bf16>(STAGES * BN * BK, 1024);
  float* sc = shared.take<float>(BM * BN, 128);
  uint64_t* full = shared.take<uint64_t>(STAGES, 8);
  uint64_t* empty = shared.take<uint64_t>(STAGES, 8);
  const int tid = threadIdx.x, m0 = blockIdx.y * BM, n0 = blockIdx.x * BN, steps = (p.k + BK - 1) / BK;
  if (tid == 0) {
    for (int i = 0; i < STAGES; i++) { mbarrier_init(full + i, 1); mbarrier_init(empty + i, 4); }
    fence_mbarrier_init();
  }
  __syncthreads();
  if (tid >= 128) {
    if (tid == 128) {
      int stage = 0;
      unsigned phase = 0;
#pragma unroll 1
      for (int kt = 0; kt < steps; kt++) {
        if (BUG != 1) mbarrier_wait(empty + stage, phase ^ 1);
        mbarrier_arrive_expect(full + stage, (BM + BN) * BK * 2 + (BUG == 2 ? 128 : BUG == 8 ? -128 : 0));
        tma_load_2d(sa + stage * BM * BK, &map_a, kt * BK, m0, full + stage);
        tma_load_2d(sb + stage * BN * BK, &map_b, kt * BK, n0, full + stage);
        if (++stage == STAGES) { stage = 0; if (BUG != 9) phase ^= 1; }
      }
    }
    return;
  }
  float d[BN / 2];
#pragma unroll
  for (int i = 0; i < BN / 2; i++) d[i] = 0.f;
  int stage = 0;
  unsigned phase = 0;
#pragma unroll 1
  for (int kt = 0; kt < steps; kt++) {
    if (BUG != 5) mbarrier_wait(full + stage, phase);
    for (int i = 0; i < BN / 2; i++) wgmma_pin(d[i]);
    if (BUG != 10) wgmma_fence();
#pragma unroll
    for (int k = 0; k < BK / 16; k++) {
      const uint64_t a = wgmma_descriptor(sa + stage * BM * BK + k * 16, 16, 1024, WGMMA_128B);
      const uint64_t b = wgmma_descriptor(sb + stage * BN * BK + k * 16, 16, BUG == 7 ? 2048 : 1024, BUG == 4 ? WGMMA_64B : WGMMA_128B);
      wgmma_m64n64k16_bf16(d, a, b);
    }
    wgmma_commit();
    if (BUG == 3 && (tid & 31) == 0) mbarrier_arrive(empty + stage);
    if (BUG != 11 || kt + 1 < steps) wgmma_wait<0>();
    if (BUG != 3 && (tid & 31) == 0) mbarrier_arrive(empty + stage);
    if (++stage == STAGES) { stage = 0; phase ^= 1; }
  }
  const int warp = tid >> 5, lane = tid & 31;
#pragma unroll
  for (int j = 0; j < BN / 8; j++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int r = warp * 16 + (lane >> 2) + 8 * h, c = j * 8 + (lane & 3) * 2;
      sc[r * BN + c] = d[4 * j + 2 * h];
      sc[r * BN + c + 1] = d[4 * j + 2 * h + 1];
    }
  if (BUG != 6) fence_proxy_async();
  asm volatile("bar.sync 1, 128;" ::: "memory");
  if (tid == 0) {
    tma_store_2d(&map_c, sc, n0, m0);
    bulk_commit();
    if (BUG != 12) bulk_wait<0>();
  }
}

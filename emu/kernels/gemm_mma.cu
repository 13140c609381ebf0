// C = A * B^T in bf16 with f32 accumulation, on cp.async, ldmatrix and mma.sync; also max |C| per row.
// A (M, K), B (N, K) row-major bf16, K a multiple of 8; C (M, N) f32; row_max (M) bits of f32. Tile 64x64x32, two stages.
// Launch: (ceil(N/64), ceil(M/64)) blocks of 128 threads; dynamic shared memory 16512 bytes. Order: k ascending.
// No bank conflicts in shared memory. Test: kernels::gemm_mma
#include "args.h"
#include "primitives.cuh"

#ifndef BUG
#define BUG 0
#endif
// 1 no wait for the copies, 2 buffer reused while it is read, 3 global out of bounds, 4 waits for one group too few

constexpr int BM = 64, BN = 64, BK = 32, THREADS = 128;

// Rows of 64 bytes in four 16-byte chunks, permuted so that neither cp.async nor ldmatrix has bank conflicts.
__device__ __forceinline__ int at(int row, int chunk) { return row * BK + ((chunk ^ ((row >> 1) & 3)) << 3); }

extern "C" __global__ void __launch_bounds__(128) gemm_mma(GemmArgs p) {
  DYNAMIC_SHARED(shared);
  bf16* sa = shared.take<bf16>(2 * BM * BK, 128);
  bf16* sb = shared.take<bf16>(2 * BN * BK, 128);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, wm = warp & 1, wn = warp >> 1;
  const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
  auto load = [&](int stage, int k0) {
#pragma unroll
    for (int i = 0; i < BM * BK / 8 / THREADS; i++) {
      const int c = tid + i * THREADS, r = c >> 2, ch = c & 3, k = k0 + ch * 8;
      const bool in_a = m0 + r < (BUG == 3 ? p.m + 1 : p.m) && k < p.k, in_b = n0 + r < p.n && k < p.k;
      cp_async16(sa + stage * BM * BK + at(r, ch), in_a ? p.a + (size_t)(m0 + r) * p.k + k : p.a, in_a);
      cp_async16(sb + stage * BN * BK + at(r, ch), in_b ? p.b + (size_t)(n0 + r) * p.k + k : p.b, in_b);
    }
    cp_async_commit();
  };
  float acc[2][4][4] = {};
  const int steps = (p.k + BK - 1) / BK;
  load(0, 0);
#pragma unroll 1
  for (int kt = 0; kt < steps; kt++) {
    if (kt + 1 < steps) {
      load((kt + 1) & 1, (kt + 1) * BK);
      if (BUG != 1) cp_async_wait<BUG == 4 ? 2 : 1>();
    } else if (BUG != 1) {
      cp_async_wait<0>();
    }
    __syncthreads();
    const bf16 *a = sa + (kt & 1) * BM * BK, *b = sb + (kt & 1) * BN * BK;
#pragma unroll
    for (int ks = 0; ks < BK / 16; ks++) {
      uint32_t fa[2][4], fb[4][2];
#pragma unroll
      for (int i = 0; i < 2; i++) ldmatrix_x4(fa[i], a + at(wm * 32 + i * 16 + (lane & 15), ks * 2 + (lane >> 4)));
#pragma unroll
      for (int j = 0; j < 2; j++) {
        uint32_t t[4];
        ldmatrix_x4(t, b + at(wn * 32 + j * 16 + (lane & 7) + ((lane >> 4) << 3), ks * 2 + ((lane >> 3) & 1)));
        fb[2 * j][0] = t[0]; fb[2 * j][1] = t[1]; fb[2 * j + 1][0] = t[2]; fb[2 * j + 1][1] = t[3];
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma_m16n8k16_bf16(acc[i][j], fa[i], fb[j]);
    }
    if (BUG != 2) __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int r = m0 + wm * 32 + i * 16 + h * 8 + (lane >> 2);
      float most = 0.f;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int c = n0 + wn * 32 + j * 8 + (lane & 3) * 2;
        const float x = acc[i][j][2 * h], y = acc[i][j][2 * h + 1];
        if (r < p.m && c < p.n) p.c[(size_t)r * p.n + c] = x;
        if (r < p.m && c + 1 < p.n) p.c[(size_t)r * p.n + c + 1] = y;
        most = fmaxf(most, fmaxf(fabsf(x), fabsf(y)));
      }
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
      if ((lane & 3) == 0 && r < p.m) atomicMax(p.row_max + r, __float_as_uint(most));
    }
}

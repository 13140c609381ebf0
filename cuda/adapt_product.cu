// A product of float32 matrices (correction of folds: ours).
// a (M, K) and b (K, N) f32, either of them possibly stored transposed, ones (M) f32 or null, fault (1) u32 or null
//   -> out (M, N) f32:
//   out = ([out +] sign a b + [gain ones ones^T + I]) / divisor, but as before where fault is not 0.
//   A symmetric one (b = a^T, out symmetric before) is computed below the diagonal and written to both of its sides.
// Launch: (ceil(N / 64), ceil(M / 64)) blocks of 256 threads.
// Registers: at most 80. Static shared memory: 8704 bytes. Dynamic shared memory: 0.
// Bytes: reads ceil(N / 64) 4 M K + ceil(M / 64) 4 K N, with the old out 4 M N more, writes 4 M N. A symmetric one, with
//   t = ceil(N / 64), reads 512 K t (t + 1) / 2 + 8192 t^2 + 1024 t, writes 4 N^2 + 1024 t. More is read for each tile that is
//   computed: 256 of fault, 9216 of ones.
// Bank conflicts: none.
// Accumulation: f32, k ascending; then the old out, then the rest.
// Test: gpu_ops::adapt
#include "tile.cuh"

// Writes v to x[0..4], those from `room` on left out.
__device__ __forceinline__ void write4(float* x, const float (&v)[4], int room, bool whole) {
  if (whole) {
    if (room > 0) *(float4*)x = make_float4(v[0], v[1], v[2], v[3]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (i < room) x[i] = v[i];
  }
}

__device__ __forceinline__ void read4(float (&v)[4], const float* x, int room, bool whole) {
  if (whole) {
    float4 old = {};
    if (room > 0) old = *(const float4*)x;
    v[0] = old.x, v[1] = old.y, v[2] = old.z, v[3] = old.w;
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = i < room ? x[i] : 0.f;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_product(AdaptProductArgs p) {
  __shared__ alignas(16) Stages stages;
  if (p.symmetric && blockIdx.x > blockIdx.y) return;
  if (p.fault && *p.fault) return;
  const int m = blockIdx.y * TILE, n = blockIdx.x * TILE;
  // `multiply` sums over rows of both.
  const Matrix a = {p.a, p.depth, p.rows, p.a_transposed ? p.rows : p.depth, !p.a_transposed};
  const Matrix b = {p.b, p.depth, p.columns, p.b_transposed ? p.depth : p.columns, p.b_transposed != 0};
  float sum[4][4] = {};
  multiply(sum, stages, a, b, m, n);

  const int row = m + own_row(), column = n + own_column();
  if (row >= p.rows || p.symmetric && column > row) return;
  const bool whole = p.columns % 4 == 0;
  const int room = p.columns - column;
  float across[4] = {};
  if (p.ones) {
#pragma unroll
    for (int c = 0; c < 4; c++)
      if (c < room) across[c] = p.ones[column + c];
  }
#pragma unroll
  for (int r = 0; r < 4; r++) {
    if (row + r >= p.rows) break;
    float old[4] = {};
    if (p.add) read4(old, p.out + (size_t)(row + r) * p.columns + column, room, whole);
    const float down = p.ones ? p.ones[row + r] * p.gain : 0.f;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      float v = old[c] + p.sign * sum[r][c];
      if (p.ones) v += down * across[c] + (row + r == column + c ? 1.f : 0.f);
      sum[r][c] = v / p.divisor;
    }
  }
  if (p.symmetric && column == row) {
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int c = r + 1; c < 4; c++) sum[r][c] = sum[c][r];
  }
#pragma unroll
  for (int r = 0; r < 4; r++)
    if (row + r < p.rows) write4(p.out + (size_t)(row + r) * p.columns + column, sum[r], room, whole);
  if (p.symmetric && column < row) {
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const float v[4] = {sum[0][c], sum[1][c], sum[2][c], sum[3][c]};
      if (c < room) write4(p.out + (size_t)(column + c) * p.columns + row, v, p.columns - row, whole);
    }
  }
}

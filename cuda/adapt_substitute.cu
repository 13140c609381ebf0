// Forward substitution (correction of folds: ours).
// factor (T, T) f32, lower, x (T, N) f32, possibly stored transposed -> x, in place:
//   rows `first` to `end` of L^-1 x, where the rows before `first` have been found already. `first` is a multiple of 64.
// Launch: ceil(N / 64) blocks of 256 threads.
// Registers: at most 112. Static shared memory: 43520 bytes. Dynamic shared memory: 0.
// Bytes: for w rows from r on, each 64 of them: reads ceil(N / 64) (4 w r + 2 w^2 + 16 w) + 4 N (r + w), writes 4 N w
// Bank conflicts: none.
// Accumulation: f32, columns of L ascending: those before a block of 64 rows in a sum of their own.
// Test: gpu_ops::adapt
#include "tile.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) adapt_substitute(AdaptSubstituteArgs p) {
  __shared__ alignas(16) float tile[TILE][PITCH];
  __shared__ float lower[TILE][PITCH];  // of L, on the diagonal
  __shared__ alignas(16) Stages stages;
  const int tid = threadIdx.x, n = blockIdx.x * TILE, c = tid % TILE;
  const bool transposed = p.transposed != 0;
  for (int row = p.first; row < p.end; row += TILE) {
    const int height = min(TILE, p.end - row);
    const float* l = p.factor + (size_t)row * p.size;
    const Matrix x = {p.x, row, p.columns, transposed ? p.size : p.columns, transposed};
#pragma unroll
    for (int i = 0; i < TILE / 4; i++) {
      const Place at = place<TILE>(transposed, i);
      tile[at.r][at.c] = at.r < height && n + at.c < p.columns ? p.x[x.at(row + at.r, n + at.c)] : 0.f;
      const Place of = place<TILE>(false, i);
      lower[of.r][of.c] = of.r < height && of.c <= of.r ? l[(size_t)of.r * p.size + row + of.c] : 0.f;
    }
    __syncthreads();
    float sum[4][4] = {};
    multiply(sum, stages, {l, row, height, p.size, true}, x, 0, n);
    subtract(tile, sum);
    __syncthreads();
    // Rows stay multiplied by their pivots, so that all threads can read a row while nobody writes to it.
    for (int k = 0; k < height; k++) {
      const float found = tile[k][c] / lower[k][k];
      for (int r = k + 1 + tid / TILE; r < height; r += THREADS / TILE) tile[r][c] -= lower[r][k] * found;
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TILE / 4; i++) {
      const Place at = place<TILE>(transposed, i);
      if (at.r < height && n + at.c < p.columns) p.x[x.at(row + at.r, n + at.c)] = tile[at.r][at.c] / lower[at.r][at.r];
    }
    __syncthreads();
  }
}

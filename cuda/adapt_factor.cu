// A block of 64 columns of a Cholesky factor: its square on the diagonal (correction of folds: ours).
// matrix (T, T) f32: L in columns below `first`, S in the others -> matrix, in place: L in the lower half of rows and columns
//   `first` to min(first + 64, T).
//   L L^T = S on and below the diagonal. Pivots are at least 1, as those of any S >= I are: rounding that says otherwise has no
//   say.
// Launch: 1 block of 256 threads.
// Registers: at most 64. Static shared memory: 26368 bytes. Dynamic shared memory: 0.
// Bytes: reads 8 w first + 2 w^2 for w columns, writes 2 w^2 (half a square in whole sectors: 2 w^2 + 16 w)
// Bank conflicts: none.
// Accumulation: f32, columns ascending: those below `first` in a sum of their own.
// Test: gpu_ops::adapt
#include "tile.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) adapt_factor(AdaptFactorArgs p) {
  __shared__ alignas(16) float tile[TILE][PITCH];  // its upper half: the transposed of the lower half of S, and then of L
  __shared__ alignas(16) Stages stages;
  __shared__ float column[TILE];  // of L, the one that is taken off the rest
  const int tid = threadIdx.x, c = tid % TILE, width = min(TILE, p.size - p.first);
  const float* rows = p.matrix + (size_t)p.first * p.size;
  const Matrix done = {rows, p.first, width, p.size, true};
  float* square = p.matrix + (size_t)p.first * p.size + p.first;
#pragma unroll
  for (int i = 0; i < TILE / 4; i++) {
    const Place at = place<TILE>(true, i);
    tile[at.r][at.c] = at.r <= at.c && at.c < width ? square[(size_t)at.c * p.size + at.r] : 0.f;
  }
  __syncthreads();
  float sum[4][4] = {};
  multiply(sum, stages, done, done, 0, 0);
  subtract(tile, sum);
  __syncthreads();
  for (int k = 0; k < width; k++) {
    if (tid < TILE && c >= k) {
      const float pivot = sqrtf(fmaxf(tile[k][k], 1.f));
      column[c] = c == k ? pivot : tile[k][c] / pivot;
    }
    __syncthreads();
    for (int r = k + 1 + tid / TILE; r <= c; r += THREADS / TILE) tile[r][c] -= column[r] * column[c];
    if (tid < TILE && c >= k) tile[k][c] = column[c];
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < TILE / 4; i++) {
    const Place at = place<TILE>(true, i);
    if (at.r <= at.c && at.c < width) square[(size_t)at.c * p.size + at.r] = tile[at.r][at.c];
  }
}

// Products of float32 matrices in square tiles, for blocks of 256 threads: plain multiply-adds, because tensor cores would
// round the factors.
#pragma once
#include "device.cuh"

constexpr int THREADS = 256, TILE = 64, DEPTH = 16;
// Rows of a tile in shared memory: four floats longer, so that neither rows nor columns of it meet in a bank.
constexpr int PITCH = TILE + 4;

// A matrix (rows, columns): entry (r, c) is x[r * stride + c] or, where it is stored transposed, x[c * stride + r].
struct Matrix {
  const float* x;
  int rows, columns, stride;
  bool transposed;

  __device__ __forceinline__ size_t at(int r, int c) const {
    return transposed ? (size_t)c * stride + r : (size_t)r * stride + c;
  }
};

// The i-th place of this thread in tiles (ROWS, TILE), of ROWS / 4: as the matrix lies in memory, whole sectors of it.
struct Place { int r, c; };
template <int ROWS> __device__ __forceinline__ Place place(bool transposed, int i) {
  const int tid = threadIdx.x;
  if (transposed) return {i % (ROWS / 8) * 8 + tid % 8, i / (ROWS / 8) * (THREADS / 8) + tid / 8};
  return {i * (THREADS / TILE) + tid / TILE, tid % TILE};
}

// The four columns and rows of a tile that a thread sums up.
__device__ __forceinline__ int own_row() { return threadIdx.x / 16 * 4; }
__device__ __forceinline__ int own_column() { return threadIdx.x % 16 * 4; }

struct Stages { float a[DEPTH][PITCH], b[DEPTH][PITCH]; };

// This thread's part of rows k.. of columns first..; missing ones are 0.
__device__ __forceinline__ void fetch(float (&part)[DEPTH / 4], const Matrix& m, int k, int first) {
#pragma unroll
  for (int i = 0; i < DEPTH / 4; i++) {
    const Place at = place<DEPTH>(m.transposed, i);
    const int r = k + at.r, c = first + at.c;
    part[i] = r < m.rows && c < m.columns ? m.x[m.at(r, c)] : 0.f;
  }
}

__device__ __forceinline__ void put(float (&stage)[DEPTH][PITCH], const float (&part)[DEPTH / 4], bool transposed) {
#pragma unroll
  for (int i = 0; i < DEPTH / 4; i++) {
    const Place at = place<DEPTH>(transposed, i);
    stage[at.r][at.c] = part[i];
  }
}

// sum += a^T b for a (depth, .) from column m on and b (depth, .) from column n on. Leaves all threads behind a barrier.
__device__ __forceinline__ void multiply(float (&sum)[4][4], Stages& stages, const Matrix& a, const Matrix& b, int m, int n) {
  const int tm = own_row(), tn = own_column(), depth = a.rows;
  float next_a[DEPTH / 4], next_b[DEPTH / 4];
  fetch(next_a, a, 0, m);
  fetch(next_b, b, 0, n);
  for (int k = 0; k < depth; k += DEPTH) {
    put(stages.a, next_a, a.transposed);
    put(stages.b, next_b, b.transposed);
    __syncthreads();
    if (k + DEPTH < depth) {
      fetch(next_a, a, k + DEPTH, m);
      fetch(next_b, b, k + DEPTH, n);
    }
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
      const float4 u = *(const float4*)&stages.a[i][tm], v = *(const float4*)&stages.b[i][tn];
      const float x[4] = {u.x, u.y, u.z, u.w}, y[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++) sum[r][c] += x[r] * y[c];
    }
    __syncthreads();
  }
}

// Subtracts the threads' sums from a tile. Each thread changes values of its own.
__device__ __forceinline__ void subtract(float (&tile)[TILE][PITCH], const float (&sum)[4][4]) {
  const int tm = own_row(), tn = own_column();
#pragma unroll
  for (int r = 0; r < 4; r++) {
    float4& x = *(float4*)&tile[tm + r][tn];
    float4 y = x;
    y.x -= sum[r][0], y.y -= sum[r][1], y.z -= sum[r][2], y.w -= sum[r][3];
    x = y;
  }
}

// Shared by the matrix-vector kernels. Weights go from global memory straight into the registers that `mma` takes them
// from: a product is indifferent to the order of its terms, so a lane may call any eight neighbours "its" columns and
// load them at once. Tokens are the narrow side of the mma (8 of them; missing ones repeat the last, and their sums are
// dropped), so that one token costs as little issue time as eight, and only memory is waited for.
//
// Warps of a block split the sum; their parts meet in shared memory and are added in the order of the warps.
#pragma once
#include "device.cuh"

constexpr int MAX_WARPS = 16;

constexpr unsigned SKIPPED = 0xffffffffu;

// Weight rows of the kept ones j[0], j[1], ..., or -1 where there is none: past the end, or a skipped block.
template <int COUNT>
__device__ __forceinline__ void kept_rows(const unsigned* kept, int block_width, int count, const int (&j)[COUNT],
                                          int (&row)[COUNT]) {
  unsigned at[COUNT], index[COUNT];
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    at[i] = block_width == 1 ? j[i] : (unsigned)j[i] / (unsigned)block_width;
    index[i] = kept ? load_word(kept + at[i], j[i] < count, SKIPPED) : j[i] < count ? at[i] : SKIPPED;
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) row[i] = index[i] == SKIPPED ? -1 : (int)((index[i] - at[i]) * block_width) + j[i];
}

__device__ __forceinline__ int kept_row(const unsigned* kept, int block_width, int count, int j) {
  int row[1];
  kept_rows(kept, block_width, count, {j}, row);
  return row[0];
}

// Four (two) words of elements one at a time, for rows that are not 16 (8) bytes aligned.
template <class T, int WORDS>
__device__ __forceinline__ void load_single(uint32_t (&r)[WORDS], const T* row, int column, int limit) {
#pragma unroll
  for (int i = 0; i < WORDS; i++) {
    const uint32_t lo = column + 2 * i < limit ? row[column + 2 * i].bits : 0;
    const uint32_t hi = column + 2 * i + 1 < limit ? row[column + 2 * i + 1].bits : 0;
    r[i] = lo | hi << 16;
  }
}

// Floats of a warp's part. Its layout, tile by tile as the mma leaves them, with the odd strides that spread both the
// writes and the reads (32 neighbouring features, or 16 of two tokens) over all banks.
template <int M, int N> constexpr int PART = M * (N * 132 + 1);

template <int M, int N> __device__ __forceinline__ void leave_part(float* partial, const float (&sums)[M][N][4]) {
  const int lane = threadIdx.x & 31;
  float* part = partial + (threadIdx.x >> 5) * PART<M, N>;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) part[m * (N * 132 + 1) + n * 132 + i * 33 + lane] = sums[m][n][i];
}

// The sum of all warps' parts for row r (0 to 15) of tile m.
template <int M, int N> __device__ __forceinline__ float total(const float* partial, int m, int r, int token) {
  const int i = r / 8 * 2 + token % 2, lane = r % 8 * 4 + token % 8 / 2;
  const float* part = partial + m * (N * 132 + 1) + token / 8 * 132 + i * 33 + lane;
  float sum = 0.f;
  for (int warp = 0; warp < (int)(blockDim.x >> 5); warp++) sum += part[warp * PART<M, N>];
  return sum;
}

// ---- rows: out = x * W^T, for first projections ----------------------------------------------------------------------
// 32 columns of two weight rows for each tile and of one token's x for each eight tokens: eight neighbours per lane.
template <int M, int N> struct RowStage {
  uint32_t w[M][2][4], x[N][4];
};

// Two rows for each tile: g and g + 8 for lane 4 g + t. `limit` is in_features, or 0 for a row to skip.
template <class T, int M, int N> struct Rows {
  const T* weight[M][2];
  int limit[M][2];
  const T* x[N];
  int in_features;

  __device__ __forceinline__ void set(int m, int half, const void* base, int row) {
    limit[m][half] = row < 0 ? 0 : in_features;
    weight[m][half] = (const T*)base + (size_t)max(row, 0) * in_features;
  }
  __device__ __forceinline__ void set_x(const void* base, int rows) {
    const int g = (threadIdx.x & 31) >> 2;
#pragma unroll
    for (int n = 0; n < N; n++) x[n] = (const T*)base + (size_t)min(8 * n + g, rows - 1) * in_features;
  }
  __device__ __forceinline__ void load(RowStage<M, N>& s, int column) const {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        load_once(s.w[m][half], weight[m][half] + column, column < limit[m][half]);
#pragma unroll
    for (int n = 0; n < N; n++) load_again(s.x[n], x[n] + column, column < in_features);
  }
  __device__ __forceinline__ void load_singly(RowStage<M, N>& s, int column) const {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) load_single(s.w[m][half], weight[m][half], column, limit[m][half]);
#pragma unroll
    for (int n = 0; n < N; n++) load_single(s.x[n], x[n], column, in_features);
  }
  static __device__ __forceinline__ void add(float (&sums)[M][N][4], const RowStage<M, N>& s) {
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int m = 0; m < M; m++) {
        const uint32_t a[4] = {s.w[m][0][2 * half], s.w[m][1][2 * half], s.w[m][0][2 * half + 1], s.w[m][1][2 * half + 1]};
#pragma unroll
        for (int n = 0; n < N; n++) mma(T{}, sums[m][n], a, s.x[n][2 * half], s.x[n][2 * half + 1]);
      }
  }

  // Adds this warp's columns: every 32nd part, neighbouring warps neighbouring parts. DEPTH parts are under way.
  template <int DEPTH> __device__ __forceinline__ void multiply(float (&sums)[M][N][4]) const {
    const int step = blockDim.x;
    int from = threadIdx.x & ~31;
    int column = from + 8 * (threadIdx.x & 3);
    if (in_features % 8) {
#pragma unroll 1
      for (; from < in_features; from += step, column += step) {
        RowStage<M, N> s;
        load_singly(s, column);
        add(sums, s);
      }
      return;
    }
    RowStage<M, N> stage[DEPTH];
#pragma unroll
    for (int s = 0; s < DEPTH; s++) load(stage[s], column + s * step);
#pragma unroll 1
    for (; from < in_features; from += DEPTH * step) {
      column += DEPTH * step;
#pragma unroll
      for (int s = 0; s < DEPTH; s++) {
        add(sums, stage[s]);
        load(stage[s], column + s * step);
      }
    }
  }
};

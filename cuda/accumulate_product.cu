// Second moments for calibration: out += a^T b (compensation of pruned channels: ours).
// a (T, M) element, b (T, N) element -> out (M, N) f32, in place
// Launch: (ceil(N / 64), ceil(M / 64)) blocks of 256 threads.
// Registers: at most 64. Static shared memory: 8192 bytes. Dynamic shared memory: 0.
// Bytes: reads ceil(N / 64) 2 T M + ceil(M / 64) 2 T N + 4 M N, writes 4 M N
// Bank conflicts: none.
// Accumulation: f32, rows ascending; then the old sum.
// Test: gpu_ops::compensation
#include "device.cuh"

constexpr int THREADS = 256, TILE = 64, DEPTH = 16;

// Rows `row`.. of columns `first`.. as floats; missing ones are 0.
template <class T>
__device__ __forceinline__ void stage(float (&tile)[DEPTH][TILE], const T* x, int row, int rows, int first, int columns) {
#pragma unroll
  for (int i = 0; i < DEPTH * TILE / THREADS; i++) {
    const int r = i * (THREADS / TILE) + threadIdx.x / TILE, c = threadIdx.x % TILE;
    const bool real = row + r < rows && first + c < columns;
    tile[r][c] = real ? to_float(x[(size_t)(row + r) * columns + first + c]) : 0.f;
  }
}

template <class T> __device__ __forceinline__ void accumulate_product(const AccumulateProductArgs& p) {
  __shared__ alignas(16) float a[DEPTH][TILE], b[DEPTH][TILE];
  const int m = blockIdx.y * TILE, n = blockIdx.x * TILE, tm = threadIdx.x / 16 * 4, tn = threadIdx.x % 16 * 4;
  float sum[4][4] = {};
  for (int row = 0; row < p.rows; row += DEPTH) {
    stage(a, (const T*)p.a, row, p.rows, m, p.m);
    stage(b, (const T*)p.b, row, p.rows, n, p.n);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      const float4 u = *(const float4*)&a[k][tm], v = *(const float4*)&b[k][tn];
      const float x[4] = {u.x, u.y, u.z, u.w}, y[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] += x[i] * y[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (m + tm + i >= p.m) break;
    float* out = p.out + (size_t)(m + tm + i) * p.n + n + tn;
    if (p.n % 4 == 0) {
      if (n + tn >= p.n) continue;
      float4 v = *(float4*)out;
      v.x += sum[i][0], v.y += sum[i][1], v.z += sum[i][2], v.w += sum[i][3];
      *(float4*)out = v;
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (n + tn + j < p.n) out[j] += sum[i][j];
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) accumulate_product_bf16(AccumulateProductArgs p) {
  accumulate_product<bf16>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS) accumulate_product_f16(AccumulateProductArgs p) {
  accumulate_product<f16>(p);
}

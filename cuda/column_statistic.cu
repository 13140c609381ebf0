// A statistic of each column of a last projection (paper section 3.4): sum |w|, sum w^2 or sqrt(sum w^4), once per load.
// weight (C, H) element, stored transposed -> out (C) f32
// Launch: ceil(C / 8) blocks of 256 threads, a warp per channel.
// Registers: at most 32. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 C H, writes 32 C (a sector for each channel)
// Bank conflicts: none.
// Accumulation: f64; each lane over its elements ascending, butterfly over the warp. Fourth powers span more than f32.
// Test: gpu_ops::column_statistic
#include "device.cuh"

constexpr int THREADS = 256;

template <class T> __device__ __forceinline__ void column_statistic(const ColumnStatisticArgs& p) {
  const int lane = threadIdx.x & 31, channel = blockIdx.x * (THREADS / 32) + (threadIdx.x >> 5);
  if (channel >= p.channels) return;
  const T* row = (const T*)p.weight + (size_t)channel * p.out_features;
  double sum = 0.;
  const auto add = [&](float x) {
    const double w = fabs((double)x), square = w * w;
    sum += p.power == 1 ? w : p.power == 2 ? square : square * square;
  };
  if (p.out_features % 8) {
    for (int h = lane; h < p.out_features; h += 32) add(to_float(row[h]));
  } else {
#pragma unroll 2
    for (int h = 8 * lane; h < p.out_features; h += 8 * 32) {
      float x[8];
      unpack(load8(row + h), x);
#pragma unroll
      for (int k = 0; k < 8; k++) add(x[k]);
    }
  }
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, d);
  if (lane == 0) p.out[channel] = (float)(p.root ? sqrt(sum) : sum);
}

extern "C" __global__ void __launch_bounds__(THREADS) column_statistic_bf16(ColumnStatisticArgs p) {
  column_statistic<bf16>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS) column_statistic_f16(ColumnStatisticArgs p) {
  column_statistic<f16>(p);
}

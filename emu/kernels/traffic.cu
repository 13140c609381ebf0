// Kernels whose memory traffic is known by hand: copy, transpose with and without padding, strided and gathered reads.
// y = x, or its transpose, or some of its rows. Launch geometry is given with each. Test: traffic
#include "args.h"
#include "primitives.cuh"

// One float per thread.
extern "C" __global__ void copy(TrafficArgs p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.rows * p.columns) p.y[i] = p.x[i];
}

// Four floats per thread.
extern "C" __global__ void copy_vec4(TrafficArgs p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  reinterpret_cast<float4*>(p.y)[i] = reinterpret_cast<const float4*>(p.x)[i];
}

// 32x32 tiles, blocks of (32, 8); PITCH 32 has the worst conflicts there are, 33 none.
template <int PITCH> __device__ __forceinline__ void transpose_tile(const TrafficArgs& p) {
  DYNAMIC_SHARED(shared);
  float* tile = shared.take<float>(32 * PITCH);
  const int x0 = blockIdx.x * 32, y0 = blockIdx.y * 32, tx = threadIdx.x, ty = threadIdx.y;
#pragma unroll 1
  for (int i = ty; i < 32; i += 8) tile[i * PITCH + tx] = p.x[(y0 + i) * p.columns + x0 + tx];
  __syncthreads();
#pragma unroll 1
  for (int i = ty; i < 32; i += 8) p.y[(x0 + i) * p.rows + y0 + tx] = tile[tx * PITCH + i];
}
extern "C" __global__ void transpose(TrafficArgs p) { transpose_tile<32>(p); }
extern "C" __global__ void transpose_padded(TrafficArgs p) { transpose_tile<33>(p); }

// y[i] = x[i * stride].
extern "C" __global__ void strided(TrafficArgs p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  p.y[i] = p.x[i * p.stride];
}

// y[i, :] = x[index[i], :], one block per row.
extern "C" __global__ void gather(TrafficArgs p) {
  const int row = p.index[blockIdx.x];
  for (int c = threadIdx.x; c < p.columns; c += blockDim.x) p.y[blockIdx.x * p.columns + c] = p.x[row * p.columns + c];
}

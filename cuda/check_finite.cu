// Reports values that are not finite: tag goes to fault unless a fault is there already.
// values (n) f32 -> fault (1) u32.
// Launch: ceil(n / 1024) blocks of 256 threads.
// Registers: at most 32. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 n, writes 0
// Bank conflicts: none.
// Accumulation: none.
// Test: gpu_ops::top_k
#include "device.cuh"

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

extern "C" __global__ void __launch_bounds__(256) check_finite(CheckFiniteArgs p) {
  const long long first = ((long long)blockIdx.x * 256 + threadIdx.x) * 4;
  bool finite = true;
  if (first + 4 <= p.count) {
    const float4 x = *reinterpret_cast<const float4*>(p.values + first);
    finite = is_finite(x.x) && is_finite(x.y) && is_finite(x.z) && is_finite(x.w);
  } else {
    for (long long i = first; i < p.count; i++) finite = finite && is_finite(p.values[i]);
  }
  if (!__all_sync(FULL_WARP, finite) && (threadIdx.x & 31) == 0) atomicCAS(p.fault, 0u, p.tag);
}

// A weight rounded to elements (correction of folds: ours).
// weight (n) f32, fault (1) u32 or null -> out (n) element, but as before where fault is not 0.
// Launch: ceil(n / 1024) blocks of 256 threads.
// Registers: at most 24. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 n (and 256 B of fault for each block), writes 2 n
// Bank conflicts: none.
// Accumulation: none.
// Test: gpu_ops::adapt
#include "device.cuh"

constexpr int THREADS = 256, VALUES = 4;

template <class T> __device__ __forceinline__ void adapt_store(const AdaptStoreArgs& p) {
  if (p.fault && *p.fault) return;
  const long long first = (long long)blockIdx.x * (THREADS * VALUES) + threadIdx.x;
#pragma unroll
  for (int i = 0; i < VALUES; i++) {
    const long long at = first + i * THREADS;
    if (at < p.count) ((T*)p.out)[at] = round_to(T{}, p.weight[at]);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_store_bf16(AdaptStoreArgs p) { adapt_store<bf16>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) adapt_store_f16(AdaptStoreArgs p) { adapt_store<f16>(p); }

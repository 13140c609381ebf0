// The probe's rows: out[i * S_p + j] = x[samples[i] * S + slots[j]] (paper section 3.1).
// x (B * S, H) element, samples (B_p) u32, slots (S_p) u32 -> out (B_p * S_p, H) element
// Launch: B_p * S_p blocks of ceil(H / 8) threads, rounded up to whole warps, 256 at most.
// Registers: at most 32. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 B_p S_p H + 512 B_p S_p, writes 2 B_p S_p H
//   (each of up to 8 warps reads the sectors that hold its sample and its slot)
// Bank conflicts: none.
// Accumulation: none.
// Test: gpu_ops::probe_gather
#include "device.cuh"

constexpr int MAX_THREADS = 256;

// The dtype does not matter: 16 bits are copied.
extern "C" __global__ void __launch_bounds__(MAX_THREADS) probe_gather(ProbeGatherArgs p) {
  const int row = blockIdx.x;
  const size_t source = (size_t)p.samples[row / p.probe_tokens] * p.tokens + p.slots[row % p.probe_tokens];
  const uint16_t* from = (const uint16_t*)p.x + source * p.width;
  uint16_t* out = (uint16_t*)p.out + (size_t)row * p.width;
  if (p.width % 8) {
    for (int c = threadIdx.x; c < p.width; c += blockDim.x) out[c] = from[c];
    return;
  }
#pragma unroll 2
  for (int c = 8 * threadIdx.x; c < p.width; c += 8 * blockDim.x) *(uint4*)(out + c) = *(const uint4*)(from + c);
}

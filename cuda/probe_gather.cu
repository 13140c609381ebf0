// The probe's rows: out[i * Sp + j] = x[probe_samples[i] * S + probe_slots[j]] (paper section 3.1).
// x (B * S, H) element, probe_samples (Bp) u32, probe_slots (Sp) u32 -> out (Bp * Sp, H) element
// Launch: Bp * Sp blocks of ceil(H / 8) threads, rounded up to whole warps, 256 at most.
// Registers: at most 32. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 Bp Sp H + 512 Bp Sp, writes 2 Bp Sp H
//   (each of up to 8 warps reads the sectors that hold its sample and its slot)
// Bank conflicts: none.
// Accumulation: none.
// Test: gpu_ops::probe_gather
#include "device.cuh"

constexpr int MAX_THREADS = 256;

// The dtype does not matter: 16 bits are copied.
extern "C" __global__ void __launch_bounds__(MAX_THREADS) probe_gather(ProbeGatherArgs p) {
  const int row = blockIdx.x;
  const size_t source = (size_t)p.probe_samples[row / p.probe_tokens] * p.tokens + p.probe_slots[row % p.probe_tokens];
  const uint16_t* from = (const uint16_t*)p.x + source * p.hidden_size;
  uint16_t* out = (uint16_t*)p.out + (size_t)row * p.hidden_size;
  if (p.hidden_size % 8) {
    for (int c = threadIdx.x; c < p.hidden_size; c += blockDim.x) out[c] = from[c];
    return;
  }
#pragma unroll 2
  for (int c = 8 * threadIdx.x; c < p.hidden_size; c += 8 * blockDim.x) *(uint4*)(out + c) = *(const uint4*)(from + c);
}

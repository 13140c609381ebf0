// Energies around the mean, from energies and sums over samples (compensation of pruned channels: ours).
// energy and sums (S, C) f32, mask (B, S) u32 or null, prior (C) f32 or null -> mean (C) f32, energy in place:
//   mean = sum_s sums / tokens that are not pads, with a prior prior + weight (mean - prior); energy = energy + m (n m - 2
//   sums) / d with m = share mean, n tokens at a slot and divisor d = n (n + 1e-3 with a mask): the mean of (a - m)^2.
// Launch: ceil(C / 32) blocks of 256 threads.
// Registers: at most 48. Static shared memory: 1056 bytes. Dynamic shared memory: 0.
// Bytes: reads 12 S C + 32 C with prior (with a mask 64 B for each of B S entries and block more), writes 4 S C + 4 C
// Bank conflicts: none.
// Accumulation: f32. A warp has every eighth slot, ascending; then the warps ascending. Tokens are counted in integers.
// Test: gpu_ops::compensation
#include "device.cuh"

constexpr int WARPS = 8;

// Tokens at slot s that are not pads.
__device__ __forceinline__ int count_tokens(const CentreEnergyArgs& p, int s) {
  if (!p.mask) return p.samples;
  int count = 0;
  for (int b = threadIdx.x & 31; b < p.samples; b += 32) count += p.mask[(size_t)b * p.tokens + s] != 0;
  return __reduce_add_sync(FULL_WARP, count);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) centre_energy(CentreEnergyArgs p) {
  __shared__ float partial[WARPS][32];
  __shared__ int counts[WARPS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c = blockIdx.x * 32 + lane;
  const bool in = c < p.channels;
  float sum = 0.f;
  int count = 0;
#pragma unroll 4
  for (int s = warp; s < p.tokens; s += WARPS) {
    sum += in ? p.sums[(size_t)s * p.channels + c] : 0.f;
    count += count_tokens(p, s);
  }
  partial[warp][lane] = sum;
  if (lane == 0) counts[warp] = count;
  __syncthreads();
  sum = 0.f, count = 0;
#pragma unroll
  for (int w = 0; w < WARPS; w++) sum += partial[w][lane], count += counts[w];
  float mean = sum / (float)max(count, 1);
  if (p.prior && in) mean = p.prior[c] + p.weight * (mean - p.prior[c]);
  const float m = p.share * mean;
#pragma unroll 4
  for (int s = warp; s < p.tokens; s += WARPS) {
    const int tokens = count_tokens(p, s);
    if (!in) continue;
    const size_t at = (size_t)s * p.channels + c;
    const float inverse = 1.f / (p.mask ? (float)tokens + 1e-3f : (float)tokens);
    const float centred = p.energy[at] + m * ((float)tokens * m - 2.f * p.sums[at]) * inverse;
    // Rounding may give slightly less than 0 where all values are equal. NaN stays NaN.
    p.energy[at] = centred < 0.f ? 0.f : centred;
  }
  if (warp == 0 && in) p.mean[c] = mean;
}

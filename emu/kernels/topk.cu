// The k largest of each row of n floats, by radix select on the bits, 8 at a time.
// values, indices (rows, k): ascending indices; of equal values the lower indices are kept.
// Launch: one block per row, up to 1024 threads; dynamic shared memory 1328 bytes. Reads 5 times 4 n bytes per row, writes 8 k.
// Test: kernels::topk
#include "args.h"
#include "primitives.cuh"

#ifndef BUG
#define BUG 0
#endif
// 1 shared out of bounds, 2 lost atomic, 3 wrong mask in divergent code, 4 no __syncwarp

__device__ __forceinline__ unsigned order_bits(float f) {
  unsigned u = __float_as_uint(f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

extern "C" __global__ void __launch_bounds__(1024) topk(TopkArgs p) {
  DYNAMIC_SHARED(shared);
  unsigned* hist = shared.take<unsigned>(256);
  unsigned* state = shared.take<unsigned>(2);    // chosen bits so far, how many are still to be found among them
  unsigned* counts = shared.take<unsigned>(64);  // per warp: values above the threshold, values equal to it
  const int tid = threadIdx.x, nt = blockDim.x, lane = tid & 31, warp = tid >> 5;
  const float* row = p.x + (size_t)blockIdx.x * p.n;
  if (tid == 0) { state[0] = 0; state[1] = (unsigned)p.k; }
#pragma unroll 1
  for (int pass = 0; pass < 4; pass++) {
    const int shift = 24 - 8 * pass;
    for (int i = tid; i < (BUG == 1 ? 257 : 256); i += nt) hist[i] = 0;
    __syncthreads();
    const unsigned prefix = state[0], chosen = pass ? 0xffffffffu << (shift + 8) : 0u;
#pragma unroll 1
    for (int base = 0; base < p.n; base += nt) {
      const int i = base + tid;
      const unsigned bits = i < p.n ? order_bits(row[i]) : 0;
      const bool in = i < p.n && (bits & chosen) == prefix;
      const unsigned active = __ballot_sync(0xffffffffu, in);
      if (in) {  // one atomic per distinct digit of the warp
        const unsigned digit = (bits >> shift) & 255, same = __match_any_sync(BUG == 3 ? 0xffffffffu : active, digit);
        if (lane == __ffs((int)same) - 1) {
          if (BUG == 2) hist[digit] += __popc(same);
          else atomicAdd(&hist[digit], (unsigned)__popc(same));
        }
      }
    }
    __syncthreads();
    if (warp == 0) {  // one warp scans the 256 bins from the top
      unsigned c[8], s = 0;
      for (int j = 0; j < 8; j++) { c[j] = hist[255 - (lane * 8 + j)]; s += c[j]; }
      unsigned up_to = s;
      for (int d = 1; d < 32; d <<= 1) { unsigned t = __shfl_up_sync(0xffffffffu, up_to, d); if (lane >= d) up_to += t; }
      unsigned before = up_to - s;
      const unsigned need = state[1];
      const unsigned hit = __ballot_sync(0xffffffffu, before < need && need <= up_to);
      if (BUG != 4) __syncwarp();  // everybody has read state[1] before one lane writes it
      if (lane == __ffs((int)hit) - 1) {
        for (int j = 0; j < 8; j++) {
          if (need <= before + c[j]) { state[0] = prefix | (unsigned)(255 - (lane * 8 + j)) << shift; state[1] = need - before; break; }
          before += c[j];
        }
      }
    }
    __syncthreads();
  }
  const unsigned threshold = state[0], ties = state[1];
  unsigned above = 0, equal = 0;  // in the chunks before this one
#pragma unroll 1
  for (int base = 0; base < p.n; base += nt) {
    const int i = base + tid;
    const float v = i < p.n ? row[i] : 0.f;
    const unsigned bits = i < p.n ? order_bits(v) : 0;
    const unsigned gt = __ballot_sync(0xffffffffu, i < p.n && bits > threshold);
    const unsigned eq = __ballot_sync(0xffffffffu, i < p.n && bits == threshold);
    __syncthreads();
    if (lane == 0) { counts[2 * warp] = __popc(gt); counts[2 * warp + 1] = __popc(eq); }
    __syncthreads();
    unsigned g = above, e = equal;
    for (int w = 0; w < nt / 32; w++) {
      if (w < warp) { g += counts[2 * w]; e += counts[2 * w + 1]; }
      above += counts[2 * w];
      equal += counts[2 * w + 1];
    }
    const unsigned below = (1u << lane) - 1;
    g += __popc(gt & below);
    e += __popc(eq & below);
    const bool is_gt = gt >> lane & 1, is_eq = (eq >> lane & 1) && e < ties;
    if (is_gt || is_eq) {
      const size_t at = (size_t)blockIdx.x * p.k + g + min(e, ties);
      p.values[at] = v;
      p.indices[at] = i;
    }
  }
}

// Scores: fusion of the probe's energies with history, sum over tokens, times a column statistic (paper section 3.2, 3.3).
// p (S, C) f32, history (rows, C) f32 or f16, slots (S) u32, statistic (C) f32 -> out f32: (C), (C / G) for
//   groups of G = 8 or 16 channels, or (C / head_dim):
//   w = p / (p + h + 1e-6), or fixed; E = sum_s w p + (1 - w) h; ppsp, flap: E statistic, wanda-sp: sqrt(E) statistic;
//   groups: L2; heads: L2 over their channels for ppsp, otherwise the sum.
// Launch: ceil(C / 32) or C / head_dim blocks of 32 warps splits threads, at most 1024.
// Registers: at most 64. Static shared memory: 4224 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 S C + rows of history (4 or 2) S C + 4 C + 4 S per block, writes 4 C (4 C / G, 4 C / head_dim)
// Bank conflicts: none.
// Accumulation: f32. A warp has 32 channels and a run of tokens: those of equal remainder by 4 ascending, then the
//        remainders in a butterfly; runs ascending; heads: butterfly over 32 channels, then these ascending.
// Test: gpu_ops::channel_score
#include "device.cuh"

constexpr int THREADS = 1024;
constexpr int AHEAD = 4;  // times 4 tokens whose loads are under way together
constexpr unsigned NO_ROW = 0xffffffffu;

enum History { NO_HISTORY, HISTORY_F32, HISTORY_F16 };

// Four neighbours, of which the first `count` exist.
template <bool ALIGNED> __device__ __forceinline__ float4 load4(const float* x, int count) {
  if (ALIGNED) return count > 0 ? *reinterpret_cast<const float4*>(x) : float4{};
  return make_float4(count > 0 ? x[0] : 0.f, count > 1 ? x[1] : 0.f, count > 2 ? x[2] : 0.f, count > 3 ? x[3] : 0.f);
}
// The same of history's square roots.
template <bool ALIGNED> __device__ __forceinline__ float4 load4(const f16* x, int count) {
  f16 v[4] = {};
  if (ALIGNED) {
    const uint2 words = count > 0 ? *reinterpret_cast<const uint2*>(x) : uint2{};
    v[0].bits = (uint16_t)words.x, v[1].bits = (uint16_t)(words.x >> 16);
    v[2].bits = (uint16_t)words.y, v[3].bits = (uint16_t)(words.y >> 16);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (i < count) v[i] = x[i];
  }
  float y[4];
#pragma unroll
  for (int i = 0; i < 4; i++) y[i] = to_float(v[i]) * to_float(v[i]);
  return make_float4(y[0], y[1], y[2], y[3]);
}

__device__ __forceinline__ float fused(const ChannelScoreArgs& p, float now, float past) {
  const float w = p.fixed ? p.fixed_weight : divide_approx(now, now + past + 1e-6f);
  return w * now + (1.f - w) * past;
}

// Sums over tokens from..to of the fused energies of channels c.. (the first `count` of four). A quarter of a warp has a
// token at a time; every lane gets the sum over all four.
template <int KIND, bool ALIGNED>
__device__ __forceinline__ float4 fused_energy(const ChannelScoreArgs& p, int from, int to, int c, int count) {
  const int lane = threadIdx.x & 31, quarter = lane >> 3;
  float4 sum = {};
#pragma unroll 1
  for (int first = from; first < to; first += 32) {
    // Each lane looks up one token's row of history, and passes it on below.
    unsigned row = NO_ROW;
    if (KIND != NO_HISTORY && first + lane < to) {
      const unsigned slot = p.slots[first + lane];
      if (slot < (unsigned)p.history_slots) row = slot / (unsigned)p.bucket;
    }
#pragma unroll 1
    for (int t = 0; t < 32 && first + t < to; t += 4 * AHEAD) {
      float4 now[AHEAD], past[AHEAD];
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        const int token = t + 4 * i + quarter, real = first + token < to ? count : 0;
        now[i] = load4<ALIGNED>(p.p + (size_t)(first + token) * p.channels + c, real);
        if (KIND == NO_HISTORY) continue;
        const unsigned at = __shfl_sync(FULL_WARP, row, token);
        const size_t entry = (size_t)at * p.channels + c;
        const int known = at == NO_ROW ? 0 : real;
        past[i] = KIND == HISTORY_F32 ? load4<ALIGNED>((const float*)p.history + entry, known)
                                      : load4<ALIGNED>((const f16*)p.history + entry, known);
      }
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        sum.x += KIND == NO_HISTORY ? now[i].x : fused(p, now[i].x, past[i].x);
        sum.y += KIND == NO_HISTORY ? now[i].y : fused(p, now[i].y, past[i].y);
        sum.z += KIND == NO_HISTORY ? now[i].z : fused(p, now[i].z, past[i].z);
        sum.w += KIND == NO_HISTORY ? now[i].w : fused(p, now[i].w, past[i].w);
      }
    }
  }
#pragma unroll
  for (int d = 8; d < 32; d <<= 1) {
    sum.x += __shfl_xor_sync(FULL_WARP, sum.x, d);
    sum.y += __shfl_xor_sync(FULL_WARP, sum.y, d);
    sum.z += __shfl_xor_sync(FULL_WARP, sum.z, d);
    sum.w += __shfl_xor_sync(FULL_WARP, sum.w, d);
  }
  return sum;
}

template <bool ALIGNED>
__device__ __forceinline__ float4 fused_energy(const ChannelScoreArgs& p, int from, int to, int c, int count) {
  switch (p.history_kind) {
    case NO_HISTORY: return fused_energy<NO_HISTORY, ALIGNED>(p, from, to, c, count);
    case HISTORY_F32: return fused_energy<HISTORY_F32, ALIGNED>(p, from, to, c, count);
    default: return fused_energy<HISTORY_F16, ALIGNED>(p, from, to, c, count);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) channel_score(ChannelScoreArgs p) {
  __shared__ alignas(16) float partial[THREADS];
  __shared__ float of_warp[THREADS / 32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int side = warp % p.warps, split = warp / p.warps, splits = blockDim.x / 32 / p.warps;
  const int from = (int)((long long)p.tokens * split / splits), to = (int)((long long)p.tokens * (split + 1) / splits);
  float head = 0.f;
#pragma unroll 1
  for (int base = 0; base < p.span; base += 32 * p.warps) {
    const int begin = base + 32 * side, end = min(p.span, p.channels - (int)blockIdx.x * p.span);
    const int mine = begin + 4 * (lane & 7), of_block = blockIdx.x * p.span;
    const float4 sums = p.channels % 4 == 0 && p.span % 4 == 0
                            ? fused_energy<true>(p, from, to, of_block + mine, max(end - mine, 0))
                            : fused_energy<false>(p, from, to, of_block + mine, max(end - mine, 0));
    if (base > 0) __syncthreads();  // until the sums of the channels before these have been read
    if (lane < 8) reinterpret_cast<float4*>(partial)[warp * 8 + lane] = sums;
    __syncthreads();
    if (split > 0) continue;
    float energy = 0.f;
    for (int k = 0; k < splits; k++) energy += partial[(k * p.warps + side) * 32 + lane];
    if (p.metric == 1) energy = sqrtf(energy);
    const bool in = begin + lane < end;
    const int c = of_block + begin + lane;
    const float score = in ? energy * p.statistic[c] : 0.f;
    if (p.channel_group > 0) {
      float squares = score * score;
      for (int d = 1; d < p.channel_group; d <<= 1) squares += __shfl_xor_sync(FULL_WARP, squares, d);
      if (in && lane % p.channel_group == 0) p.out[c / p.channel_group] = sqrtf(squares);
    } else if (!p.heads && in) {
      p.out[c] = score;
    }
    if (p.heads) head += warp_sum(p.metric == 0 ? score * score : score);
  }
  if (!p.heads) return;
  if (split == 0 && lane == 0) of_warp[side] = head;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < p.warps; w++) head += of_warp[w];
  p.out[blockIdx.x] = p.metric == 0 ? sqrtf(head) : head;
}

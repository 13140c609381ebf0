// Moves history towards the batch's energies: h = momentum h + (1 - momentum) p for kept channels (paper section 3.2).
// p (slots, kept) f32, kept blocks u32 -> history (rows, C), f32 or square roots in f16, in place. Where a row holds a
// bucket of slots, p is the mean over the updated ones. A p that is not finite leaves h as it is.
// Launch: (ceil(rows / 8), ceil(kept / 256)) blocks of 256 threads.
// Registers: at most 64. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 slots kept + (4 or 2) rows kept + 4 blocks per 8 rows, writes (4 or 2) rows kept (scattered: up to C)
// Bank conflicts: none.
// Accumulation: f32, slots of a bucket ascending; the CPU backend's roundings.
// Test: gpu_ops::history
#include "device.cuh"

constexpr int THREADS = 256;
constexpr int ROWS = 8;

// An entry of history and its energy.
struct Single {
  float stored;
  __device__ __forceinline__ float energy() const { return stored; }
  static __device__ __forceinline__ Single of(float energy) { return {energy}; }
};
struct Half {
  f16 stored;
  __device__ __forceinline__ float energy() const { return __fmul_rn(to_float(stored), to_float(stored)); }
  static __device__ __forceinline__ Half of(float energy) { return {round_to(f16{}, fminf(sqrtf(energy), 65504.f))}; }
};

// Without fused multiply-adds: the CPU backend's roundings.
template <class Entry> __device__ __forceinline__ void move(const HistoryUpdateArgs& p, Entry* h, Entry old, float now) {
  if ((__float_as_uint(now) & 0x7f800000u) == 0x7f800000u) return;
  *h = Entry::of(__fadd_rn(__fmul_rn(p.old_share, old.energy()), __fmul_rn(p.new_share, now)));
}

template <class Entry> __device__ __forceinline__ void update(const HistoryUpdateArgs& p) {
  const int j = blockIdx.y * THREADS + threadIdx.x;
  if (j >= p.kept_channels) return;
  const int c = p.block_width == 1 ? (int)p.kept[j] : (int)p.kept[j / p.block_width] * p.block_width + j % p.block_width;
  const int first = p.at / p.bucket + blockIdx.x * ROWS, rows = min(ROWS, (p.end - 1) / p.bucket + 1 - first);
  Entry* h = (Entry*)p.history + (size_t)first * p.channels + c;
  if (p.bucket == 1) {
    const float* from = p.p + (size_t)(first - p.at) * p.kept_channels + j;
    float now[ROWS];
    Entry old[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      if (r >= rows) continue;
      now[r] = from[(size_t)r * p.kept_channels];
      old[r] = h[(size_t)r * p.channels];
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      if (r < rows) move(p, h + (size_t)r * p.channels, old[r], now[r]);
    return;
  }
  for (int r = 0; r < rows; r++, h += p.channels) {
    const int slot = max((first + r) * p.bucket, p.at), next = min((first + r + 1) * p.bucket, p.end);
    float now = p.p[(size_t)(slot - p.at) * p.kept_channels + j];
#pragma unroll 4
    for (int s = slot + 1; s < next; s++) now += p.p[(size_t)(s - p.at) * p.kept_channels + j];
    if (next - slot > 1) now /= (float)(next - slot);
    move(p, h, *h, now);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) history_update(HistoryUpdateArgs p) {
  if (p.half) update<Half>(p);
  else update<Single>(p);
}

// First projections and the head: out = activation(x * W[kept]^T + bias[kept]) * scale (paper section 3.4), gathered rows.
// x (T, H) element, weight (., H) element, bias (.) f32 or null, kept (F / block) u32 or null -> out (T, F) element or f32;
//   energy (S, F) f32 = mean over samples of out^2 (paper section 3.2), where asked for
// Launch: ceil(F / 128) ceil(T / BM) blocks of 256 threads, BM = 128 or 64 (with energies floor(BM / B) slots instead of BM rows).
// Registers: at most 128. Static shared memory: 0 bytes. Dynamic shared memory: 69648 bytes for BM = 128, 49168 for 64.
// Bytes: reads ceil(F / 128) 2 T H + ceil(T / BM) (2 F H + 4 F / block), writes 2 T F (logits: 4 T F) + 4 S F with energies
// Bank conflicts: none.
// Accumulation: f32 in the mma, k ascending; energies over samples ascending, of the outputs as rounded.
// Test: gpu_ops::linear
#include "gemm.cuh"

// The j-th kept row of the weight, or -1 if it is skipped or there is none.
__device__ __forceinline__ int kept_row(const LinearArgs& p, int j) {
  if (j >= p.features) return -1;
  if (!p.kept) return j;
  const int at = j / p.block;
  const unsigned index = p.kept[at];
  return index == 0xffffffffu ? -1 : (int)index * p.block + j - at * p.block;
}

template <class T, int BM, bool LOGITS> __device__ __forceinline__ void linear(const LinearArgs& p) {
  DYNAMIC_SHARED(shared);
  unsigned char* const memory = shared.take<unsigned char>(SHARED_BYTES<BM>, 128);
  const TileIndex tile(p.m_tiles, (p.features + BN - 1) / BN);
  const TileRows rows = TileRows::of<BM>(tile.m, p.rows, p.samples);
  const int n0 = tile.n * BN, wn = threadIdx.x >> 6;
  const auto first = [&](int j) { return wn * 32 + j * 16; };
  Sums<BM> sums;
  {
    const KMajor<T, BM> a(p.x, p.width, [&](int m) {
      const int row = rows.row(m);
      return row < 0 ? nullptr : (const T*)p.x + (size_t)row * p.width;
    });
    const KMajor<T, BN> b(p.weight, p.width, [&](int n) {
      const int row = kept_row(p, n0 + n);
      return row < 0 ? nullptr : (const T*)p.weight + (size_t)row * p.width;
    });
    const bool aligned = p.width % 8 == 0;
    const auto load = [&](T* to_a, T* to_b, int k) {
      a.load(to_a, k, aligned);
      b.load(to_b, k, aligned);
    };
    pipeline<T, BM, RowsOfB<T, BM>>(sums, (T*)memory, p.width, load, first);
  }
  float* const values = (float*)memory;
  spread<BM>(sums, values, first);
  const int column = threadIdx.x % 32 * 4, count = p.features - n0 - column;
  float bias[4] = {};
  if (p.bias) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = kept_row(p, n0 + column + i);
      if (row >= 0) bias[i] = p.bias[row];
    }
  }
#pragma unroll 1
  for (int m = threadIdx.x / 32; m < BM; m += THREADS / 32) {
    const int row = rows.row(m);
    if (row < 0 || count <= 0) continue;
    float4& at = *(float4*)(values + m * PITCH + column);
    float v[4] = {at.x, at.y, at.z, at.w};
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = activate(v[i] + bias[i], p.activation) * p.scale;
    const size_t to = (size_t)row * p.features + n0 + column;
    if (LOGITS) {
      float* out = (float*)p.out + to;
      if (p.features % 4 == 0) {
        *(float4*)out = make_float4(v[0], v[1], v[2], v[3]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
          if (i < count) out[i] = v[i];
      }
      continue;
    }
    if (p.out) store4<T>((T*)p.out + to, v, count, p.features % 4 == 0);
    if (p.energy) {
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = to_float(round_to(T{}, v[i]));
      at = make_float4(v[0], v[1], v[2], v[3]);
    }
  }
  if (!LOGITS && p.energy) energies(values, rows, n0, BN, {p.mask, p.energy, p.features});
}

#define KERNELS(name, rows, logits)                                                                                       \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) name##_m##rows##_bf16(LinearArgs p) { linear<bf16, rows, logits>(p); } \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) name##_m##rows##_f16(LinearArgs p) { linear<f16, rows, logits>(p); }
KERNELS(linear, 128, false)
KERNELS(linear, 64, false)
KERNELS(logits, 128, true)
KERNELS(logits, 64, true)

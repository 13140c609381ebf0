// First projections of a gated MLP: out = activation(x * G[kept]^T + g) * (x * U[kept]^T + u) in one kernel (paper section
// 3.4), gathered rows, with the energies that history wants (paper section 3.2).
// x (T, H) element, G and U (., H) element, g and u (.) f32 or null, kept (F) u32 or null -> out (T, F) element;
//   energy (S, F) f32 = mean over samples of out^2, where asked for
// Launch: ceil(F / 64) ceil(T / BM) blocks of 256 threads, BM = 128 or 64 (with energies floor(BM / B) slots instead of BM rows).
// Registers: at most 128. Static shared memory: 0 bytes. Dynamic shared memory: 69648 bytes for BM = 128, 49168 for 64.
// Bytes: reads ceil(F / 64) 2 T H + ceil(T / BM) (4 F H + 8 F), writes 2 T F + 4 S F with energies
// Bank conflicts: none.
// Accumulation: f32 in the mma, k ascending; energies over samples ascending, of the outputs as rounded.
// Test: gpu_ops::linear
#include "gemm.cuh"

// A tile has 64 columns: rows 0 to 63 of its B tile are G's, the others U's. Each warp has 16 columns of both.
constexpr int COLUMNS = BN / 2;

__device__ __forceinline__ int kept_row(const LinearArgs& p, int j) {
  if (j >= p.features) return -1;
  return p.kept ? (int)p.kept[j] : j;
}

template <class T, int BM> __device__ __forceinline__ void gated_linear(const LinearArgs& p) {
  DYNAMIC_SHARED(shared);
  unsigned char* const memory = shared.take<unsigned char>(SHARED_BYTES<BM>, 128);
  const TileIndex tile(p.m_tiles, (p.features + COLUMNS - 1) / COLUMNS);
  const TileRows rows = TileRows::of<BM>(tile.m, p.rows, p.samples);
  const int n0 = tile.n * COLUMNS, wn = threadIdx.x >> 6;
  const auto first = [&](int j) { return j * COLUMNS + wn * 16; };
  Sums<BM> sums;
  {
    const KMajor<T, BM> a(p.x, p.width, [&](int m) {
      const int row = rows.row(m);
      return row < 0 ? nullptr : (const T*)p.x + (size_t)row * p.width;
    });
    const KMajor<T, BN> b(p.weight, p.width, [&](int n) {
      const int row = kept_row(p, n0 + n % COLUMNS);
      return row < 0 ? nullptr : (const T*)(n < COLUMNS ? p.weight : p.up) + (size_t)row * p.width;
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
  const int column = threadIdx.x % 16 * 4, count = p.features - n0 - column;
  float gate_bias[4] = {}, up_bias[4] = {};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = kept_row(p, n0 + column + i);
    if (p.bias && row >= 0) gate_bias[i] = p.bias[row];
    if (p.up_bias && row >= 0) up_bias[i] = p.up_bias[row];
  }
#pragma unroll 1
  for (int m = threadIdx.x / 16; m < BM; m += THREADS / 16) {
    const int row = rows.row(m);
    if (row < 0 || count <= 0) continue;
    float4& at = *(float4*)(values + m * PITCH + column);
    const float4 up = *(const float4*)(values + m * PITCH + COLUMNS + column);
    float v[4] = {at.x, at.y, at.z, at.w};
    const float u[4] = {up.x, up.y, up.z, up.w};
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = activate(v[i] + gate_bias[i], p.activation) * (u[i] + up_bias[i]);
    if (p.out) store4<T>((T*)p.out + (size_t)row * p.features + n0 + column, v, count, p.features % 4 == 0);
    if (p.energy) {
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = to_float(round_to(T{}, v[i]));
      at = make_float4(v[0], v[1], v[2], v[3]);
    }
  }
  if (p.energy) energies(values, rows, n0, COLUMNS, {p.mask, p.energy, p.features});
}

#define KERNELS(rows)                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) gated_linear_m##rows##_bf16(LinearArgs p) {       \
    gated_linear<bf16, rows>(p);                                                                             \
  }                                                                                                          \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) gated_linear_m##rows##_f16(LinearArgs p) {        \
    gated_linear<f16, rows>(p);                                                                              \
  }
KERNELS(128)
KERNELS(64)

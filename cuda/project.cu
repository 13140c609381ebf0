// Last projections: out = residual + a * W[:, kept]^T + bias (paper section 3.4). The weight is stored transposed, so a kept
// channel is a row of it: K rows are gathered.
// a (T, C) element, weight (., H) element, kept (C / block) u32 or null, bias (H) f32 or null, residual (T, H) element or
//   null -> out (T, H) element
// Launch: ceil(H / 128) ceil(T / BM) blocks of 256 threads, BM = 128 or 64.
// Registers: at most 128. Static shared memory: 0 bytes. Dynamic shared memory: 69648 bytes for BM = 128, 49168 for 64.
// Bytes: reads ceil(H / 128) 2 T C + ceil(T / BM) (2 C H + 4 H) + ceil(T / BM) ceil(H / 128) (2 C, at most 64 C) for kept
//   + 2 T H, writes 2 T H
// Bank conflicts: none.
// Accumulation: f32 in the mma, kept channels ascending; then bias, residual.
// Test: gpu_ops::project
#include "gemm.cuh"

// Loads of the N-major operand: chunk i of this thread is row threadIdx.x / 16 + 16 i of the tile, 8 of its 128 columns.
template <class T> struct NMajor {
  static constexpr int CHUNKS = BK / 16;
  const ProjectArgs& p;
  const T* column;  // of row 0
  int count;        // columns from there on
  // Channels of the stage after the one that was loaded last: found a stage ahead, because their loads depend on them.
  int channel[CHUNKS], block[CHUNKS], inner[CHUNKS];

  __device__ __forceinline__ NMajor(const ProjectArgs& args, int n0) : p(args) {
    const int c = n0 + threadIdx.x % 16 * 8;
    column = (const T*)p.weight + c;
    count = p.width - c;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      const int k = threadIdx.x / 16 + 16 * i;
      block[i] = k / p.block;
      inner[i] = k - block[i] * p.block;
      find(i, k);
    }
  }
  __device__ __forceinline__ void find(int i, int k) {
    channel[i] = k >= p.channels ? -1 : p.kept ? (int)p.kept[block[i]] * p.block + inner[i] : k;
  }
  // For k = 0, 32, 64, ... in turn.
  __device__ __forceinline__ void load(T* tile, int k, bool aligned) {
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      const int row = threadIdx.x / 16 + 16 * i;
      const bool real = channel[i] >= 0 && count > 0;
      const T* from = real ? column + (size_t)channel[i] * p.width : (const T*)p.weight;
      load_chunk(tile + at_n(row, threadIdx.x % 16), from, real ? count : 0, aligned);
      if (p.kept) {
        inner[i] += BK;
        while (inner[i] >= p.block) {
          // Blocks of one channel take this in one step.
          const int over = p.block == 1 ? inner[i] : 1;
          inner[i] -= over * p.block;
          block[i] += over;
        }
      }
      find(i, k + BK + row);
    }
  }
};

template <class T, int BM> __device__ __forceinline__ void project(const ProjectArgs& p) {
  DYNAMIC_SHARED(shared);
  unsigned char* const memory = shared.take<unsigned char>(SHARED_BYTES<BM>, 128);
  const TileIndex tile(p.m_tiles, (p.width + BN - 1) / BN);
  const TileRows rows = TileRows::of<BM>(tile.m, p.rows, 0);
  const int n0 = tile.n * BN, wn = threadIdx.x >> 6;
  const auto first = [&](int j) { return wn * 32 + j * 16; };
  Sums<BM> sums;
  {
    const KMajor<T, BM> a(p.a, p.channels, [&](int m) {
      const int row = rows.row(m);
      return row < 0 ? nullptr : (const T*)p.a + (size_t)row * p.channels;
    });
    NMajor<T> b(p, n0);
    const bool a_aligned = p.channels % 8 == 0, b_aligned = p.width % 8 == 0;
    const auto load = [&](T* to_a, T* to_b, int k) {
      a.load(to_a, k, a_aligned);
      b.load(to_b, k, b_aligned);
    };
    pipeline<T, BM, ColumnsOfB<T, BM>>(sums, (T*)memory, p.channels, load, first);
  }
  float* const values = (float*)memory;
  spread<BM>(sums, values, first);
  const int column = threadIdx.x % 32 * 4, count = p.width - n0 - column;
  const bool aligned = p.width % 4 == 0;
  float bias[4] = {};
  if (p.bias) {
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (i < count) bias[i] = p.bias[n0 + column + i];
  }
#pragma unroll 2
  for (int m = threadIdx.x / 32; m < BM; m += THREADS / 32) {
    const int row = rows.row(m);
    if (row < 0 || count <= 0) continue;
    const float4 at = *(const float4*)(values + m * PITCH + column);
    float v[4] = {at.x + bias[0], at.y + bias[1], at.z + bias[2], at.w + bias[3]};
    const size_t to = (size_t)row * p.width + n0 + column;
    if (p.residual) {
      const T* from = (const T*)p.residual + to;
      if (aligned) {
        const uint2 r = *(const uint2*)from;
        v[0] += to_float(T{(uint16_t)r.x});
        v[1] += to_float(T{(uint16_t)(r.x >> 16)});
        v[2] += to_float(T{(uint16_t)r.y});
        v[3] += to_float(T{(uint16_t)(r.y >> 16)});
      } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
          if (i < count) v[i] += to_float(from[i]);
      }
    }
    store4<T>((T*)p.out + to, v, count, aligned);
  }
}

#define KERNELS(rows)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) project_m##rows##_bf16(ProjectArgs p) { project<bf16, rows>(p); } \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) project_m##rows##_f16(ProjectArgs p) { project<f16, rows>(p); }
KERNELS(128)
KERNELS(64)

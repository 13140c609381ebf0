// First projections of a gated MLP in one kernel: out = activation(x G[kept]^T + g) (x U[kept]^T + u) (paper section 3.4).
// x (T, H) element, G and U (., H) element, g and u (.) f32 or null, kept (C / block_width) u32 or null -> out (T, C) element,
//   energy (S, C) f32 = mean over samples of out^2 (paper section 3.2) where asked for
// Launch: ceil(T / M) ceil(C / 64) blocks of 128 threads for M = 128, 64 or 32; with fused energies ceil(S / floor(M / B))
//   ceil(C / 64).
// Registers: at most 255. Static shared memory: 2048 bytes. Dynamic shared memory: 69648 bytes for M = 128, 73744 for 64,
//   61456 for 32.
// Bytes: reads ceil(C / 64) 2 T H + ceil(T / M) (4 C H + 8 C / block_width), writes 2 T C + 4 S C with energies
// Bank conflicts: none.
// Accumulation: f32 in the mma, k ascending; energies over samples ascending, of the outputs as rounded.
// Test: gpu_ops::linear
#include "activation.cuh"
#include "gemm.cuh"

template <class T, class Tile> __device__ __forceinline__ void gated_linear(const GatedLinearArgs& p) {
  constexpr int COLUMNS = Tile::N / 2;  // output columns of a tile: B's rows are half gate's, half up's
  DYNAMIC_SHARED(shared);
  unsigned char* workspace = shared.take<unsigned char>(Tile::SHARED);
  __shared__ int rows[Tile::M], counted[Tile::M], weight_rows[COLUMNS];
  __shared__ float bias[Tile::N];
  const RowOrder order{p.rows, p.samples, p.tokens};
  const Place at = place(order.tiles(Tile::M), (p.out_features + COLUMNS - 1) / COLUMNS, p.raster_group);
  const int n = at.n * COLUMNS, tid = threadIdx.x;
  if (tid < Tile::M) {
    const int row = order.row(at.m, tid, Tile::M);
    rows[tid] = row;
    counted[tid] = row >= 0 && (!p.mask || p.mask[row]);
  }
  const int weight_row_of = weight_row(p.kept, p.block_width, n + tid % COLUMNS, p.out_features);
  if (tid < COLUMNS) weight_rows[tid] = weight_row_of;
  const float* bias_of = tid < COLUMNS ? p.gate_bias : p.up_bias;
  bias[staged(tid)] = bias_of && weight_row_of >= 0 ? bias_of[weight_row_of] : 0.f;
  __syncthreads();

  const T* x = (const T*)p.x;
  RowLoader<T, Tile, Tile::M> a(x, p.in_features,
                                [&](int r) { return rows[r] < 0 ? nullptr : x + (size_t)rows[r] * p.in_features; });
  RowLoader<T, Tile, Tile::N> b(p.gate, p.in_features, [&](int r) {
    const int c = staged_column<Tile, 2>(r), row = weight_rows[c % COLUMNS];
    return row < 0 ? nullptr : (const T*)(c < COLUMNS ? p.gate : p.up) + (size_t)row * p.in_features;
  });
  float sum[Tile::I][Tile::J][4] = {};
  multiply<T, Tile>((T*)workspace, a, b, (p.in_features + Tile::K - 1) / Tile::K, sum);
  float* sums = (float*)workspace;
  stage<2>(sum, sums, Tile{});

  const int c = tid % 8 * 8;
  float gate_bias[8], up_bias[8];
  read8(bias, c, gate_bias);
  read8(bias, COLUMNS + c, up_bias);
#pragma unroll 1
  for (int r = tid / 8; r < Tile::M; r += Tile::THREADS / 8) {
    const int row = rows[r];
    if (row < 0 || n + c >= p.out_features) continue;
    float v[8], up[8];
    read8(sums + r * Tile::PITCH, c, v);
    read8(sums + r * Tile::PITCH, COLUMNS + c, up);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] += gate_bias[i];
    activate(p.activation, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= up[i] + up_bias[i];
    const Vector8<T> rounded = pack8<T>(v);
    if (p.out) store8((T*)p.out + (size_t)row * p.out_features, n + c, p.out_features, rounded);
    if (p.samples) {
      unpack(rounded, v);
      write8(sums + r * Tile::PITCH, c, v);
    }
  }
  if (p.samples) {
    __syncthreads();
    reduce_energy<Tile, COLUMNS>(sums, counted, p.mask, order, at.m, n, p.out_features, p.energy);
  }
}

TILE_KERNELS(gated_linear, GatedLinearArgs, gated_linear)

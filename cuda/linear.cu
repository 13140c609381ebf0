// First projections and the head: out = activation(x W[kept]^T + bias[kept]) scale (paper section 3.4), gathered rows.
// x (T, H) element, W (., H) element, bias (.) f32 or null, kept (C / block_width) u32 or null -> out (T, C) element,
//   energy (S, C) f32 = mean over samples of out^2 (paper section 3.2) where asked for; logits: out (T, V) f32
// Launch: ceil(T / M) ceil(C / 128) blocks of 128 threads for M = 128, 64 or 32; with fused energies ceil(S / floor(M / B))
//   ceil(C / 128).
// Registers: at most 255. Static shared memory: 2048 bytes. Dynamic shared memory: 69648 bytes for M = 128, 73744 for 64,
//   61456 for 32.
// Bytes: reads ceil(C / 128) 2 T H + ceil(T / M) (2 C H + 4 C / block_width), writes 2 T C (logits: 4 T C) + 4 S C with
//   energies
// Bank conflicts: none.
// Accumulation: f32 in the mma, k ascending; energies over samples ascending, of the outputs as rounded.
// Test: gpu_ops::linear
#include "activation.cuh"
#include "gemm.cuh"

template <class T, class Tile> __device__ __forceinline__ void linear(const LinearArgs& p) {
  DYNAMIC_SHARED(shared);
  unsigned char* workspace = shared.take<unsigned char>(Tile::SHARED);
  __shared__ int rows[Tile::M], counted[Tile::M], weight_rows[Tile::N];
  __shared__ float bias[Tile::N];
  const RowOrder order{p.rows, p.samples, p.tokens};
  const Place at = place(order.tiles(Tile::M), (p.out_features + Tile::N - 1) / Tile::N, p.raster_group);
  const int n = at.n * Tile::N, tid = threadIdx.x;
  if (tid < Tile::M) {
    const int row = order.row(at.m, tid, Tile::M);
    rows[tid] = row;
    counted[tid] = row >= 0 && (!p.mask || p.mask[row]);
  }
  const int weight_row_of = weight_row(p.kept, p.block_width, n + tid, p.out_features);
  weight_rows[tid] = weight_row_of;
  bias[staged(tid)] = p.bias && weight_row_of >= 0 ? p.bias[weight_row_of] : 0.f;
  __syncthreads();

  const T *x = (const T*)p.x, *weight = (const T*)p.weight;
  RowLoader<T, Tile, Tile::M> a(x, p.in_features,
                                [&](int r) { return rows[r] < 0 ? nullptr : x + (size_t)rows[r] * p.in_features; });
  RowLoader<T, Tile, Tile::N> b(weight, p.in_features, [&](int r) {
    return weight_rows[r] < 0 ? nullptr : weight + (size_t)weight_rows[r] * p.in_features;
  });
  float sum[Tile::I][Tile::J][4] = {};
  multiply<T, Tile>((T*)workspace, a, b, (p.in_features + Tile::K - 1) / Tile::K, sum);
  float* sums = (float*)workspace;
  stage<1>(sum, sums, Tile{});

  const int c = tid % 16 * 8;
  float bias8[8];
  read8(bias, c, bias8);
#pragma unroll 1
  for (int r = tid / 16; r < Tile::M; r += Tile::THREADS / 16) {
    const int row = rows[r];
    if (row < 0 || n + c >= p.out_features) continue;
    float v[8];
    read8(sums + r * Tile::PITCH, c, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] += bias8[i];
    activate(p.activation, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= p.scale;
    const Vector8<T> rounded = pack8<T>(v);
    if (p.out) store8((T*)p.out + (size_t)row * p.out_features, n + c, p.out_features, rounded);
    if (p.samples) {
      unpack(rounded, v);
      write8(sums + r * Tile::PITCH, c, v);
    }
  }
  if (p.samples) {
    __syncthreads();
    reduce_energy<Tile, Tile::N>(sums, counted, p.mask, order, at.m, n, p.out_features, p.energy);
  }
}

template <class T, class Tile> __device__ __forceinline__ void logits(const LogitsArgs& p) {
  DYNAMIC_SHARED(shared);
  unsigned char* workspace = shared.take<unsigned char>(Tile::SHARED);
  const RowOrder order{p.rows, 0, 0};
  const Place at = place(order.tiles(Tile::M), (p.out_features + Tile::N - 1) / Tile::N, p.raster_group);
  const int m = at.m * Tile::M, n = at.n * Tile::N;
  const T *x = (const T*)p.x, *head = (const T*)p.head;
  RowLoader<T, Tile, Tile::M> a(x, p.in_features,
                                [&](int r) { return m + r < p.rows ? x + (size_t)(m + r) * p.in_features : nullptr; });
  RowLoader<T, Tile, Tile::N> b(head, p.in_features, [&](int r) {
    return n + r < p.out_features ? head + (size_t)(n + r) * p.in_features : nullptr;
  });
  float sum[Tile::I][Tile::J][4] = {};
  multiply<T, Tile>((T*)workspace, a, b, (p.in_features + Tile::K - 1) / Tile::K, sum);
  float* sums = (float*)workspace;
  stage<1>(sum, sums, Tile{});

  const int c = threadIdx.x % 32 * 4;
#pragma unroll 4
  for (int r = threadIdx.x / 32; r < min(Tile::M, p.rows - m); r += Tile::THREADS / 32) {
    const float4 v = *(const float4*)(sums + r * Tile::PITCH + staged(c));
    float* out = p.out + (size_t)(m + r) * p.out_features + n + c;
    if (p.out_features % 4 == 0) {
      if (n + c < p.out_features) *(float4*)out = v;
    } else {
      if (n + c < p.out_features) out[0] = v.x;
      if (n + c + 1 < p.out_features) out[1] = v.y;
      if (n + c + 2 < p.out_features) out[2] = v.z;
      if (n + c + 3 < p.out_features) out[3] = v.w;
    }
  }
}

TILE_KERNELS(linear, LinearArgs, linear)
TILE_KERNELS(logits, LogitsArgs, logits)

// Last projections: out = residual + a W[:, kept]^T + bias (paper section 3.4). The weight is stored transposed, so a kept
//   channel is a row of it: rows along k are gathered.
//   With a low-rank product (compensation of pruned channels: ours) + z X[:r] + X[r].
// a (T, C) element, W (., H) element, kept (C / block_width) u32 or null, bias (H) f32 or null, residual (T, H) element or null,
//   z (T, r) element, X (r + 1, H) element or null -> out (T, H) element
// Launch: ceil(T / M) ceil(H / 128) blocks of 128 threads for M = 128, 64 or 32.
// Registers: at most 255. Static shared memory: 1024 bytes. Dynamic shared memory: 69648 bytes for M = 128, 73744 for 64,
//   61456 for 32.
// Bytes: reads ceil(H / 128) 2 T C + ceil(T / M) (2 C H + 4 H) + ceil(T / M) ceil(H / 128) 16 C for kept + 2 T H, writes
//   2 T H (with a low-rank product reads ceil(H / 128) 2 T r + ceil(T / M) 2 (r + 1) H more)
// Bank conflicts: none.
// Accumulation: f32 in the mma, kept channels ascending, then columns of z; then bias (with X[r]) and residual.
// Test: gpu_ops::project
#include "gemm.cuh"

template <class T, class Tile> __device__ __forceinline__ void project(const ProjectArgs& p) {
  DYNAMIC_SHARED(shared);
  unsigned char* workspace = shared.take<unsigned char>(Tile::SHARED);
  __shared__ float bias[Tile::N];
  const RowOrder order{p.rows, 0, 0};
  const Place at = place(order.tiles(Tile::M), (p.out_features + Tile::N - 1) / Tile::N, p.raster_group);
  const int m = at.m * Tile::M, n = at.n * Tile::N, tid = threadIdx.x;
  float constant = p.bias && n + tid < p.out_features ? p.bias[n + tid] : 0.f;
  if (p.low_rank && n + tid < p.out_features)
    constant += to_float(((const T*)p.low_rank)[(size_t)p.rank * p.out_features + n + tid]);
  bias[staged(tid)] = constant;
  const T* x = (const T*)p.a;
  RowLoader<T, Tile, Tile::M> a(x, p.in_features,
                                [&](int r) { return m + r < p.rows ? x + (size_t)(m + r) * p.in_features : nullptr; });
  ColumnLoader<T, Tile> b(p.weight, p.kept, p.block_width, p.in_features, p.out_features, n);
  float sum[Tile::I][Tile::J][4] = {};
  multiply<T, Tile>((T*)workspace, a, b, (p.in_features + Tile::K - 1) / Tile::K, sum);
  if (p.rank > 0) {
    const T* z = (const T*)p.z;
    RowLoader<T, Tile, Tile::M> low(z, p.rank, [&](int r) { return m + r < p.rows ? z + (size_t)(m + r) * p.rank : nullptr; });
    ColumnLoader<T, Tile> low_rank(p.low_rank, nullptr, 1, p.rank, p.out_features, n);
    multiply<T, Tile>((T*)workspace, low, low_rank, (p.rank + Tile::K - 1) / Tile::K, sum);
  }
  float* sums = (float*)workspace;
  stage<1>(sum, sums, Tile{});

  constexpr int BATCH = 4, STRIDE = Tile::THREADS / 16;  // rows whose residuals are under way together
  const int c = tid % 16 * 8, last = n + c < p.out_features ? min(Tile::M, p.rows - m) : 0;
  float bias8[8];
  read8(bias, c, bias8);
#pragma unroll 1
  for (int first = tid / 16; first < last; first += BATCH * STRIDE) {
    Vector8<T> residual[BATCH] = {};
    if (p.residual) {
#pragma unroll
      for (int i = 0; i < BATCH; i++)
        if (first + i * STRIDE < last)
          residual[i] = load8((const T*)p.residual + (size_t)(m + first + i * STRIDE) * p.out_features, n + c, p.out_features);
    }
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int r = first + i * STRIDE;
      if (r >= last) break;
      float v[8], other[8];
      read8(sums + r * Tile::PITCH, c, v);
      unpack(residual[i], other);
#pragma unroll
      for (int e = 0; e < 8; e++) v[e] += bias8[e] + other[e];
      store8((T*)p.out + (size_t)(m + r) * p.out_features, n + c, p.out_features, pack8<T>(v));
    }
  }
}

TILE_KERNELS(project, ProjectArgs, project)

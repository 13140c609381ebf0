// The matrix product on tensor cores that the projections share: sums (BM, BN) of one tile, K in steps of 32 through a
// ring of cp.async stages, ldmatrix and mma.sync. Which rows take part is the loaders' business, what becomes of the
// sums the epilogue's (linear.cu, gated_linear.cu, project.cu, cross_entropy.cu).
//
// 256 threads: 2 x 4 warps, each with BM/2 x 32 of the tile. Shared memory holds the ring first and then the sums in f32.
#pragma once
#include "activation.cuh"
#include "device.cuh"

constexpr int THREADS = 256, BN = 128, BK = 32, STAGES = 4;
// Floats from one row of sums to the next: 8 more than columns, so that the two-float writes do not conflict.
constexpr int PITCH = BN + 8;

// Elements of one stage's A tile and B tile.
template <int BM> constexpr int A_TILE = BM * BK;
constexpr int B_TILE = BN * BK;

template <int BM> constexpr int RING_BYTES = STAGES * (A_TILE<BM> + B_TILE) * 2;
template <int BM> constexpr int SUMS_BYTES = BM * PITCH * 4;
template <int BM> constexpr int SHARED_BYTES = RING_BYTES<BM> > SUMS_BYTES<BM> ? RING_BYTES<BM> : SUMS_BYTES<BM>;

// Chunks of 8 elements in a tile whose rows have 4 of them (K-major), permuted so that neither cp.async nor ldmatrix has
// bank conflicts, and in one whose rows have 16 (N-major).
__device__ __forceinline__ int at_k(int row, int chunk) { return row * BK + ((chunk ^ ((row >> 1) & 3)) << 3); }
__device__ __forceinline__ int at_n(int row, int chunk) { return row * BN + ((chunk ^ (row & 7)) << 3); }

// Eight neighbours to shared memory, those from `count` on as 0. Rows that are not 16-byte aligned are read one by one.
template <class T> __device__ __forceinline__ void load_chunk(T* to, const T* from, int count, bool aligned) {
  count = max(0, min(count, 8));
  if (aligned) {
    cp_async16(to, from, 2 * count);
    return;
  }
  uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint32_t lo = 2 * i < count ? from[2 * i].bits : 0, hi = 2 * i + 1 < count ? from[2 * i + 1].bits : 0;
    word[i] = lo | hi << 16;
  }
  *(uint4*)to = make_uint4(word[0], word[1], word[2], word[3]);
}

// Which tile a block works on: blocks that run together share tiles of A and of B, 8 tiles of rows at a time.
struct TileIndex {
  int m, n;
  __device__ __forceinline__ TileIndex(int m_tiles, int n_tiles) {
    constexpr int GROUP = 8;
    const int per_group = GROUP * n_tiles, group = blockIdx.x / per_group, first = group * GROUP;
    const int rows = min(GROUP, m_tiles - first), in_group = blockIdx.x - group * per_group;
    m = first + in_group % rows;
    n = in_group / rows;
  }
};

// The rows of a tile. With `samples` they are ordered by slots, so that a tile has all samples of its slots.
struct TileRows {
  int rows, tokens, samples, first, slots;
  // `samples` 0: any rows; `tokens` is not looked at.
  template <int BM> static __device__ __forceinline__ TileRows of(int m_tile, int rows, int samples) {
    TileRows r;
    r.rows = rows;
    r.samples = samples;
    r.tokens = samples ? rows / samples : 0;
    r.slots = samples ? BM / samples : 0;
    r.first = m_tile * (samples ? r.slots : BM);
    return r;
  }
  // The row in the matrix of row m of the tile; -1 if there is none.
  __device__ __forceinline__ int row(int m) const {
    if (samples == 0) return first + m < rows ? first + m : -1;
    const int slot = m / samples, sample = m - slot * samples;
    return slot < slots && first + slot < tokens ? sample * tokens + first + slot : -1;
  }
};

// Loads of a K-major operand: chunk i of this thread is row (threadIdx.x + 256 i) / 4 of the tile.
template <class T, int ROWS> struct KMajor {
  static constexpr int CHUNKS = ROWS * BK / 8 / THREADS;
  const T* row[CHUNKS];  // at this thread's chunk; null if the row does not exist
  int left;              // elements from there to the row's end
  const T* any;
  template <class Row> __device__ __forceinline__ KMajor(const void* base, int k, Row&& row_of) {
    const int column = threadIdx.x % 4 * 8;
    any = (const T*)base;
    left = k - column;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      const T* start = row_of((threadIdx.x + i * THREADS) / 4);
      row[i] = start ? start + column : nullptr;
    }
  }
  __device__ __forceinline__ void load(T* tile, int k, bool aligned) const {
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      const bool real = row[i] && k < left;
      T* to = tile + at_k((threadIdx.x + i * THREADS) / 4, threadIdx.x % 4);
      load_chunk(to, real ? row[i] + k : any, real ? left - k : 0, aligned);
    }
  }
};

// Sums of a warp's part of the tile.
template <int BM> struct Sums {
  static constexpr int M = BM / 32;
  float v[M][4][4] = {};
};

template <class T, int BM> __device__ __forceinline__ void fragments_a(uint32_t (&a)[BM / 32][4], const T* tile, int step) {
  const int lane = threadIdx.x & 31, wm = (threadIdx.x >> 5) & 1;
#pragma unroll
  for (int i = 0; i < BM / 32; i++)
    ldmatrix_x4(a[i], tile + at_k(wm * (BM / 2) + i * 16 + (lane & 15), step * 2 + (lane >> 4)));
}

template <class T, int BM>
__device__ __forceinline__ void multiply(Sums<BM>& sums, const uint32_t (&a)[BM / 32][4], const uint32_t (&b)[4], int j) {
#pragma unroll
  for (int i = 0; i < BM / 32; i++) {
    mma(T{}, sums.v[i][2 * j], a[i], b[0], b[1]);
    mma(T{}, sums.v[i][2 * j + 1], a[i], b[2], b[3]);
  }
}

// B's rows are columns of the product. FIRST[j]: the first of the 16 rows of fragment j (0, 1) of this warp.
template <class T, int BM> struct RowsOfB {
  template <class First>
  static __device__ __forceinline__ void step(Sums<BM>& sums, const T* a_tile, const T* b_tile, int step, First&& first) {
    const int lane = threadIdx.x & 31;
    uint32_t a[BM / 32][4];
    fragments_a<T, BM>(a, a_tile, step);
#pragma unroll
    for (int j = 0; j < 2; j++) {
      uint32_t b[4];
      ldmatrix_x4(b, b_tile + at_k(first(j) + (lane & 7) + ((lane >> 4) << 3), step * 2 + ((lane >> 3) & 1)));
      multiply<T, BM>(sums, a, b, j);
    }
  }
};

// B's rows are K.
template <class T, int BM> struct ColumnsOfB {
  template <class First>
  static __device__ __forceinline__ void step(Sums<BM>& sums, const T* a_tile, const T* b_tile, int step, First&& first) {
    const int lane = threadIdx.x & 31;
    uint32_t a[BM / 32][4];
    fragments_a<T, BM>(a, a_tile, step);
#pragma unroll
    for (int j = 0; j < 2; j++) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, b_tile + at_n(step * 16 + (lane & 15), first(j) / 8 + (lane >> 4)));
      multiply<T, BM>(sums, a, b, j);
    }
  }
};

// The pipeline. `load(a tile, b tile, k)` starts the copies of one stage; it is called for k = 0, 32, 64, ... in turn.
template <class T, int BM, class Step, class Load, class First>
__device__ __forceinline__ void pipeline(Sums<BM>& sums, T* ring, int k, Load&& load, First&& first) {
  constexpr int STAGE = A_TILE<BM> + B_TILE;
  const int steps = (k + BK - 1) / BK;
#pragma unroll 1
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) load(ring + s * STAGE, ring + s * STAGE + A_TILE<BM>, s * BK);
    cp_async_commit();
  }
  int from = 0, to = STAGES - 1;
#pragma unroll 1
  for (int kt = 0; kt < steps; kt++) {
    // This stage has arrived for everybody, and nobody reads the one before it, whose place is filled next.
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    if (kt + STAGES - 1 < steps) load(ring + to * STAGE, ring + to * STAGE + A_TILE<BM>, (kt + STAGES - 1) * BK);
    cp_async_commit();
#pragma unroll
    for (int step = 0; step < BK / 16; step++)
      Step::step(sums, ring + from * STAGE, ring + from * STAGE + A_TILE<BM>, step, first);
    from = from + 1 == STAGES ? 0 : from + 1;
    to = to + 1 == STAGES ? 0 : to + 1;
  }
}

// The sums as rows in shared memory, where the ring was: sums[m * PITCH + n].
template <int BM, class First> __device__ __forceinline__ void spread(const Sums<BM>& sums, float* to, First&& first) {
  const int lane = threadIdx.x & 31, wm = (threadIdx.x >> 5) & 1;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < BM / 32; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = wm * (BM / 2) + i * 16 + h * 8 + (lane >> 2), column = first(j / 2) + j % 2 * 8 + (lane & 3) * 2;
        *(float2*)(to + row * PITCH + column) = make_float2(sums.v[i][j][2 * h], sums.v[i][j][2 * h + 1]);
      }
  __syncthreads();
}

// Four neighbouring outputs of a row, of which `count` exist.
template <class T> __device__ __forceinline__ void store4(T* to, const float (&v)[4], int count, bool aligned) {
  if (aligned && count >= 4) {
    *(uint2*)to = make_uint2(pack(T{}, v[0], v[1]), pack(T{}, v[2], v[3]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (i < count) to[i] = round_to(T{}, v[i]);
}

// Energies of the tile's outputs, which the caller left in `values` (slots x samples rows, `columns` of them in use):
// p[slot, c] = mean over samples of v^2 (spec section 3).
struct EnergyTile {
  const unsigned* mask;
  float* out;  // (tokens, features)
  int features;
};
__device__ __forceinline__ void energies(const float* values, const TileRows& r, int first_column, int columns,
                                         const EnergyTile& e) {
  __syncthreads();
  for (int i = threadIdx.x; i < r.slots * columns; i += THREADS) {
    const int slot = i / columns, c = i - slot * columns, token = r.first + slot, column = first_column + c;
    if (token >= r.tokens || column >= e.features) continue;
    float sum = 0.f, count = e.mask ? 1e-3f : 0.f;
    for (int b = 0; b < r.samples; b++) {
      if (e.mask && e.mask[(size_t)b * r.tokens + token] == 0) continue;
      const float v = values[(slot * r.samples + b) * PITCH + c];
      sum += v * v;
      count += 1.f;
    }
    e.out[(size_t)token * e.features + column] = sum / count;
  }
}

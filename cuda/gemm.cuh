// Products on the tensor cores of sm_80 and later: a ring of stages filled by cp.async, ldmatrix, mma.sync m16n8k16 with
// f32 accumulators. Three independent parts: which rows are multiplied (the loaders' sources), the
// pipeline (`multiply`), and what happens to the sums (`stage`, then the kernel's own loop over chunks of 8 columns).
//
// A warp owns 64x64 (32x64, 32x32) sums: the larger its tile, the fewer bytes go from shared memory to the tensor cores,
// which is what limits mma.sync. Two blocks of four warps fit on a multiprocessor and hide each other's epilogues.
#pragma once
#include "device.cuh"

// Tile of a block: M rows of A by N rows (columns) of B, K deep.
template <int M_> struct Tile {
  static constexpr int M = M_, N = 128, K = 32, THREADS = 128;
  static constexpr int WARPS_N = M == 32 ? 4 : 2, WARPS_M = 4 / WARPS_N;
  static constexpr int WM = M / WARPS_M, WN = N / WARPS_N;  // a warp's part
  static constexpr int I = WM / 16, J = WN / 8;             // in mma tiles
  // Small tiles wait for memory and need more of it under way.
  static constexpr int STAGES = M == 128 ? 4 : 6;
  static constexpr int SLOT = (M + N) * K;  // elements of a stage: A's, then B's
  static constexpr int PITCH = N + 8;       // floats of a staged row
  static constexpr int RING = STAGES * SLOT * 2, STAGED = M * PITCH * 4;  // bytes; one after the other
  static constexpr int SHARED = RING > STAGED ? RING : STAGED;
};

// ---- order of blocks and rows ------------------------------------------------------------------------------------------
struct Place { int m, n; };

// Blocks go down `raster_group` row tiles before they go on to the next columns, so that those running together share
// rows of both operands in L2.
__device__ __forceinline__ Place place(int tiles_m, int tiles_n, int raster_group) {
  const unsigned in_group = (unsigned)raster_group * tiles_n, first = blockIdx.x / in_group * raster_group;
  const unsigned size = min((unsigned)raster_group, tiles_m - first), at = blockIdx.x % in_group;
  return {(int)(first + at % size), (int)(at / size)};
}

// How a product's rows are dealt to tiles: in order (samples = 0), or whole slots of `samples` rows each, so that a tile
// sees every sample of its slots.
struct RowOrder {
  int rows, samples, tokens;
  __device__ __forceinline__ int tiles(int m) const {
    return samples ? (tokens + m / samples - 1) / (m / samples) : (rows + m - 1) / m;
  }
  // The product's row that row r of an m-row tile is; -1 for none.
  __device__ __forceinline__ int row(int tile, int r, int m) const {
    if (!samples) return tile * m + r < rows ? tile * m + r : -1;
    const int slots = m / samples, slot = tile * slots + r / samples;
    return r < slots * samples && slot < tokens ? r % samples * tokens + slot : -1;
  }
};

// The weight's row behind output column j; -1 for none.
__device__ __forceinline__ int weight_row(const unsigned* kept, int block_width, int j, int out_features) {
  if (j >= out_features) return -1;
  if (!kept) return j;
  const unsigned block = kept[(unsigned)j / block_width];
  return block == 0xffffffffu ? -1 : (int)(block * block_width + (unsigned)j % block_width);
}

// ---- from global to shared memory --------------------------------------------------------------------------------------
// Eight elements that need not be aligned; those from `real` on become 0.
template <class T> __device__ __forceinline__ void copy8(T* dst, const T* src, int real) {
#pragma unroll 1
  for (int j = 0; j < 8; j += 2) {
    const uint32_t lo = j < real ? src[j].bits : 0, hi = j + 1 < real ? src[j + 1].bits : 0;
    *(uint32_t*)(dst + j) = lo | hi << 16;
  }
}

// Element of a (rows, 32) tile: four 16-byte chunks in a row, permuted so that neither eight rows of a chunk (ldmatrix)
// nor two whole rows (cp.async) meet in a bank.
__device__ __forceinline__ int row_chunk(int row, int chunk) { return row * 32 + ((chunk ^ (row >> 1 & 3)) << 3); }
// Element of a (32, 128) tile: sixteen chunks in a row.
__device__ __forceinline__ int column_chunk(int k, int chunk) { return k * 128 + ((chunk ^ (k & 7)) << 3); }

// Rows that lie in memory one after the other along k; every thread copies one chunk of ROWS / 32 of them, whose
// addresses it knows before the first step.
template <class T, class Tile, int ROWS> struct RowLoader {
  static constexpr int STRIDE = Tile::THREADS / 4, COUNT = ROWS / STRIDE;
  const T* source[COUNT];
  unsigned real = 0;  // bit i: row i exists
  int in_features;
  // address(r): tile row r at k = 0, or null
  template <class F> __device__ __forceinline__ RowLoader(const void* anywhere, int in, F address) : in_features(in) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const T* row = address(threadIdx.x / 4 + i * STRIDE);
      if (row) real |= 1u << i;
      source[i] = (row ? row : (const T*)anywhere) + threadIdx.x % 4 * 8;
    }
  }
  __device__ __forceinline__ void load(T* tile, int step) {
    const int k = step * 32, left = in_features - k - (int)(threadIdx.x % 4 * 8);
    T* to = tile + row_chunk(threadIdx.x / 4, threadIdx.x % 4);
    if (in_features % 8 == 0) {
      const unsigned copied = left > 0 ? real : 0;
#pragma unroll
      for (int i = 0; i < COUNT; i++) cp_async16(to + i * STRIDE * 32, source[i] + k, copied >> i & 1 ? 16 : 0);
    } else {
#pragma unroll
      for (int i = 0; i < COUNT; i++) copy8(to + i * STRIDE * 32, source[i] + k, real >> i & 1 ? left : 0);
    }
  }
};

// Rows along n of a (., out_features) matrix: step s multiplies the kept ones 32 s .. 32 s + 31. The indices of a step are
// read while the step before it is copied.
template <class T, class Tile> struct ColumnLoader {
  static constexpr int STRIDE = Tile::THREADS / 16, COUNT = 32 / STRIDE;
  const T* source;
  const unsigned* kept;
  int block_width, in_features, out_features, left;
  unsigned next[COUNT];
  __device__ __forceinline__ ColumnLoader(const void* weight, const unsigned* kept_, int width, int in, int out, int n)
      : kept(kept_), block_width(width), in_features(in), out_features(out) {
    const int column = n + threadIdx.x % 16 * 8;
    source = (const T*)weight + column;
    left = out_features - column;
    fetch(0);
  }
  __device__ __forceinline__ void fetch(int step) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int k = step * 32 + threadIdx.x / 16 + i * STRIDE;
      if (k >= in_features) {
        next[i] = 0xffffffffu;
      } else if (!kept) {
        next[i] = k;
      } else if (block_width == 1) {
        next[i] = kept[k];
      } else {
        next[i] = weight_row(kept, block_width, k, in_features);
      }
    }
  }
  __device__ __forceinline__ void load(T* tile, int step) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int k = threadIdx.x / 16 + i * STRIDE;
      T* to = tile + column_chunk(k, threadIdx.x % 16);
      const bool real = next[i] != 0xffffffffu && left > 0;
      const T* from = real ? source + (size_t)next[i] * out_features : source;
      if (out_features % 8 == 0) {
        cp_async16(to, from, real ? 16 : 0);
      } else {
        copy8(to, from, real ? left : 0);
      }
    }
    fetch(step + 1);
  }
};

// ---- the pipeline ------------------------------------------------------------------------------------------------------
// A warp's operands of one k16 step.
template <class T, class Tile> struct Fragments {
  uint32_t a[Tile::I][4], b[Tile::J / 2][4];

  __device__ __forceinline__ void read_a(const T* tile, int ks) {
    const int lane = threadIdx.x & 31, row = (threadIdx.x >> 5) / Tile::WARPS_N * Tile::WM + (lane & 15);
#pragma unroll
    for (int i = 0; i < Tile::I; i++) ldmatrix_x4(a[i], tile + row_chunk(row + i * 16, ks * 2 + (lane >> 4)));
  }
  __device__ __forceinline__ void read_b(const T* tile, int ks, RowLoader<T, Tile, Tile::N>*) {
    const int lane = threadIdx.x & 31;
    const int row = (threadIdx.x >> 5) % Tile::WARPS_N * Tile::WN + (lane & 7) + (lane >> 4) * 8;
#pragma unroll
    for (int j = 0; j < Tile::J / 2; j++) ldmatrix_x4(b[j], tile + row_chunk(row + j * 16, ks * 2 + (lane >> 3 & 1)));
  }
  __device__ __forceinline__ void read_b(const T* tile, int ks, ColumnLoader<T, Tile>*) {
    const int lane = threadIdx.x & 31, chunk = (threadIdx.x >> 5) % Tile::WARPS_N * (Tile::WN / 8) + (lane >> 4);
#pragma unroll
    for (int j = 0; j < Tile::J / 2; j++) ldmatrix_x4_trans(b[j], tile + column_chunk(ks * 16 + (lane & 15), chunk + j * 2));
  }
  __device__ __forceinline__ void accumulate(float (&sum)[Tile::I][Tile::J][4]) const {
#pragma unroll
    for (int i = 0; i < Tile::I; i++)
#pragma unroll
      for (int j = 0; j < Tile::J; j++) mma(T{}, sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
};

// sum += A B over `steps` steps of 32. Afterwards no thread reads the ring.
template <class T, class Tile, class B>
__device__ __forceinline__ void multiply(T* ring, RowLoader<T, Tile, Tile::M>& a, B& b, int steps,
                                         float (&sum)[Tile::I][Tile::J][4]) {
  constexpr int AHEAD = Tile::STAGES - 1, A_PART = Tile::M * Tile::K;
  auto load = [&](int slot, int step) {
    if (step < steps) {
      a.load(ring + slot * Tile::SLOT, step);
      b.load(ring + slot * Tile::SLOT + A_PART, step);
    }
    // Empty groups keep the count of groups equal to that of steps.
    cp_async_commit();
  };
  Fragments<T, Tile> fragments[2];
  auto read = [&](int which, int slot, int ks) {
    fragments[which].read_a(ring + slot * Tile::SLOT, ks);
    fragments[which].read_b(ring + slot * Tile::SLOT + A_PART, ks, (B*)nullptr);
  };
#pragma unroll 1
  for (int s = 0; s < AHEAD; s++) load(s, s);
  cp_async_wait<AHEAD - 1>();
  __syncthreads();
  if (steps > 0) read(0, 0, 0);
  int now = 0, fill = AHEAD;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    // Operands are read one k16 step before they are multiplied, also across the barrier.
    read(1, now, 1);
    // Into the slot that all threads had read before the last barrier.
    load(fill, step + AHEAD);
    fragments[0].accumulate(sum);
    now = now + 1 == Tile::STAGES ? 0 : now + 1;
    fill = fill + 1 == Tile::STAGES ? 0 : fill + 1;
    cp_async_wait<AHEAD - 1>();
    __syncthreads();
    if (step + 1 < steps) read(0, now, 0);
    fragments[1].accumulate(sum);
  }
}

// ---- sums on their way out ---------------------------------------------------------------------------------------------
// Column c of a staged row: without the permutation two of eight threads that read 8 floats each would meet in a bank.
__device__ __forceinline__ int staged(int c) { return c ^ (c >> 3 & 4); }

// The staged column of row n of B's tile. HALVES = 2: each warp's first half of rows belongs to one matrix and its second
// half to another, whose sums are staged 64 columns further right.
template <class Tile, int HALVES> __device__ __forceinline__ int staged_column(int n) {
  constexpr int PART = Tile::WN / HALVES;
  return n % Tile::WN / PART * (Tile::N / HALVES) + n / Tile::WN * PART + n % PART;
}

// Leaves the block's sums in shared memory, (M, PITCH) floats where the ring was.
template <int HALVES, class Tile, int I, int J>
__device__ __forceinline__ void stage(const float (&sum)[I][J][4], float* out, Tile) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int row = warp / Tile::WARPS_N * Tile::WM + (lane >> 2);
#pragma unroll
  for (int j = 0; j < J; j++) {
    const int column = staged(staged_column<Tile, HALVES>(warp % Tile::WARPS_N * Tile::WN + j * 8) + (lane & 3) * 2);
#pragma unroll
    for (int i = 0; i < I; i++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        store_shared2(out + (row + i * 16 + h * 8) * Tile::PITCH + column, sum[i][j][2 * h], sum[i][j][2 * h + 1]);
  }
  __syncthreads();
}

// Columns c .. c + 7 of a staged row; c is a multiple of 8.
__device__ __forceinline__ void read8(const float* row, int c, float (&x)[8]) {
  const float4 lo = *(const float4*)(row + staged(c)), hi = *(const float4*)(row + staged(c + 4));
  x[0] = lo.x, x[1] = lo.y, x[2] = lo.z, x[3] = lo.w, x[4] = hi.x, x[5] = hi.y, x[6] = hi.z, x[7] = hi.w;
}
__device__ __forceinline__ void write8(float* row, int c, const float (&x)[8]) {
  *(float4*)(row + staged(c)) = make_float4(x[0], x[1], x[2], x[3]);
  *(float4*)(row + staged(c + 4)) = make_float4(x[4], x[5], x[6], x[7]);
}

// Eight elements of a row of `columns`, from column c < columns on; as one vector where rows are aligned.
template <class T> __device__ __forceinline__ Vector8<T> load8(const T* row, int c, int columns) {
  if (columns % 8 == 0) return load8(row + c);
  Vector8<T> v;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint32_t lo = c + 2 * i < columns ? row[c + 2 * i].bits : 0, hi = c + 2 * i + 1 < columns ? row[c + 2 * i + 1].bits : 0;
    v.word[i] = lo | hi << 16;
  }
  return v;
}
template <class T> __device__ __forceinline__ void store8(T* row, int c, int columns, const Vector8<T>& v) {
  if (columns % 8 == 0) {
    *(Vector8<T>*)(row + c) = v;
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (c + i < columns) row[c + i] = T{(uint16_t)(v.word[i / 2] >> (i % 2 * 16))};
}

// energy[s][n + c] = mean over samples of the staged squares, c < WIDTH, for the slots of a tile in slot order; `counted`
// says which of its rows are real tokens. Samples ascending.
template <class Tile, int WIDTH>
__device__ __forceinline__ void reduce_energy(const float* sums, const int* counted, bool masked, RowOrder order, int tile,
                                              int n, int channels, float* energy) {
  const int c = threadIdx.x % WIDTH, slots = Tile::M / order.samples;
  if (n + c >= channels) return;
  for (int i = threadIdx.x / WIDTH; i < slots && tile * slots + i < order.tokens; i += Tile::THREADS / WIDTH) {
    float sum = 0.f;
    int count = 0;
    for (int r = i * order.samples; r < (i + 1) * order.samples; r++) {
      if (!counted[r]) continue;
      const float x = sums[r * Tile::PITCH + staged(c)];
      sum += x * x;
      count++;
    }
    energy[(size_t)(tile * slots + i) * channels + n + c] = sum / (masked ? count + 1e-3f : (float)order.samples);
  }
}

// Kernels NAME, NAME_64 and NAME_32 of a function template <class T, class Tile>, in both dtypes.
#define TILE_KERNEL(name, m, Args, function) \
  extern "C" __global__ void __launch_bounds__(128, 2) name##_bf16(Args p) { function<bf16, Tile<m>>(p); } \
  extern "C" __global__ void __launch_bounds__(128, 2) name##_f16(Args p) { function<f16, Tile<m>>(p); }
#define TILE_KERNELS(name, Args, function) \
  TILE_KERNEL(name, 128, Args, function) \
  TILE_KERNEL(name##_64, 64, Args, function) \
  TILE_KERNEL(name##_32, 32, Args, function)

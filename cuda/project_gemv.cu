// Last projections for few tokens: out = residual + sum over c of a[c] * W[kept[c], :] + bias (paper section 3.4).
//   With a low-rank product (compensation of pruned channels: ours) + sum over l < r of z[l] * X[l, :] + X[r, :].
// a (T, C) element, weight (., H) element, stored transposed, kept u32 or null, bias (H) f32 or null, residual (T, H)
// element or null, z (T, r) element, X (r + 1, H) element or null -> out (T, H) element; T <= 16
// Launch: ceil(H / 32) blocks of 256 threads, 512 where there are fewer than 64 blocks.
// Registers: at most 128. Static shared memory: 33920 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 C H + (2 T + 4) C ceil(H / 32) + 2 T H, writes 2 T H
//   and with a low-rank product 2 (r + 1) T H + 2 T r ceil(H / 32) more
//   (a and kept from L1 or L2 but for the first time; without kept 4 C, without residual 2 T H less; one to eight tokens
//   take the kernel of 8, which has half the shared memory)
// Bank conflicts: none.
// Accumulation: f32 in the mma, channels of a warp ascending; then warps ascending, bias, columns of z, X[r], residual.
// Test: gpu_ops::gemv, gpu_ops::project
#include "gemv.cuh"

// A block owns 32 columns, so that hidden_size columns fill a GPU without blocks that share outputs; the sectors of a
// weight row that neighbouring blocks read come into L2 together. A warp takes 16 channels of them at a time: lane
// 4 g + t has channels 4 t to 4 t + 3 in columns 4 g to 4 g + 3, 8 bytes each.
constexpr int SLAB = 32, CHANNELS = 16;

template <int N> struct ChannelStage {
  uint32_t w[4][2], a[N][2];
};

template <class T, int N> struct Channels {
  const ProjectGemvArgs& p;
  const T* a[N];
  const T* weight;  // at this lane's columns
  int columns;      // how many of them there are
  int warp, warps, lane;

  __device__ __forceinline__ explicit Channels(const ProjectGemvArgs& args) : p(args) {
    lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const int g = lane >> 2, column = blockIdx.x * SLAB + 4 * g;
    weight = (const T*)p.weight + column;
    columns = p.out_features - column;
#pragma unroll
    for (int n = 0; n < N; n++) a[n] = (const T*)p.a + (size_t)min(8 * n + g, p.rows - 1) * p.in_features;
  }
  // The first channel of this warp's i-th tile.
  __device__ __forceinline__ int channel(int i) const { return CHANNELS * (i * warps + warp); }
  // Weight rows of 2 K tiles: channel l % 16 of tiles l / 16, l / 16 + 2, ... for lane l.
  template <int K> __device__ __forceinline__ void find(int (&rows)[K], int tile) const {
    int j[K];
#pragma unroll
    for (int k = 0; k < K; k++) j[k] = channel(tile + 2 * k + lane / 16) + lane % 16;
    kept_rows(p.kept, p.block_width, p.in_features, j, rows);
  }
  // Tile s of those that `find` found from `tile` on.
  template <bool WEIGHT_ALIGNED, bool A_ALIGNED, int K>
  __device__ __forceinline__ void load(ChannelStage<N>& stage, const int (&rows)[K], int tile, int s) const {
    const int t = lane & 3, c = channel(tile + s) + 4 * t;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = __shfl_sync(FULL_WARP, rows[s / 2], s % 2 * 16 + 4 * t + i);
      const T* from = weight + (size_t)max(row, 0) * p.out_features;
      if (WEIGHT_ALIGNED) {
        load_once(stage.w[i], from, row >= 0 && columns > 0);
      } else {
        load_single(stage.w[i], from, 0, row < 0 ? 0 : columns);
      }
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
      if (A_ALIGNED) {
        load_again(stage.a[n], a[n] + c, c < p.in_features);
      } else {
        load_single(stage.a[n], a[n], c, p.in_features);
      }
    }
  }
  // Tile m of the sums has column 4 g + 2 m in its row g and column 4 g + 2 m + 1 in its row g + 8.
  static __device__ __forceinline__ void add(float (&sums)[2][N][4], const ChannelStage<N>& s) {
#pragma unroll
    for (int m = 0; m < 2; m++) {
      const uint32_t w[4] = {__byte_perm(s.w[0][m], s.w[1][m], 0x5410), __byte_perm(s.w[0][m], s.w[1][m], 0x7632),
                             __byte_perm(s.w[2][m], s.w[3][m], 0x5410), __byte_perm(s.w[2][m], s.w[3][m], 0x7632)};
#pragma unroll
      for (int n = 0; n < N; n++) mma(T{}, sums[m][n], w, s.a[n][0], s.a[n][1]);
    }
  }

  // Adds this warp's channels; DEPTH tiles are under way, and the rows of the DEPTH after them.
  template <int DEPTH, bool WEIGHT_ALIGNED, bool A_ALIGNED>
  __device__ __forceinline__ void multiply(float (&sums)[2][N][4]) const {
    ChannelStage<N> stage[DEPTH];
    int rows[DEPTH / 2], next[DEPTH / 2];
    find(rows, 0);
    find(next, DEPTH);
#pragma unroll
    for (int s = 0; s < DEPTH; s++) load<WEIGHT_ALIGNED, A_ALIGNED>(stage[s], rows, 0, s);
#pragma unroll 1
    for (int tile = 0; channel(tile) < p.in_features; tile += DEPTH) {
#pragma unroll
      for (int k = 0; k < DEPTH / 2; k++) rows[k] = next[k];
      find(next, tile + 2 * DEPTH);
#pragma unroll
      for (int s = 0; s < DEPTH; s++) {
        add(sums, stage[s]);
        load<WEIGHT_ALIGNED, A_ALIGNED>(stage[s], rows, tile + DEPTH, s);
      }
    }
  }
};

template <class T> __device__ __forceinline__ float low_rank_sum(const ProjectGemvArgs& p, int token, int column) {
  const T *z = (const T*)p.z + (size_t)token * p.rank, *low_rank = (const T*)p.low_rank + column;
  float sum = 0.f;
#pragma unroll 8
  for (int l = 0; l < p.rank; l++) sum += to_float(z[l]) * to_float(low_rank[(size_t)l * p.out_features]);
  return sum + to_float(low_rank[(size_t)p.rank * p.out_features]);
}

template <class T, int N, int DEPTH> __device__ __forceinline__ void project_gemv(const ProjectGemvArgs& p) {
  __shared__ float partial[MAX_WARPS * PART<2, N>];
  const Channels<T, N> channels(p);
  float sums[2][N][4] = {};
  if (p.out_features % 4) {
    channels.template multiply<2, false, false>(sums);
  } else if (p.in_features % 4) {
    channels.template multiply<4, true, false>(sums);
  } else {
    channels.template multiply<DEPTH, true, true>(sums);
  }
  leave_part<2, N>(partial, sums);
  __syncthreads();
  for (int at = threadIdx.x; at < SLAB * p.rows; at += blockDim.x) {
    const int r = at % SLAB, token = at / SLAB, column = blockIdx.x * SLAB + r;
    if (column >= p.out_features) continue;
    float v = total<2, N>(partial, r % 4 / 2, r / 4 + r % 2 * 8, token);
    const size_t to = (size_t)token * p.out_features + column;
    if (p.bias) v += p.bias[column];
    if (p.low_rank) v += low_rank_sum<T>(p, token, column);
    if (p.residual) v += to_float(((const T*)p.residual)[to]);
    ((T*)p.out)[to] = round_to(T{}, v);
  }
}

#define KERNEL(name, tokens, depth)                                                                 \
  extern "C" __global__ void __launch_bounds__(32 * MAX_WARPS) name##_bf16(ProjectGemvArgs p) {     \
    project_gemv<bf16, tokens / 8, depth>(p);                                                       \
  }                                                                                                 \
  extern "C" __global__ void __launch_bounds__(32 * MAX_WARPS) name##_f16(ProjectGemvArgs p) {      \
    project_gemv<f16, tokens / 8, depth>(p);                                                        \
  }
KERNEL(project_gemv_8, 8, 8)
KERNEL(project_gemv_16, 16, 6)

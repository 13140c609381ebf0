// First projections and the head for few tokens: out = activation(x * W[kept]^T + bias[kept]) * scale (paper section 3.4).
// x (T, H) element, weight (., H) element, bias (.) f32 or null, kept u32 or null -> out (T, F) element or f32; T <= 16
// Launch: ceil(F / 32) blocks of 256 threads, 512 where there are fewer than 64 blocks.
// Registers: at most 128. Static shared memory: 33920 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 F H + 2 T H ceil(F / 32), writes 2 T F (logits: 4 T F)
//   (x from L1 or L2 but for the first time; one to eight tokens take the kernel of 8, which has half the shared memory)
// Bank conflicts: none.
// Accumulation: f32 in the mma, columns of a warp ascending; then warps ascending.
// Test: gpu_ops::gemv, gpu_ops::linear
#include "activation.cuh"
#include "gemv.cuh"

constexpr int TILE = 32;

template <class T, int N, int DEPTH> __device__ __forceinline__ void linear_gemv(const LinearGemvArgs& p) {
  __shared__ float partial[MAX_WARPS * PART<2, N>];
  const int first = blockIdx.x * TILE, g = (threadIdx.x & 31) >> 2;
  Rows<T, 2, N> rows;
  rows.in_features = p.in_features;
  rows.set_x(p.x, p.rows);
  int row[4];
  kept_rows(p.kept, p.block_width, p.out_features, {first + g, first + 8 + g, first + 16 + g, first + 24 + g}, row);
#pragma unroll
  for (int i = 0; i < 4; i++) rows.set(i / 2, i % 2, p.weight, row[i]);
  float sums[2][N][4] = {};
  rows.template multiply<DEPTH>(sums);
  leave_part<2, N>(partial, sums);
  __syncthreads();
  for (int at = threadIdx.x; at < TILE * p.rows; at += blockDim.x) {
    const int r = at % TILE, token = at / TILE, j = first + r;
    if (j >= p.out_features) continue;
    float v = total<2, N>(partial, r / 16, r % 16, token);
    if (p.bias) {
      const int row = kept_row(p.kept, p.block_width, p.out_features, j);
      if (row >= 0) v += p.bias[row];
    }
    v = activate(v, p.activation) * p.scale;
    const size_t to = (size_t)token * p.out_features + j;
    if (p.logits) {
      p.logits[to] = v;
    } else {
      ((T*)p.out)[to] = round_to(T{}, v);
    }
  }
}

#define KERNEL(name, tokens, depth)                                                                 \
  extern "C" __global__ void __launch_bounds__(32 * MAX_WARPS) name##_bf16(LinearGemvArgs p) {      \
    linear_gemv<bf16, tokens / 8, depth>(p);                                                        \
  }                                                                                                 \
  extern "C" __global__ void __launch_bounds__(32 * MAX_WARPS) name##_f16(LinearGemvArgs p) {       \
    linear_gemv<f16, tokens / 8, depth>(p);                                                         \
  }
KERNEL(linear_gemv_8, 8, 4)
KERNEL(linear_gemv_16, 16, 3)

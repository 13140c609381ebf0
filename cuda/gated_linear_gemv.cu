// Gate and up for few tokens: out = activation(x * gate[kept]^T + gate bias) * (x * up[kept]^T + up bias).
// x (T, H) element, gate and up (., H) element, biases (.) f32 or null, kept u32 or null -> out (T, F) element; T <= 16
// Launch: ceil(F / 16) blocks of 256 threads, 512 where there are fewer than 64 blocks.
// Registers: at most 128. Static shared memory: 33920 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 F H + 2 T H ceil(F / 16), writes 2 T F
//   (x from L1 or L2 but for the first time; one to eight tokens take the kernel of 8, which has half the shared memory)
// Bank conflicts: none.
// Accumulation: f32 in the mma, columns of a warp ascending; then warps ascending.
// Test: gpu_ops::gemv, gpu_ops::linear
#include "activation.cuh"
#include "gemv.cuh"

constexpr int TILE = 16;

template <class T, int N, int DEPTH> __device__ __forceinline__ void gated_linear_gemv(const LinearGemvArgs& p) {
  __shared__ float partial[MAX_WARPS * PART<2, N>];
  const int first = blockIdx.x * TILE, g = (threadIdx.x & 31) >> 2;
  // Tile 0 is of the gate, tile 1 the same rows of up.
  Rows<T, 2, N> rows;
  rows.in_features = p.in_features;
  rows.set_x(p.x, p.rows);
  int row[2];
  kept_rows(p.kept, p.block_width, p.out_features, {first + g, first + 8 + g}, row);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    rows.set(0, half, p.weight, row[half]);
    rows.set(1, half, p.up, row[half]);
  }
  float sums[2][N][4] = {};
  rows.template multiply<DEPTH>(sums);
  leave_part<2, N>(partial, sums);
  __syncthreads();
  for (int at = threadIdx.x; at < TILE * p.rows; at += blockDim.x) {
    const int r = at % TILE, token = at / TILE, j = first + r;
    if (j >= p.out_features) continue;
    float gate = total<2, N>(partial, 0, r, token), up = total<2, N>(partial, 1, r, token);
    if (p.bias || p.up_bias) {
      const int row = kept_row(p.kept, p.block_width, p.out_features, j);
      if (row >= 0 && p.bias) gate += p.bias[row];
      if (row >= 0 && p.up_bias) up += p.up_bias[row];
    }
    ((T*)p.out)[(size_t)token * p.out_features + j] = round_to(T{}, activate(gate, p.activation) * up);
  }
}

#define KERNEL(name, tokens, depth)                                                                 \
  extern "C" __global__ void __launch_bounds__(32 * MAX_WARPS) name##_bf16(LinearGemvArgs p) {      \
    gated_linear_gemv<bf16, tokens / 8, depth>(p);                                                  \
  }                                                                                                 \
  extern "C" __global__ void __launch_bounds__(32 * MAX_WARPS) name##_f16(LinearGemvArgs p) {       \
    gated_linear_gemv<f16, tokens / 8, depth>(p);                                                   \
  }
KERNEL(gated_linear_gemv_8, 8, 4)
KERNEL(gated_linear_gemv_16, 16, 3)

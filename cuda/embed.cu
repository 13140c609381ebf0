// Token embeddings, with OPT's learned positions added: out[t] = table[tokens[t]] (+ position_table[positions[t]]).
// tokens (T) u32, table (V, H) element, positions (T) u32, position_table (., H) element or null -> out (T, H) element
// Launch: T blocks of ceil(H / 8) threads, rounded up to whole warps, 256 at most.
// Registers: at most 32. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 T H + 256 T (twice that with positions), writes 2 T H
//   (each of up to 8 warps reads the sector that holds its token)
// Bank conflicts: none.
// Accumulation: one f32 addition.
// Test: gpu_ops::embed
#include "device.cuh"

constexpr int MAX_THREADS = 256;

template <class T> __device__ __forceinline__ void embed(const EmbedArgs& p) {
  const int row = blockIdx.x;
  const T* from = (const T*)p.table + (size_t)p.tokens[row] * p.embedding_dim;
  const T* position = p.position_table ? (const T*)p.position_table + (size_t)p.positions[row] * p.embedding_dim : nullptr;
  T* out = (T*)p.out + (size_t)row * p.embedding_dim;
  if (p.embedding_dim % 8) {
    for (int c = threadIdx.x; c < p.embedding_dim; c += blockDim.x) {
      out[c] = position ? round_to(T{}, to_float(from[c]) + to_float(position[c])) : from[c];
    }
    return;
  }
#pragma unroll 2
  for (int c = 8 * threadIdx.x; c < p.embedding_dim; c += 8 * blockDim.x) {
    Vector8<T> v = load8(from + c);
    if (position) {
      float x[8], y[8];
      unpack(v, x);
      unpack(load8(position + c), y);
#pragma unroll
      for (int k = 0; k < 8; k++) x[k] += y[k];
      v = pack8<T>(x);
    }
    *(Vector8<T>*)(out + c) = v;
  }
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS) embed_bf16(EmbedArgs p) { embed<bf16>(p); }
extern "C" __global__ void __launch_bounds__(MAX_THREADS) embed_f16(EmbedArgs p) { embed<f16>(p); }

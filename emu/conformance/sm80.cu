// One tiny kernel per primitive of sm_80. All take words in and give words out; what they have to give is in cases/.
#include <stdint.h>

struct Words { const uint32_t* in; uint32_t* out; };
#define KERNEL(name) extern "C" __global__ void name(Words p)
#define LANE (threadIdx.x & 31)
#define ALL 0xffffffffu

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// out[op * n + i] = op(in[i], in[n + i], in[2 n + i]), n threads.
#define ALU3(slot, text) asm volatile(text : "=r"(r) : "r"(a), "r"(b), "r"(c)); p.out[(slot) * blockDim.x + i] = r;
#define ALU2(slot, text) asm volatile(text : "=r"(r) : "r"(a), "r"(b)); p.out[(slot) * blockDim.x + i] = r;
#define ALU1(slot, text) asm volatile(text : "=r"(r) : "r"(a)); p.out[(slot) * blockDim.x + i] = r;

KERNEL(integer) {
  const unsigned i = threadIdx.x, n = blockDim.x;
  uint32_t a = p.in[i], b = p.in[n + i], c = p.in[2 * n + i], r;
  ALU2(0, "add.s32 %0, %1, %2;") ALU2(1, "sub.s32 %0, %1, %2;") ALU2(2, "mul.lo.s32 %0, %1, %2;")
  ALU2(3, "mul.hi.u32 %0, %1, %2;") ALU2(4, "mul.hi.s32 %0, %1, %2;") ALU3(5, "mad.lo.s32 %0, %1, %2, %3;")
  ALU2(6, "min.s32 %0, %1, %2;") ALU2(7, "max.u32 %0, %1, %2;") ALU1(8, "abs.s32 %0, %1;") ALU1(9, "neg.s32 %0, %1;")
  ALU2(10, "shl.b32 %0, %1, %2;") ALU2(11, "shr.u32 %0, %1, %2;") ALU2(12, "shr.s32 %0, %1, %2;")
  ALU1(13, "popc.b32 %0, %1;") ALU1(14, "clz.b32 %0, %1;") ALU1(15, "brev.b32 %0, %1;")
  ALU1(16, "bfind.u32 %0, %1;") ALU1(17, "bfind.s32 %0, %1;") ALU1(18, "bfind.shiftamt.u32 %0, %1;")
  ALU3(19, "lop3.b32 %0, %1, %2, %3, 0xe8;") ALU3(20, "sad.s32 %0, %1, %2, %3;")
}

KERNEL(bitfield) {
  const unsigned i = threadIdx.x, n = blockDim.x;
  uint32_t a = p.in[i], b = p.in[n + i], c = p.in[2 * n + i], r;
  ALU3(0, "bfe.u32 %0, %1, %2, %3;") ALU3(1, "bfe.s32 %0, %1, %2, %3;")
  asm volatile("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(0x11111111u), "r"(b), "r"(c)); p.out[2 * n + i] = r;
}

KERNEL(permute) {
  const unsigned i = threadIdx.x, n = blockDim.x;
  uint32_t a = p.in[i], b = p.in[n + i], c = p.in[2 * n + i], r;
  ALU3(0, "prmt.b32 %0, %1, %2, %3;") ALU3(1, "shf.l.wrap.b32 %0, %1, %2, %3;") ALU3(2, "shf.r.wrap.b32 %0, %1, %2, %3;")
  ALU3(3, "shf.l.clamp.b32 %0, %1, %2, %3;") ALU3(4, "shf.r.clamp.b32 %0, %1, %2, %3;")
}

KERNEL(wide) {  // 64-bit products, sums and shifts, low and high words
  const unsigned i = threadIdx.x, n = blockDim.x;
  uint32_t a = p.in[i], b = p.in[n + i];
  uint64_t r, x = (uint64_t)a << 32 | b;
#define PUT(slot) p.out[2 * (slot) * n + i] = (uint32_t)r; p.out[(2 * (slot) + 1) * n + i] = (uint32_t)(r >> 32);
  asm volatile("mul.wide.u32 %0, %1, %2;" : "=l"(r) : "r"(a), "r"(b)); PUT(0)
  asm volatile("mul.wide.s32 %0, %1, %2;" : "=l"(r) : "r"(a), "r"(b)); PUT(1)
  asm volatile("mad.wide.u32 %0, %1, %2, %3;" : "=l"(r) : "r"(a), "r"(b), "l"(x)); PUT(2)
  asm volatile("shr.s64 %0, %1, %2;" : "=l"(r) : "l"(x), "r"(b & 127)); PUT(3)
  asm volatile("shl.b64 %0, %1, %2;" : "=l"(r) : "l"(x), "r"(b & 127)); PUT(4)
  asm volatile("mul.hi.u64 %0, %1, %2;" : "=l"(r) : "l"(x), "l"(~x)); PUT(5)
}

#define F1(slot, text) asm volatile(text : "=f"(r) : "f"(a)); p.out[(slot) * n + i] = __float_as_uint(r);
#define F2(slot, text) asm volatile(text : "=f"(r) : "f"(a), "f"(b)); p.out[(slot) * n + i] = __float_as_uint(r);
KERNEL(single) {
  const unsigned i = threadIdx.x, n = blockDim.x;
  float a = __uint_as_float(p.in[i]), b = __uint_as_float(p.in[n + i]), c = __uint_as_float(p.in[2 * n + i]), r;
  F2(0, "add.f32 %0, %1, %2;") F2(1, "mul.f32 %0, %1, %2;")
  asm volatile("fma.rn.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(a), "f"(b), "f"(c)); p.out[2 * n + i] = __float_as_uint(r);
  F2(3, "min.f32 %0, %1, %2;") F2(4, "max.f32 %0, %1, %2;") F2(5, "div.rn.f32 %0, %1, %2;") F1(6, "sqrt.rn.f32 %0, %1;")
  F1(7, "add.sat.f32 %0, %1, 0f00000000;") F1(8, "add.ftz.f32 %0, %1, 0f00000000;")
}
KERNEL(approximate) {
  const unsigned i = threadIdx.x, n = blockDim.x;
  float a = __uint_as_float(p.in[i]), r;
  F1(0, "ex2.approx.f32 %0, %1;") F1(1, "lg2.approx.f32 %0, %1;") F1(2, "rsqrt.approx.f32 %0, %1;")
  F1(3, "rcp.approx.f32 %0, %1;") F1(4, "sqrt.approx.f32 %0, %1;") F1(5, "sin.approx.f32 %0, %1;")
  F1(6, "cos.approx.f32 %0, %1;") F1(7, "tanh.approx.f32 %0, %1;")
}

KERNEL(convert) {
  const unsigned i = threadIdx.x, n = blockDim.x;
  float a = __uint_as_float(p.in[i]);
  uint32_t r;
  uint16_t h;
#define C(slot, text) asm volatile(text : "=r"(r) : "f"(a)); p.out[(slot) * n + i] = r;
  C(0, "cvt.rni.s32.f32 %0, %1;") C(1, "cvt.rzi.s32.f32 %0, %1;") C(2, "cvt.rmi.s32.f32 %0, %1;")
  C(3, "cvt.rpi.s32.f32 %0, %1;") C(4, "cvt.rzi.u32.f32 %0, %1;") C(5, "cvt.rna.tf32.f32 %0, %1;")
  asm volatile("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(a)); p.out[6 * n + i] = h;
  asm volatile("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(a)); p.out[7 * n + i] = h;
  asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(a), "f"(1.f)); p.out[8 * n + i] = r;
  asm volatile("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(1.f), "f"(a)); p.out[9 * n + i] = r;
}

KERNEL(packed_half) {
  const unsigned i = threadIdx.x, n = blockDim.x;
  uint32_t a = p.in[i], b = p.in[n + i], c = p.in[2 * n + i], r;
  ALU3(0, "fma.rn.bf16x2 %0, %1, %2, %3;") ALU3(1, "fma.rn.f16x2 %0, %1, %2, %3;") ALU2(2, "add.f16x2 %0, %1, %2;")
  ALU2(3, "mul.f16x2 %0, %1, %2;") ALU2(4, "max.bf16x2 %0, %1, %2;") ALU1(5, "neg.f16x2 %0, %1;")
}

KERNEL(compare) {  // bit per comparison of floats, NaN included
  const unsigned i = threadIdx.x, n = blockDim.x;
  float a = __uint_as_float(p.in[i]), b = __uint_as_float(p.in[n + i]);
  uint32_t all = 0, r;
#define S(bit, op) asm volatile("{ .reg .pred q; setp." op ".f32 q, %1, %2; selp.u32 %0, 1, 0, q; }" : "=r"(r) : "f"(a), "f"(b)); all |= r << bit;
  S(0, "eq") S(1, "ne") S(2, "lt") S(3, "le") S(4, "gt") S(5, "ge") S(6, "equ") S(7, "neu") S(8, "ltu") S(9, "geu") S(10, "num") S(11, "nan")
  p.out[i] = all;
}

KERNEL(shuffle) {
  uint32_t r, v = 100 + LANE;
  p.out[LANE] = __shfl_up_sync(ALL, v, 3);
  p.out[32 + LANE] = __shfl_down_sync(ALL, v, 5);
  p.out[64 + LANE] = __shfl_xor_sync(ALL, v, 6);
  p.out[96 + LANE] = __shfl_sync(ALL, v, 7);
  p.out[128 + LANE] = __shfl_up_sync(ALL, v, 3, 8);
  p.out[160 + LANE] = __shfl_down_sync(ALL, v, 5, 16);
  p.out[192 + LANE] = __shfl_xor_sync(ALL, v, 6, 4);
  p.out[224 + LANE] = __shfl_sync(ALL, v, 7, 4);
  asm volatile("{ .reg .pred q; shfl.sync.down.b32 %0|q, %1, 4, 31, -1; selp.u32 %0, 1, 0, q; }" : "=r"(r) : "r"(v));
  p.out[256 + LANE] = r;
}
KERNEL(vote) {
  const bool odd = LANE & 1;
  p.out[LANE] = __ballot_sync(ALL, odd);
  p.out[32 + LANE] = __all_sync(ALL, odd) | __any_sync(ALL, odd) << 1 | __all_sync(ALL, LANE < 32) << 2 | __any_sync(ALL, LANE > 40) << 3;
  p.out[64 + LANE] = __match_any_sync(ALL, LANE / 5);
  int same;
  p.out[96 + LANE] = __match_all_sync(ALL, LANE / 32, &same);
  p.out[128 + LANE] = same;
  if (LANE < 12) p.out[160 + LANE] = __ballot_sync(0xfffu, LANE % 3 == 0);
}
KERNEL(redux) {
  const int v = (int)p.in[LANE];
  p.out[LANE] = __reduce_add_sync(ALL, (unsigned)v);
  p.out[32 + LANE] = __reduce_min_sync(ALL, v);
  p.out[64 + LANE] = __reduce_max_sync(ALL, (unsigned)v);
  p.out[96 + LANE] = __reduce_xor_sync(ALL, (unsigned)v);
}

KERNEL(loads) {  // narrow loads extend, vectors keep their order
  const int8_t* b = (const int8_t*)p.in;
  const int16_t* h = (const int16_t*)p.in;
  p.out[LANE] = (uint32_t)(int)b[LANE];
  p.out[32 + LANE] = (uint32_t)(uint8_t)b[LANE];
  p.out[64 + LANE] = (uint32_t)(int)h[LANE];
  const uint4 v = ((const uint4*)p.in)[LANE & 3];
  p.out[96 + LANE] = v.x ^ v.y << 1 ^ v.z << 2 ^ v.w << 3;
}
KERNEL(atomics) {  // all lanes on one word per operation
  if (LANE == 0) for (int i = 0; i < 9; i++) p.out[i] = 1000;
  __syncwarp();
  atomicAdd(p.out, LANE); atomicMin((int*)p.out + 1, (int)LANE - 5); atomicMax(p.out + 2, 990 + LANE);
  atomicOr(p.out + 3, 1u << LANE); atomicAnd(p.out + 4, ~(1u << LANE)); atomicXor(p.out + 5, 3u << LANE);
  atomicInc(p.out + 6, 1003); atomicDec(p.out + 7, 2000); atomicCAS(p.out + 8, 1000, 2000);
}

KERNEL(cp_async_zero_fill) {
  __shared__ __align__(16) uint32_t s[32 * 4];
  const int bytes = (int)LANE % 17;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\ncp.async.commit_group;\ncp.async.wait_group 0;"
               ::"r"(shared_address(s + 4 * LANE)), "l"(p.in + 4 * LANE), "r"(bytes) : "memory");
  for (int i = 0; i < 4; i++) p.out[4 * LANE + i] = s[4 * LANE + i];
}
KERNEL(named_barrier) {  // warp 1 arrives without waiting, warp 0 waits for its data
  __shared__ uint32_t s[32];
  if (threadIdx.x >= 32) {
    s[LANE] = p.in[LANE];
    __threadfence_block();
    asm volatile("bar.arrive 3, 64;" ::: "memory");
  } else {
    asm volatile("bar.sync 3, 64;" ::: "memory");
    p.out[LANE] = s[31 - LANE];
  }
}

KERNEL(barrier_reductions) {  // 64 threads
  const int count = __syncthreads_count(threadIdx.x % 3 == 0);
  const int all = __syncthreads_and(threadIdx.x < 64), none = __syncthreads_or(threadIdx.x > 64);
  p.out[threadIdx.x] = count | all << 8 | none << 9;
}

template <bool T> __device__ __forceinline__ void matrix_load(const Words& p) {  // in: four 8x8 matrices of halves
  __shared__ __align__(16) uint32_t s[128];
  for (int i = LANE; i < 128; i += 32) s[i] = p.in[i];
  __syncwarp();
  uint32_t r[4];
  const uint32_t at = shared_address(s + 4 * LANE);
  if (T) asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
  else asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
  for (int i = 0; i < 4; i++) p.out[32 * i + LANE] = r[i];
}
KERNEL(ldmatrix) { matrix_load<false>(p); }
KERNEL(ldmatrix_trans) { matrix_load<true>(p); }

// in: A, B and C registers of each lane, register by register; out: D registers.
#define IN(i) p.in[32 * (i) + LANE]
#define INF(i) __uint_as_float(IN(i))
#define MMA16(name, types) KERNEL(name) { \
  float d[4]; \
  asm volatile("mma.sync.aligned.m16n8k16.row.col." types " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};" \
    : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(IN(0)), "r"(IN(1)), "r"(IN(2)), "r"(IN(3)), "r"(IN(4)), "r"(IN(5)), \
      "f"(INF(6)), "f"(INF(7)), "f"(INF(8)), "f"(INF(9))); \
  for (int i = 0; i < 4; i++) p.out[32 * i + LANE] = __float_as_uint(d[i]); }
MMA16(mma_bf16_k16, "f32.bf16.bf16.f32")
MMA16(mma_f16_k16, "f32.f16.f16.f32")
#define MMA8(name, shape, types, a) KERNEL(name) { \
  float d[4]; \
  asm volatile("mma.sync.aligned." shape ".row.col." types " {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};" \
    : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(IN(0)), "r"(IN(1)), "r"(IN(2)), "f"(INF(3)), "f"(INF(4)), "f"(INF(5)), "f"(INF(6))); \
  for (int i = 0; i < 4; i++) p.out[32 * i + LANE] = __float_as_uint(d[i]); }
MMA8(mma_bf16_k8, "m16n8k8", "f32.bf16.bf16.f32", 2)
MMA8(mma_f16_k8, "m16n8k8", "f32.f16.f16.f32", 2)
KERNEL(mma_tf32_k8) {
  float d[4];
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
    : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(IN(0)), "r"(IN(1)), "r"(IN(2)), "r"(IN(3)), "r"(IN(4)), "r"(IN(5)),
      "f"(INF(6)), "f"(INF(7)), "f"(INF(8)), "f"(INF(9)));
  for (int i = 0; i < 4; i++) p.out[32 * i + LANE] = __float_as_uint(d[i]);
}
KERNEL(mma_f16_accumulators) {
  uint32_t d[2];
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%8,%9};"
    : "=r"(d[0]), "=r"(d[1]) : "r"(IN(0)), "r"(IN(1)), "r"(IN(2)), "r"(IN(3)), "r"(IN(4)), "r"(IN(5)), "r"(IN(6)), "r"(IN(7)));
  p.out[LANE] = d[0]; p.out[32 + LANE] = d[1];
}

// One tiny kernel per primitive of sm_90a. Words in, words out, as in sm80.cu; bulk tensor copies take a tensor map first.
#include "args.h"
#include "primitives.cuh"

struct Words { const uint32_t* in; uint32_t* out; };
#define KERNEL(name) extern "C" __global__ void name(Words p)
#define TENSOR_KERNEL(name) extern "C" __global__ void name(const __grid_constant__ TensorMap map, Words p)
#define LANE (threadIdx.x & 31)

KERNEL(stmatrix) {
  __shared__ __align__(16) uint32_t s[128];
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};"
               ::"r"(shared_address(s + 4 * LANE)), "r"(p.in[LANE]), "r"(p.in[32 + LANE]), "r"(p.in[64 + LANE]), "r"(p.in[96 + LANE]) : "memory");
  __syncwarp();
  for (int i = LANE; i < 128; i += 32) p.out[i] = s[i];
}

KERNEL(elect) {
  uint32_t is;
  asm volatile("{ .reg .pred q; elect.sync _|q, -1; selp.u32 %0, 1, 0, q; }" : "=r"(is));
  p.out[LANE] = is;
}

// Two threads hand a word to and fro; out: what each saw, in order.
KERNEL(mbarrier_phases) {
  __shared__ uint64_t ping, pong;
  __shared__ uint32_t word;
  if (threadIdx.x == 0) { mbarrier_init(&ping, 1); mbarrier_init(&pong, 1); }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 0; i < 6; i++) {
      word = p.in[i];
      mbarrier_arrive(&ping);
      mbarrier_wait(&pong, i & 1);
      p.out[i] = word;
    }
  } else if (threadIdx.x == 32) {
    for (int i = 0; i < 6; i++) {
      mbarrier_wait(&ping, i & 1);
      word = word * 2 + i;
      mbarrier_arrive(&pong);
    }
  }
}

KERNEL(bulk_copy) {  // 512 bytes in and out
  __shared__ __align__(128) uint32_t s[128];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    mbarrier_init(&bar, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(&bar, 512);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(shared_address(s)), "l"(p.in), "r"(512), "r"(shared_address(&bar)) : "memory");
    mbarrier_wait(&bar, 0);
    s[5] += 1;
    fence_proxy_async();
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(p.out), "r"(shared_address(s)), "r"(512) : "memory");
    bulk_commit();
    bulk_wait<0>();
  }
}

// A box at coordinates in[0], in[1]; out: shared memory as it is, `bytes` of it.
__device__ __forceinline__ void load_box(const TensorMap& map, const Words& p, int bytes) {
  extern __shared__ __align__(1024) uint32_t box[];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    mbarrier_init(&bar, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(&bar, bytes);
    tma_load_2d(box, &map, (int)p.in[0], (int)p.in[1], &bar);
  }
  __syncthreads();
  mbarrier_wait(&bar, 0);
  for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) p.out[i] = box[i];
}
TENSOR_KERNEL(tensor_load_128) { load_box(map, p, 128 * 8); }
TENSOR_KERNEL(tensor_load_64) { load_box(map, p, 64 * 8); }
TENSOR_KERNEL(tensor_load_32) { load_box(map, p, 32 * 8); }

TENSOR_KERNEL(tensor_store) {  // 8 rows of 16 words, some outside the tensor
  __shared__ __align__(128) uint32_t box[128];
  for (int i = LANE; i < 128; i += 32) box[i] = 1000 + i;
  fence_proxy_async();
  __syncwarp();
  if (LANE == 0) {
    tma_store_2d(&map, box, (int)p.in[0], (int)p.in[1]);
    bulk_commit();
    bulk_wait<0>();
  }
}

// in: 0 leading and 1 stride bytes, 2 swizzle code of A; 3, 4, 5 of B; 6 bytes of A; from 16 on the images of A and B in shared memory.
// out: the 64x16 product as each thread holds it, register by register.
template <int TA, int TB, bool F16> __device__ __forceinline__ void product(const Words& p, const uint32_t* a_regs) {
  extern __shared__ __align__(1024) uint32_t image[];
  const unsigned a_bytes = p.in[6], words = p.in[7] / 4;
  for (unsigned i = threadIdx.x; i < words; i += blockDim.x) image[i] = p.in[16 + i];
  fence_proxy_async();
  __syncthreads();
  const uint64_t a = wgmma_descriptor(image, p.in[0], p.in[1], p.in[2]);
  const uint64_t b = wgmma_descriptor(image + a_bytes / 4, p.in[3], p.in[4], p.in[5]);
  float d[8] = {1.f, 1.f, 1.f, 1.f, 1.f, 1.f, 1.f, 1.f};
  for (int i = 0; i < 8; i++) wgmma_pin(d[i]);
  wgmma_fence();
#define ACC "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define HEAD(t) "{\n.reg .pred q;\nsetp.ne.b32 q, 1, 0;\nwgmma.mma_async.sync.aligned.m64n16k16.f32." t "." t " {%0,%1,%2,%3,%4,%5,%6,%7}, "
  if (a_regs) {
    if (F16) asm volatile(HEAD("f16") "{%8,%9,%10,%11}, %12, q, 1, 1, %13;\n}" : ACC : "r"(a_regs[0]), "r"(a_regs[1]), "r"(a_regs[2]), "r"(a_regs[3]), "l"(b), "n"(TB));
    else asm volatile(HEAD("bf16") "{%8,%9,%10,%11}, %12, q, 1, 1, %13;\n}" : ACC : "r"(a_regs[0]), "r"(a_regs[1]), "r"(a_regs[2]), "r"(a_regs[3]), "l"(b), "n"(TB));
  } else {
    if (F16) asm volatile(HEAD("f16") "%8, %9, q, 1, 1, %10, %11;\n}" : ACC : "l"(a), "l"(b), "n"(TA), "n"(TB));
    else asm volatile(HEAD("bf16") "%8, %9, q, 1, 1, %10, %11;\n}" : ACC : "l"(a), "l"(b), "n"(TA), "n"(TB));
  }
  wgmma_commit();
  wgmma_wait<0>();
  for (int i = 0; i < 8; i++) p.out[128 * i + threadIdx.x] = __float_as_uint(d[i]);
}
KERNEL(wgmma_k_major) { product<0, 0, false>(p, nullptr); }
KERNEL(wgmma_mn_major) { product<1, 1, false>(p, nullptr); }
KERNEL(wgmma_f16) { product<0, 1, true>(p, nullptr); }
KERNEL(wgmma_registers) {  // A fragments follow the images
  const uint32_t* r = p.in + 16 + p.in[7] / 4;
  const uint32_t a[4] = {r[threadIdx.x], r[128 + threadIdx.x], r[256 + threadIdx.x], r[384 + threadIdx.x]};
  product<0, 0, false>(p, a);
}

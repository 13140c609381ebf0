// The only place with inline PTX: one small function per instruction.
#pragma once
#include <stdint.h>

#define PRIM __device__ __forceinline__

PRIM uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// ---- dynamic shared memory -------------------------------------------------------------------------------------
// Carves sub-arrays in order. The comment survives into the PTX, where ptx-emu reads the bounds of each sub-array; the
// 16 bytes left free behind each make an overrun by one element fall between two of them.
struct Carver {
  unsigned char* base;
  unsigned offset = 0;
  PRIM explicit Carver(unsigned char* b) : base(b) {}
  template <class T> PRIM T* take(int n, unsigned align = 16) {
    offset = (offset + align - 1) / align * align;
    T* p = reinterpret_cast<T*>(base + offset);
    asm volatile("// ptx-emu.carve %0 %1" ::"r"(shared_address(p)), "r"((unsigned)(n * sizeof(T))));
    offset += n * sizeof(T) + 16;
    return p;
  }
};
#define DYNAMIC_SHARED(name) \
  extern __shared__ __align__(1024) unsigned char dynamic_shared[]; \
  Carver name(dynamic_shared)

// ---- sm_80: cp.async, ldmatrix, mma.sync -------------------------------------------------------------------------
PRIM void cp_async16(void* dst, const void* src, bool real) {
  int n = real ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)), "l"(src), "r"(n) : "memory");
}
PRIM void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> PRIM void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
PRIM void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
PRIM void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(BUG_ASM_OPERANDS)
  const uint32_t a1 = a[2], a2 = a[1];
#else
  const uint32_t a1 = a[1], a2 = a[2];
#endif
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a1), "r"(a2), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- sm_90: mbarrier, bulk tensor copies, wgmma -------------------------------------------------------------------
struct alignas(64) TensorMap { unsigned long long opaque[16]; };

PRIM void mbarrier_init(uint64_t* b, unsigned count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
PRIM void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
PRIM void mbarrier_arrive(uint64_t* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
PRIM void mbarrier_arrive_expect(uint64_t* b, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
PRIM void mbarrier_wait(uint64_t* b, unsigned parity) {
  asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra again;\n}"
               ::"r"(shared_address(b)), "r"(parity) : "memory");
}
PRIM void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
PRIM void tma_load_2d(void* dst, const TensorMap* map, int x, int y, uint64_t* bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
               ::"r"(shared_address(dst)), "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y) : "memory");
}
PRIM void tma_store_2d(const TensorMap* map, const void* src, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
               ::"l"(map), "r"(shared_address(src)), "r"(x), "r"(y) : "memory");
}
PRIM void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N> PRIM void bulk_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }

enum WgmmaSwizzle { WGMMA_NONE = 0, WGMMA_128B = 1, WGMMA_64B = 2, WGMMA_32B = 3 };
PRIM uint64_t wgmma_descriptor(const void* p, unsigned leading, unsigned stride, unsigned swizzle) {
  uint64_t a = shared_address(p);
  return ((a & 0x3ffff) >> 4) | ((uint64_t)(leading >> 4) << 16) | ((uint64_t)(stride >> 4) << 32) | ((uint64_t)swizzle << 62);
}
// Keeps the compiler from moving what is written to an accumulator past the fence that has to cover it.
PRIM void wgmma_pin(float& accumulator) { asm volatile("" : "+f"(accumulator)::"memory"); }
PRIM void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
PRIM void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> PRIM void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
PRIM void wgmma_m64n64k16_bf16(float (&d)[32], uint64_t a, uint64_t b) {
#define D_(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
               "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 0;\n}\n"
               : D_(0), D_(8), D_(16), D_(24) : "l"(a), "l"(b));
#undef D_
}

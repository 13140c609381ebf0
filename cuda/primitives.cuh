// The only place with inline PTX: one small function per instruction. Everything here runs from sm_80 on.
#pragma once
#include <stdint.h>

#define PRIMITIVE __device__ __forceinline__

PRIMITIVE uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// ---- dtypes ----------------------------------------------------------------------------------------------------------
struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

PRIMITIVE float to_float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
PRIMITIVE float to_float(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
// Two floats, rounded to nearest even, as one word: lo in the lower half.
PRIMITIVE uint32_t pack(bf16, float lo, float hi) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
  return y;
}
PRIMITIVE uint32_t pack(f16, float lo, float hi) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
  return y;
}
PRIMITIVE bf16 round_to(bf16, float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
PRIMITIVE f16 round_to(f16, float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// ---- shared memory ---------------------------------------------------------------------------------------------------
// Carves arrays from dynamic shared memory, in order. The comment survives into the PTX, where ptx-emu reads the bounds
// of each array; the 16 bytes left free behind each make an overrun by one element fall between two of them.
// Total: the sum over arrays of (bytes rounded up to the next array's alignment) + 16 each.
struct Carver {
  unsigned char* base;
  unsigned offset = 0;
  PRIMITIVE explicit Carver(unsigned char* b) : base(b) {}
  template <class T> PRIMITIVE T* take(int n, unsigned align = 16) {
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

// Two neighbouring floats in one access; as two stores, which the compiler may make of a float2, they can conflict.
PRIMITIVE void store_shared2(float* p, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(shared_address(p)), "f"(x), "f"(y) : "memory");
}

// ---- asynchronous copies ---------------------------------------------------------------------------------------------
// 16 bytes from global to shared memory past L1; the first `bytes` (0 to 16) are read, the others become 0.
PRIMITIVE void cp_async16(void* dst, const void* src, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)), "l"(src), "r"(bytes) : "memory");
}
PRIMITIVE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most N of this thread's groups are under way; others see the data after the next barrier.
template <int N> PRIMITIVE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// ---- loads of data that a kernel reads once --------------------------------------------------------------------------
// 16 or 8 bytes past L1, which keeps its room for data that is read again; zeros where `valid` is false. L2 fetches the whole
// 128-byte line: its other half is read soon.
PRIMITIVE void load_once(uint32_t (&r)[4], const void* p, bool valid) {
  asm volatile(
      "{.reg .pred valid; setp.ne.u32 valid, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;\n"
      "@valid ld.global.nc.L1::no_allocate.L2::128B.v4.b32 {%0,%1,%2,%3}, [%4];}"
      : "=&r"(r[0]), "=&r"(r[1]), "=&r"(r[2]), "=&r"(r[3]) : "l"(p), "r"((unsigned)valid));
}
PRIMITIVE void load_once(uint32_t (&r)[2], const void* p, bool valid) {
  asm volatile(
      "{.reg .pred valid; setp.ne.u32 valid, %3, 0; mov.b32 %0, 0; mov.b32 %1, 0;\n"
      "@valid ld.global.nc.L1::no_allocate.L2::128B.v2.b32 {%0,%1}, [%2];}"
      : "=&r"(r[0]), "=&r"(r[1]) : "l"(p), "r"((unsigned)valid));
}
// The same through L1.
PRIMITIVE void load_again(uint32_t (&r)[4], const void* p, bool valid) {
  asm volatile(
      "{.reg .pred valid; setp.ne.u32 valid, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;\n"
      "@valid ld.global.nc.v4.b32 {%0,%1,%2,%3}, [%4];}"
      : "=&r"(r[0]), "=&r"(r[1]), "=&r"(r[2]), "=&r"(r[3]) : "l"(p), "r"((unsigned)valid));
}
PRIMITIVE void load_again(uint32_t (&r)[2], const void* p, bool valid) {
  asm volatile(
      "{.reg .pred valid; setp.ne.u32 valid, %3, 0; mov.b32 %0, 0; mov.b32 %1, 0;\n"
      "@valid ld.global.nc.v2.b32 {%0,%1}, [%2];}"
      : "=&r"(r[0]), "=&r"(r[1]) : "l"(p), "r"((unsigned)valid));
}

// A word through L1, `otherwise` where `valid` is false: no branch, so that several can be under way.
PRIMITIVE unsigned load_word(const unsigned* p, bool valid, unsigned otherwise) {
  unsigned y;
  asm volatile(
      "{.reg .pred valid; setp.ne.u32 valid, %2, 0; mov.b32 %0, %3;\n"
      "@valid ld.global.nc.b32 %0, [%1];}"
      : "=&r"(y) : "l"(p), "r"((unsigned)valid), "r"(otherwise));
  return y;
}

// ---- matrices --------------------------------------------------------------------------------------------------------
// Four 8x8 matrices of 16-bit elements; lane i gives the address of a row (16 bytes): matrix i / 8, row i % 8.
PRIMITIVE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
PRIMITIVE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// d (16, 8) += a (16, 16) * b (16, 8), f32 accumulation.
PRIMITIVE void mma(bf16, float (&d)[4], const uint32_t (&a)[4], const uint32_t b0, const uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
PRIMITIVE void mma(f16, float (&d)[4], const uint32_t (&a)[4], const uint32_t b0, const uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- arithmetic ------------------------------------------------------------------------------------------------------
constexpr float LOG2_E = 1.44269504f;
// 2^x, within 2 units in the last place.
PRIMITIVE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// a / b within 2 units in the last place, for every b.
PRIMITIVE float divide_approx(float a, float b) {
  float y;
  asm("div.full.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

//! How fast kernels are interpreted. `simple` reports thread instructions per second of one core.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;

use common::{Gemm, module};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_emu::{Counters, Device, Launch, Module, Settings, Struct};

/// A loop of simple integer and float instructions, with one load per round.
const SIMPLE: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry simple(.param .u64 x, .param .u64 y, .param .u32 rounds)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd5, [y];
    ld.param.u32 %r6, [rounds];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    add.s64 %rd4, %rd5, %rd2;
    mov.u32 %r2, 0;
    mov.f32 %f1, 0f00000000;
again:
    ld.global.f32 %f2, [%rd3];
    fma.rn.f32 %f1, %f2, %f2, %f1;
    mul.lo.s32 %r3, %r1, 7;
    add.s32 %r4, %r3, %r2;
    xor.b32 %r5, %r4, %r1;
    shl.b32 %r4, %r5, 2;
    and.b32 %r5, %r4, 255;
    add.f32 %f3, %f1, %f2;
    add.s32 %r2, %r2, 1;
    setp.lt.s32 %p1, %r2, %r6;
    @%p1 bra again;
    st.global.f32 [%rd4], %f3;
    ret;
}
";

fn simple(m: &Module, settings: &Settings) -> Counters {
    let mut dev = Device::new();
    let x = dev.upload("x", &[1f32; 256]).expect("room");
    let y = dev.alloc("y", 1024).expect("room");
    let args = ptx_emu::Args::new().arg(x).arg(y).arg(1000u32);
    dev.launch(m, "simple", Launch::linear(1, 256, 0), &args, settings).unwrap_or_else(|e| panic!("{e}"))
}

/// Reading and writing a megabyte: what the checker costs most.
fn copy(m: &Module, settings: &Settings) {
    let n = 1 << 18;
    let mut dev = Device::new();
    let x = dev.upload("x", &vec![1f32; n]).expect("room");
    let y = dev.alloc("y", 4 * n).expect("room");
    let args = Struct::new().field(x).field(y).field(0u64).field(1i32).field(n as i32).field(1i32).args();
    dev.launch(m, "copy", Launch::linear(n as u32 / 256, 256, 0), &args, settings)
        .unwrap_or_else(|e| panic!("{e}"));
}

fn bench(c: &mut Criterion) {
    let both = [("unchecked", Settings::unchecked()), ("checked", Settings::default())];
    let (m, mma, wgmma, traffic) =
        (Module::parse(SIMPLE).expect("PTX"), module("gemm_mma"), module("gemm_wgmma"), module("traffic"));
    let g = Gemm::new(128, 256, 256);
    for (name, settings) in both {
        let mut group = c.benchmark_group(name);
        group.sample_size(10);
        group.throughput(Throughput::Elements(simple(&m, &settings).thread_instructions));
        group.bench_function("simple", |b| b.iter(|| black_box(simple(&m, &settings))));
        group.throughput(Throughput::Elements(1 << 18));
        group.bench_function("copy_1MiB", |b| b.iter(|| copy(&traffic, &settings)));
        group.throughput(Throughput::Elements(1));
        group
            .bench_function("gemm_mma_128x256x256", |b| b.iter(|| g.mma(&mma, &settings).expect("no fault")));
        group.bench_function("gemm_wgmma_128x256x256", |b| {
            b.iter(|| g.wgmma(&wgmma, &settings).expect("no fault"))
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
